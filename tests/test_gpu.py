"""On a GPU: the same bits, the same results as on a CPU, and no step that waits for the device. `.ci/gpu` runs these.

With LIT_CIFAR_TEST_DEVICE=cpu they run on the CPU, as a rehearsal.
"""

import copy
import csv
import functools
import json
import os
import re
import signal
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from running import RUN, differences, last_checkpoint, run, run_folder, start
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.nn import functional as F  # noqa: N812

from lit_cifar import CIFAR10DataModule, LitClassifier, Trainer
from lit_cifar.data.synthetic import draw
from lit_cifar.deploy.export import FORMATS, export
from lit_cifar.nets.resnet import ResNet18
from lit_cifar.nets.speedrun import SpeedrunNet
from lit_cifar.training.optimizers import Muon

DEVICE = os.environ.get("LIT_CIFAR_TEST_DEVICE", "cuda")
HAS_CUDA = torch.cuda.is_available()
ACCELERATOR = "gpu" if DEVICE == "cuda" else DEVICE
SPEEDRUN = (  # small, and shorter on a CPU
    "fit",
    f"--config={Path(__file__).parents[1] / 'configs' / 'speedrun.yaml'}",
    "--recipe=tutorial",
    "--data.dataset=drawn",
    "--data.batch_size=500",
    "--data.val_size=0.1",
    "--model.sides=[[0,16],[0.5,20]]",
    "--model.net.init_args.widths=[8,16,16]",
    "--checkpoint_seconds=0.05",
    f"--trainer.accelerator={ACCELERATOR}",
    *(("--trainer.max_epochs=30",) if DEVICE == "cuda" else ("--trainer.max_epochs=2", "--trainer.precision=32-true")),
)
SMALL = partial(SpeedrunNet, widths=(8, 16, 16))
SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
WEIGHTS = torch.linspace(0.1, 3, 10)
STAYS = re.compile(r"whiten\.weight|norm\d\.weight")
ROUNDING = 3e-2  # of changes, by other kernels for float32
AGREES = 1e-2  # probabilities: convolutions on a GPU round float32 to TF32

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not HAS_CUDA, reason="needs CUDA"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(*SPEEDRUN, f"--trainer.default_root_dir={folder}")
    return folder


def test_two_trainings_with_one_seed_have_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    run(*SPEEDRUN, f"--trainer.default_root_dir={tmp_path}")
    assert json.loads((run_folder(tmp_path) / "report.json").read_text())["steps"] > 30
    assert differences(last_checkpoint(undisturbed), last_checkpoint(tmp_path)) == []


def test_a_training_that_is_killed_and_resumed_has_the_same_bits(undisturbed: Path, tmp_path: Path) -> None:
    words = (*SPEEDRUN, f"--trainer.default_root_dir={tmp_path}", "--resume=auto")
    process, until = start(*words), time.monotonic() + 300
    pattern = str(RUN.with_name("version_*") / "checkpoints" / "last.ckpt")
    while not [*tmp_path.glob(pattern)] and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 0 < last_checkpoint(tmp_path)["global_step"] < last_checkpoint(undisturbed)["global_step"]
    run(*words)
    assert differences(last_checkpoint(undisturbed), last_checkpoint(tmp_path)) == []


@functools.cache
def synthetic() -> CIFAR10DataModule:
    """Batches of 96 images, augmented."""
    return CIFAR10DataModule(dataset="drawn", batch_size=96, val_size=0, flip=True, crop=4, cutout=8, jitter=0.1)


def trained(
    accelerator: str = ACCELERATOR,
    net: Callable[[], nn.Module] = SMALL,
    steps: int = 3,
    precision: Any = "32-true",
    optimizer: Any = SGD,
    **options: Any,
) -> dict[str, Tensor]:
    """How much each weight changes in some steps of the lean loop, running statistics included."""
    torch.manual_seed(0)
    model = LitClassifier(net(), optimizer, **options)
    before = copy.deepcopy(model.net.state_dict())
    unwanted = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(unwanted, False)
    length = {"max_epochs": 1, "limit_train_batches": steps, "log_every_n_steps": 1000}
    trainer = Trainer(accelerator=accelerator, devices=1, precision=precision, **length, **quiet)
    trainer.fit(model, datamodule=synthetic())
    assert trainer.is_lean and trainer.direct_step
    after = model.net.cpu().state_dict()
    return {name: after[name] - before[name] for name in learned(after)}


def learned(state: dict[str, Tensor]) -> list[str]:
    """The names of what a training changes: not of gains that stay, counts, and the whitened layer."""
    return [name for name, values in state.items() if values.is_floating_point() and not STAYS.search(name)]


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest relative one of a weight's change."""
    return max(float((a[name] - b[name]).norm() / a[name].norm()) for name in a)


