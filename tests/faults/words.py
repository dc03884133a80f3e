"""Where wrong words are tried, and what is a wrong word for which flag.

Hypothesis chooses them, from the seed WORDS_SEED in the environment; a failure prints it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Result, checkpoint, paint_pictures
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

RECIPES = sorted(Path("configs").resolve().glob("*.yaml"))
TUTORIAL = Path("configs/tutorial.yaml").resolve()
SEED = int(os.environ.get("WORDS_SEED", 0))
FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def examples(count: int) -> Callable[[Any], Any]:
    """`count` examples, with the seed that a failure prints."""
    phases = (Phase.generate,)  # without making a failure smaller, which takes minutes
    chosen = settings(max_examples=count, deadline=None, database=None, suppress_health_check=FIXTURES, phases=phases)
    return lambda test: seed(SEED)(chosen(test))


class Place:
    """A folder with pictures and a trained network, and the command line of each command that would run there."""

    def __init__(self, cli: Cli, runs: Path, folder: Path) -> None:
        self.cli, self.folder = cli, folder
        best = f"--ckpt_path={checkpoint(runs)}"
        data = ("--data.root=pictures", "--data.val_size=6")
        fit = ("fit", f"--config={TUTORIAL}", *data, "--model.net.num_classes=3", "--trainer.max_epochs=0")
        self.lines: dict[str, tuple[str, ...]] = {
            "fit": fit,
            "validate": ("validate", best, *data),
            "test": ("test", best, *data),
            "predict": ("predict", best, *data),
            "predict PATH": ("predict", "pictures", best),
            "show": ("show", *data),
            "export": ("export", best, "--data.root=pictures"),
            "demo": ("demo", best, "--data.root=pictures", "--port=0"),
            "compare": ("compare", "--runs=1", f"--config={TUTORIAL}"),
        }

    def refuses(self, line: tuple[str, ...], *named: str) -> None:
        """Exit code 2 and one sentence with one of these words, or with the last part of a flag; no file is added."""
        before = sorted(self.folder.rglob("*"))
        result = self.cli(*line)
        assert_one_sentence(result, line)
        assert result.code == 2, (line, result)
        keys = {name.lstrip("-").rpartition(".")[2] for name in named}
        keys |= {"learning rate"} if "lr" in keys else set()  # as torch's optimizers call it
        assert any(key in result.err for key in keys), (line, named, result.err)
        assert sorted(self.folder.rglob("*")) == before, line


def assert_one_sentence(result: Result, line: tuple[str, ...]) -> None:
    assert "Traceback" not in result.err, (line, result.err)
    assert "python -X dev" not in result.err, (line, result.err)  # an error that nobody foresaw
    assert result.err.startswith("lit_cifar: "), (line, result.err)
    assert result.err.count("\n") == 1, (line, result.err)


@pytest.fixture
def place(cli: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    paint_pictures(tmp_path / "pictures")
    cli("show", f"--data.root={tmp_path / 'pictures'}", "--data.val_size=6", f"--output={tmp_path / 'show.png'}")
    monkeypatch.chdir(tmp_path)  # the pictures are in their cache now
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: pytest.fail("demo serves"))
    print(f"WORDS_SEED={SEED}")
    return Place(cli, runs, tmp_path)


MODEL_AND_DATA = ("fit", "validate", "test", "predict")
LETTERS = st.text(st.characters(categories=("L", "Nd"), exclude_characters="\\"), min_size=1, max_size=8)
NO_NUMBER = st.one_of(
    st.sampled_from(
        ["abc", "nan", "NaN", "1.5", "[1]", "[]", "{}", "{a: 1}", "yes", "true", "1,000", "\uff11e", "--", "'4'x"]
    ),
    LETTERS.filter(lambda text: not re.fullmatch(r"\d+|null|Null|NULL", text)),
)
NOT_FINITE = st.sampled_from([".nan", ".inf", "-.inf", "1e400", "-1.0e+999"])
HUGE = st.integers(2**63, 10**30)
BELOW = st.integers(-(10**30), -2)
UP_TO_0 = st.integers(-(10**30), 0)

NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "--data.batch_size": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--data.eval_batch_size": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--data.crop": st.one_of(NO_NUMBER, BELOW, st.integers(32)),
    "--data.cutout": st.one_of(NO_NUMBER, BELOW, st.integers(65)),
    "--data.jitter": st.one_of(NO_NUMBER, BELOW, NOT_FINITE, st.sampled_from(["1", "1.5"])),
    "--data.val_size": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--data.normalize": st.sampled_from(
        ["0.5", "[0.5]", "[.5,.5,.5]", "x", "Half", "{}", "[]", "[[],[]]", "[[.5,.5,.5]]", "[[a,b,c],[1,1,1]]"]
        + [f"[[{mean},0,0],[1,1,1]]" for mean in (".nan", ".inf", "1e30", "[0]")]
        + [f"[[0,0,0],[1,1,{std}]]" for std in ("0", "-1", ".nan", "1e-300", "1,1")]
    ),
    "--data.image_size": st.one_of(NO_NUMBER, st.integers(max_value=7), st.integers(225)),
    "--data.resize": LETTERS.filter(lambda text: text not in ("squeeze", "crop", "pad")),
    "--data.flip": st.sampled_from(["2", "sometimes", "[true]", ".nan", "Alternate"]),
    "--data.dataset": LETTERS.filter(
        lambda text: text not in ("auto", "cifar10", "cifar100", "folder", "drawn", "null")
    ),
    "--seed_everything": st.one_of(
        st.sampled_from(["false", "abc", ".nan", "1.5", "null"]), BELOW, HUGE, st.integers(2**32)
    ),
    "--model.slice_size": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--model.sides": st.sampled_from(
        ["5", "[5]", "[[0,7]]", "[[.nan,20]]", "[[-1,20]]", "[[0,20,3]]", "[[0,1e9]]", "abc"]
    ),
    "--model.test_time_augmentation": LETTERS.filter(lambda text: text not in ("none", "flip")),
    "--model.confidence_threshold": st.one_of(NO_NUMBER, BELOW, st.sampled_from(["0", "1.1", "sure"])),
    "--model.compile": st.sampled_from(["2", "maybe", "[]"]),
    "--model.optimizer.lr": st.one_of(NOT_FINITE, st.sampled_from(["fast", "-1", "[0.1]", "nan"])),
    "--model.optimizer.momentum": st.one_of(NOT_FINITE, st.sampled_from(["x", "-0.5", "{}"])),
    "--model.optimizer.weight_decay": st.one_of(NOT_FINITE, st.sampled_from(["x", "-0.5"])),
    "--model.net.num_classes": st.one_of(NO_NUMBER, BELOW, HUGE, st.just(0), st.just(4)),
    "--model.lr_scheduler_interval": LETTERS.filter(lambda text: text not in ("epoch", "step")),
    "--trainer.max_epochs": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.max_steps": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.min_epochs": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.devices": st.sampled_from(["0", "-1", "-5", "nan", "1.5", "abc", "99999", "[]", "[-1]", "1e9"]),
    "--trainer.val_check_interval": st.sampled_from(["0", "0.0", "-1", "1.5", ".nan", ".inf", "x"]),
    "--trainer.check_val_every_n_epoch": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--trainer.limit_train_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.limit_val_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.limit_test_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.overfit_batches": st.sampled_from(["-1", "-0.5", "1.5", ".nan", ".inf", "x"]),
    "--trainer.accumulate_grad_batches": st.one_of(NO_NUMBER, UP_TO_0, HUGE),
    "--trainer.log_every_n_steps": st.one_of(NO_NUMBER, BELOW, HUGE),
    "--trainer.gradient_clip_val": st.sampled_from(["-1", ".nan", "abc"]),
    "--trainer.precision": st.sampled_from(["33", "64", "64-true", "16-true", "bf16-true", "float", "[]"]),
    "--trainer.accelerator": LETTERS.filter(
        lambda text: text not in ("auto", "cpu", "gpu", "cuda", "mps", "tpu", "hpu")
    ),
    "--trainer.strategy": st.sampled_from(["dpp", "fsdp", "deepspeed", "5"]),
    "--trainer.max_time": st.sampled_from(["abc", "-1", "{secondss: 1}"]),
    "--trainer.fast_dev_run": st.sampled_from(["-1", "maybe"]),
    "--trainer.enable_progress_bar": st.sampled_from(["maybe", "2", "[]"]),
    "--checkpoint_seconds": st.sampled_from(["-1", ".nan", "soon", "[1]", "null"]),
    "--fast_precision": st.sampled_from(["maybe", "2"]),
    "--resume": LETTERS.filter(lambda text: text not in ("never", "auto")),
    "--recipe": st.sampled_from(["a/b", "..", ".x", "a b", "CON", "nul", "lpt1.x", "x.", "../x", "", "a:b"]),
}
"""Flags of fit, with values that can't be meant."""

