"""What is written can be read: arguments of networks, states of callbacks and schedules, and checkpoints cut short."""

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli, Result
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.nn import functional

from lit_cifar.runs.card import plain

Fit = Callable[..., Result]


class Pool(enum.Enum):
    MAX = "max"
    MEAN = "mean"


class Linear(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3072, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


class Hinted(Linear):
    """Asserts that each argument is what its hint says."""

    def __init__(
        self,
        num_classes: int = 10,
        layer: type[nn.Module] | None = None,
        function: Callable[[Tensor], Tensor] = functional.silu,
        norm: Callable[..., nn.Module] = nn.LayerNorm,
        inner: nn.Module | None = None,
        pool: Pool = Pool.MEAN,
        weights: Path | None = Path("none.pt"),
        name: str = "resnet18.a1",
        sizes: tuple[int, ...] = (1, 2),
        table: dict[int, str] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(num_classes)
        assert layer is nn.Tanh
        assert callable(function) and isinstance(norm(3), nn.Module)
        assert isinstance(inner, nn.GELU) and inner.approximate == "tanh"
        assert isinstance(pool, Pool) and isinstance(weights, Path)
        assert (name, sizes, table) == ("resnet18.a1", (1, 2), {1: "a"})
        assert dtype is torch.float32 and device == torch.device("cpu")


HINTED = (
    *("--model.net.layer=torch.nn.Tanh", "--model.net.norm=torch.nn.LayerNorm", "--model.net.table={1: a}"),
    *("--model.net.inner=torch.nn.GELU", "--model.net.inner.approximate=tanh", "--model.net.device=cpu"),
)


class Unhinted(Linear):
    """Asserts the same of arguments without hints."""

    def __init__(  # type: ignore[no-untyped-def]
        self, num_classes=10, layer=nn.ReLU, function=functional.silu, pool=Pool.MAX, sizes=(1, 2), name="a.b"
    ) -> None:
        super().__init__(num_classes)
        assert (
            layer is nn.ReLU and function is functional.gelu and pool is Pool.MAX and sizes == (1, 2) and name == "a.b"
        )


class WithLambda(Linear):
    def __init__(self, num_classes: int = 10, function: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__(num_classes)


@pytest.fixture
def root(pictures: Path, tmp_path: Path) -> tuple[str, str]:
    return f"--data.root={pictures}", f"--trainer.default_root_dir={tmp_path}"


@pytest.fixture
def fit(cli: Cli, root: tuple[str, str]) -> Fit:
    def call(*words: str, steps: int = 2) -> Result:
        known = ("--data.val_size=6", "--model.net.num_classes=3", f"--trainer.max_steps={steps}")
        words = words if any(word.startswith("--model.net=") for word in words) else ("--model.net=Net", *words)
        return cli("fit", *root, words[0].replace("=Net", "=lit_cifar.nets.tutorial.Net"), *known, *words[1:])

    return call


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("Hinted", HINTED),
        pytest.param("Unhinted", ["--model.net.function=torch.nn.functional.gelu"], marks=pytest.mark.slow),
    ],
)
def test_arguments_come_back_as_what_they_were(
    cli: Cli, fit: Fit, root: tuple[str, str], tmp_path: Path, net: str, words: tuple[str, ...]
) -> None:
    named = f"--model.net=test_written.{net}"
    assert fit(named, *words).code == 0
    resumed = fit(named, *words, "--resume=auto", steps=4)
    assert (resumed.code, resumed.err) == (0, "")
    tested = cli("test", *root, "--ckpt_path=last", named)
    assert (tested.code, tested.err) == (0, "")
    where = (f"--output={tmp_path / 'predictions'}", root[1], "--ckpt_path=last")
    assert cli("predict", tmp_path / "pictures" / "test", *where, named).code == 0
    (config,) = tmp_path.glob("lightning_logs/tutorial/version_0/config.yaml")
    assert cli("fit", f"--config={config}", "--trainer.max_steps=1").code == 0


def test_a_network_of_torchvision_with_a_class_among_its_arguments_is_trusted(
    cli: Cli, fit: Fit, root: tuple[str, str]
) -> None:
    words = ("--model.net.block=torchvision.models.resnet.BasicBlock", "--model.net.layers=[1,1,1,1]")
    assert fit("--model.net=torchvision.models.ResNet", *words, steps=1).code == 0
    tested = cli("test", *root, "--ckpt_path=last")
    assert (tested.code, tested.err) == (0, "")


class KeepsNumpy(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {
            "best": np.float64(0.5),
            "counts": [np.int64(3)],
            "curve": np.arange(3.0),
            "5": {"is_best": np.bool_(True)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert (state["best"], state["counts"], state["5"]) == (0.5, [3], {"is_best": True})
        assert type(state["best"]) is float
        assert state["curve"].tolist() == [0, 1, 2]


class KeepsFunction(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"inner": [{"function": functional.relu}]}


class Halving(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.share = lambda epoch: 0.5**epoch
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        return [rate * self.share(self.last_epoch) for rate in self.base_lrs]


def test_numbers_of_numpy_in_the_state_of_a_callback_are_written_as_plain_ones(fit: Fit) -> None:
    words = ("--trainer.callbacks+=test_written.KeepsNumpy",)
    assert fit(*words).code == 0
    again = fit(*words, "--resume=auto", steps=4)
    assert (again.code, again.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("--model.net=test_written.WithLambda",), ("--model.net.init_args.function", "lambda")),
        (("--trainer.callbacks+=test_written.KeepsFunction",), ("KeepsFunction.inner.0.function", "function")),
        (("--model.lr_scheduler=test_written.Halving",), ("Halving.share", "function")),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_anything_is_written(
    fit: Fit, tmp_path: Path, words: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert fit(*words).failed(2, "value-unwritable", *names)
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.parametrize("damage", ["cut short", "altered", "of something else"])
def test_resume_auto_does_not_begin_anew_where_a_checkpoint_can_not_be_read(
    fit: Fit, tmp_path: Path, damage: str
) -> None:
    assert fit().code == 0
    (last,) = tmp_path.glob("lightning_logs/tutorial/*/checkpoints/last.ckpt")
    content = last.read_bytes()
    if damage == "cut short":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        last.write_bytes(content.replace(b"PK\x03\x04", b"PK\x03\x05"))
    else:
        torch.save({"state_dict": {}}, last)
    before = sorted(last.parents[2].iterdir())
    result = fit("--resume=auto", steps=4)
    assert result.code in (1, 2)
    assert str(last) in result.err and "--resume auto" in result.err and "[checkpoint-" in result.err
    assert sorted(last.parents[2].iterdir()) == before


def test_resume_auto_says_so_if_it_goes_on_from_an_older_checkpoint(fit: Fit, tmp_path: Path) -> None:
    assert fit().code == fit().code == 0
    older, newer = sorted(tmp_path.glob("lightning_logs/tutorial/*/checkpoints/last.ckpt"))
    newer.write_bytes(newer.read_bytes()[:1000])
    result = fit("--resume=auto", steps=4)
    assert result.code == 0
    assert str(newer) in result.err and str(older) in result.err


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float64])
def test_a_tensor_is_written_as_numbers_that_give_it_again(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1], [1, 0.1]]).to(dtype)
    written = plain(tensor, "--model.loss.weight")
    assert torch.equal(torch.tensor(written, dtype=dtype), tensor)
    assert plain(torch.tensor([0.1]), "--model.loss.weight") == [0.1]