@pytest.mark.parametrize(
    "options",
    [
        {"slice_size": 40},
        {"slice_size": 40, "loss": nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1)},
        {"loss": partial(F.cross_entropy, weight=WEIGHTS, ignore_index=3)},
        {"optimizer": Muon, "sides": [(0, 20)]},
    ],
    ids=["batch norm in slices", "weighted loss in slices", "weights of a function", "Muon on small images"],
)
def test_it_learns_the_same_as_on_a_cpu(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert difference(trained("cpu", **options), trained(**options)) < ROUNDING


def test_a_compiled_network_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert difference(trained(), trained(compile=True)) < ROUNDING


def test_bf16_learns_nearly_the_same() -> None:
    assert 0 < difference(trained(), trained(precision="bf16-mixed")) < 0.5


@pytest.mark.skipif(DEVICE != "cuda" or not HAS_CUDA, reason="needs CUDA")
@pytest.mark.parametrize("name", ["speedrun", "resnet18", "weighted loss"])
def test_no_step_waits_for_the_device(name: str, record_property: Callable[[str, object], None]) -> None:
    options: dict[str, Any] = {"precision": "bf16-mixed"}
    if name == "resnet18":
        options |= {"net": ResNet18}
    elif name == "speedrun":
        options |= {"slice_size": 40, "optimizer": Muon}
    else:
        options |= {"loss": nn.CrossEntropyLoss(WEIGHTS)}
    _, few, many = (synchronizations(steps, options) for steps in (5, 20, 60))  # the first one loads kernels
    record_property("synchronizations_per_step", (many - few) / 40)
    record_property("synchronizations_per_run", few)
    assert many == few


def synchronizations(steps: int, options: dict[str, Any]) -> int:
    """How often a training with so many steps waits for the device, begin, end and one logging included."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trained(steps=steps, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(each.message) for each in caught)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_what_one_learns(tmp_path: Path) -> None:
    weights = []
    for devices in (1, 2):
        root = tmp_path / str(devices)
        exact = ("--trainer.precision=32-true", "--trainer.max_epochs=1", "--trainer.limit_train_batches=6")
        run(*SPEEDRUN, *exact, f"--trainer.devices={devices}", f"--trainer.default_root_dir={root}")
        state = last_checkpoint(root)["state_dict"]
        weights.append({name: state[name] for name in learned(state)})
    assert difference(*weights) < ROUNDING


def last(root: Path) -> Path:
    return run_folder(root) / "checkpoints" / "last.ckpt"


def test_predict_classifies_as_on_a_cpu(undisturbed: Path, tmp_path: Path) -> None:
    checkpoint = last(undisturbed)
    images = draw(train=10, test=100)[1].images
    here, there = (LitClassifier.load_from_checkpoint(checkpoint, map_location=place) for place in ("cpu", DEVICE))
    expected = here.predict(images)
    torch.testing.assert_close(there.predict(images), expected, rtol=0, atol=AGREES)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:03d}.png")
    run("predict", tmp_path, f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'out'}")  # on the GPU, if there is one
    rows = [*csv.reader((tmp_path / "out" / "predictions.csv").open())][1:]
    found = torch.tensor([[float(value) for value in row[2:]] for row in rows])
    torch.testing.assert_close(found, expected, rtol=0, atol=AGREES)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_network_on_the_device_is_exported_and_stays_there(undisturbed: Path, tmp_path: Path, kind: Any) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript", reason="needs onnxscript: pip install -e '.[export]'")
    classifier = LitClassifier.load_from_checkpoint(last(undisturbed), None, "none", map_location=DEVICE)
    images = draw(train=10, test=100)[1].images
    written, _ = export(classifier, kind, tmp_path / f"model{FORMATS[kind].suffix}", images)  # refuses if it differs
    assert classifier.device.type == DEVICE
    if kind == "torch":
        program = move_to_device_pass(torch.export.load(written[0]), DEVICE).module()
        found = program(images.permute(0, 2, 3, 1).contiguous().to(DEVICE)).cpu()
        torch.testing.assert_close(found, classifier.predict(images), rtol=0, atol=AGREES)


def test_the_demo_classifies_as_on_a_cpu(undisturbed: Path) -> None:
    for package in ("uvicorn", "starlette", "captum"):
        pytest.importorskip(package, reason="needs the packages of the demo: pip install -e '.[demo]'")
    from serving import ask, picture, serving

    from lit_cifar.deploy.demo.server import make_app

    answers = []
    for place in ("cpu", DEVICE):
        classifier = LitClassifier.load_from_checkpoint(last(undisturbed), map_location=place)
        with serving(make_app(classifier, {}, None, "", ["127.0.0.1"])) as port:
            status, body = ask(port, "/predict", picture())
        assert status == 200, body
        answers.append({each["name"]: each["probability"] for each in json.loads(body)["classes"]})
    assert answers[1] == pytest.approx(answers[0], abs=AGREES)