CLASSES: dict[str, st.SearchStrategy[str]] = {
    "--model.net": st.sampled_from(
        ["os.system", "torch.nn.Linear", "torch.optim.SGD", "lit_cifar.nets.nothing.Net", "5"]
    ),
    "--model.optimizer": st.sampled_from(
        ["SGDD", "Linear", "os.system", "torch.nn.Linear", "torch.nothing", "SparseAdam", "[]"]
    ),
    "--model.lr_scheduler": st.sampled_from(["SGD", "StepLR", "nothing", "os.getcwd", "torch.nn.Linear", "5"]),
    "--model.loss": st.sampled_from(
        ["torch.nn.MSELoss", "os.system", "torch.nn.functional.nothing", "torch.optim.SGD", "5"]
    ),
    "--data.transform": st.sampled_from(
        ["os.system", "torch.optim.SGD", "5", "nothing.Here", "torchvision.transforms.v2.Nix"]
    ),
    "--trainer.callbacks": st.sampled_from(
        [
            "abc",
            "5",
            "torch.optim.SGD",
            "EarlyStopping",
            "{class_path: EarlyStopping, init_args: {monitor: x, mode: up}}",
            "{class_path: EarlyStopping, init_args: {monitr: loss/val}}",
            "{class_pth: EarlyStopping}",
            "{class_path: EarlyStopping, init_args: 5}",
            "[{class_path: EMAWeightAveraging, init_args: {decay: 5}}]",
            "[[]]",
        ]
    ),
    "--trainer.logger": st.sampled_from(
        ["abc", "5", "torch.optim.SGD", "{class_path: CSVLogger, init_args: {foo: 1}}"]
    ),
    "--trainer.plugins": st.sampled_from(["abc", "[5]"]),
    "--trainer.profiler": st.sampled_from(["abc", "[]"]),
}

OWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "predict PATH": {
        "--model.test_time_augmentation": LETTERS.filter(lambda text: text not in ("none", "flip")),
        "--model.net": st.sampled_from(["os.system", "nothing.Here", "x", "torch.nothing", "os"]),
        "--ckpt_path": st.sampled_from(["nowhere", "pictures", "show.png"]),
        "--output": st.sampled_from(["show.png", "show.png/x", "/dev/null/x"]),
    },
    "show": {
        "--count": st.one_of(NO_NUMBER, UP_TO_0, st.integers(65)),
        "--config": st.sampled_from(["nowhere", "pictures", "show.png", "/dev/null"]),
        "--data.crop": NUMBERS["--data.crop"],
        "--data.normalize": NUMBERS["--data.normalize"],
        "--data.val_size": NUMBERS["--data.val_size"],
        "--data.root": st.sampled_from(["show.png", ""]),
    },
    "export": {
        "--format": LETTERS.filter(lambda text: text not in ("onnx", "torch", "safetensors")),
        "--ckpt_path": st.sampled_from(["nowhere", "pictures", "show.png"]),
        "--output": st.sampled_from(["pictures", "x.txt", "nowhere/x.onnx"]),
        "--model.net": st.sampled_from(["os.system", "nothing.Here", "x"]),
    },
    "demo": {
        "--port": st.one_of(NO_NUMBER, st.integers(65536), BELOW),
        "--host": st.sampled_from(["nowhere.invalid", "256.256.256.256"]),
        "--ckpt_path": st.sampled_from(["nowhere", "pictures", "show.png"]),
        "--model.net": st.sampled_from(["os.system", "nothing.Here", "x"]),
    },
    "compare": {
        "--runs": st.one_of(NO_NUMBER, UP_TO_0),
        "--jobs": st.one_of(NO_NUMBER, UP_TO_0),
        "--vary": st.sampled_from(["x", "data.batch_size=", "data.batch_size=1,,2", "seed_everything=1,2"]),
        "--name": st.sampled_from(["../x", ".", "a/b", "con"]),
    },
}
"""Flags of our own commands, with values that can't be meant."""


def mistyped(draw: Callable[[Any], Any], word: str) -> str:
    """The word with a letter lost, doubled, changed or exchanged with the next."""
    at = draw(st.integers(3, len(word) - 2))
    kind = draw(st.sampled_from(["lost", "doubled", "changed", "exchanged"]))
    letters = {
        "lost": word[at + 1],
        "doubled": word[at] * 2 + word[at + 1],
        "changed": draw(st.sampled_from("xqü")) + word[at + 1],
        "exchanged": word[at + 1] + word[at],
    }[kind]
    return word[:at] + letters + word[at + 2 :]
