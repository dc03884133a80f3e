"""What gpu.py measures, each part in a process of its own.

    python tests/benchmarks/gpu_parts.py PART DEVICE ROOT quick|full

ROOT is a folder of images; if it has none, the images are synthetic. `quick` takes a few steps, to try the script.
Prints JSON.
"""

import json
import os
import platform
import sys
import tempfile
import time
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import yaml
from comparisons import HERE, made, mean_and_std
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lit_cifar.__main__ import main as command_line
from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.sources import Images, Kind, found, open_images
from lit_cifar.evaluation.test_time_augmentation import mean_logits
from lit_cifar.training.optimizers import Muon

PACKAGES = (
    *("torch", "triton", "torchvision", "pytorch-lightning", "torchmetrics", "numpy", "pillow", "jsonargparse"),
    *("onnxscript", "onnxruntime", "safetensors", "starlette", "uvicorn", "captum"),
)
STEPS = 100  # in an epoch of ResNet-18


class Setting(NamedTuple):
    """Where a part runs."""

    device: torch.device
    root: Path
    quick: bool

    def kind(self) -> Kind:
        return next(iter(found(self.root)), "drawn")

    def images(self) -> Images:
        return open_images(self.root, self.kind())

    def fit(self, recipe: str, *flags: str) -> dict[str, Any]:
        """Trains in this process, as `python -m lit_cifar fit` does, and returns report.json."""
        accelerator = "gpu" if self.device.type == "cuda" else self.device.type
        where = (f"--data.root={self.root}", f"--data.dataset={self.kind()}", f"--trainer.accelerator={accelerator}")
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            words = (f"--config={HERE / 'configs' / recipe}", *where, f"--trainer.default_root_dir={folder}", *flags)
            sys.argv = ["lit_cifar", "fit", "--trainer.devices=1", *words]
            command_line()  # an error ends this process with a sentence
            (report,) = Path(folder).glob("lightning_logs/*/version_*/report.json")
            return json.loads(report.read_text(encoding="utf-8"))

    def now(self) -> float:
        """The time at which the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Clock(Callback):
    """Notes when each epoch has ended, validation included; it does not stand in the way of the lean loop."""

    ends: list[float] = []  # noqa: RUF012  # of the training that began last

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Clock.ends.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Clock.ends.append(Setting(pl_module.device, Path(), False).now())


def device(setting: Setting) -> dict[str, Any]:
    """Hardware and versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    found: dict[str, Any] = {"python": platform.python_version(), "versions": versions, "cores": os.cpu_count()}
    if setting.device.type == "cuda":
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {"device": properties.name, "gpus": torch.cuda.device_count(), "memory": properties.total_memory}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        found |= {"capability": [properties.major, properties.minor]}
    else:
        found |= {"device": f"CPU ({platform.machine()})", "cuda": "needs CUDA"}
    torch.ones(8, device=setting.device).sum().item()
    return found


def speedrun(setting: Setting) -> dict[str, Any]:
    """speedrun.yaml with three seeds, one after another in one process: the first one loads kernels, too."""
    limits = (f"--trainer.limit_{each}_batches={count}" for each, count in (("train", 2), ("test", 1)))
    short = (*limits, "--trainer.max_epochs=2", "--data.batch_size=50") if setting.quick else ()
    runs = []
    for seed in range(1 if setting.quick else 3):
        report = setting.fit("speedrun.yaml", f"--seed_everything={seed}", *short)
        runs.append({key: report[key] for key in ("seed", "train_seconds", "test_seconds", "test_accuracy")})
    return {key: report[key] for key in ("dataset", "precision", "device_name", "epochs", "steps")} | {"runs": runs}


def bare_speedrun(setting: Setting) -> dict[str, Any]:
    """The same in a bare loop: with the recipe's slices, and with whole batches, which a GPU likes better."""
    images = setting.images()
    length: dict[str, Any] = {"epochs": 2, "limit": 2, "batch_size": 50} if setting.quick else {}
    found: dict[str, Any] = {"dataset": images.kind}
    for name, whole in (("sliced", False), ("whole batches", True)):
        seeds = range(1 if setting.quick else 3)
        found[name] = [bare_loop(setting, "speedrun.yaml", images, seed=seed, whole=whole, **length) for seed in seeds]
    return found


def resnet18(setting: Setting, compiled: bool = False) -> dict[str, Any]:
    """Images a second of ResNet-18 by `fit` and by a bare loop, after the first epoch of three."""
    import gpu_parts  # the Clock that the command line imports, which is not that of __main__

    images, steps, size = setting.images(), 2 if setting.quick else STEPS, 8 if setting.quick else 128
    limits = (f"--trainer.limit_{each}_batches={count}" for each, count in (("train", steps), ("test", 1)))
    short = (*limits, "--trainer.max_epochs=3", "--data.val_size=0", f"--data.batch_size={size}")
    clock = "--trainer.callbacks+=gpu_parts.Clock"
    report = setting.fit("resnet18.yaml", *short, clock, f"--model.compile={str(compiled).lower()}")
    ends = gpu_parts.Clock.ends
    length: dict[str, Any] = {"epochs": 3, "limit": steps, "batch_size": size, "test": False}
    return {
        "precision": report["precision"],
        "batch_size": size,
        "images_per_second": 2 * steps * size / (ends[-1] - ends[0]),
        "bare_images_per_second": bare_loop(setting, "resnet18.yaml", images, compiled=compiled, **length)[
            "images_per_second"
        ],
    }


def resnet18_compiled(setting: Setting) -> dict[str, Any]:
    """The same, compiled: minutes on a CPU."""
    if setting.quick and setting.device.type == "cpu":
        return {"why": "needs CUDA"}
    return resnet18(setting, compiled=True)


def loader(setting: Setting) -> dict[str, Any]:
    """Images a second, shuffled, flipped, cropped, cut out and normalised in batches of 500: the median of epochs."""
    images = setting.images()
    batches = BatchLoader(
        images.train, 500, shuffle=True, augmentation=Augmentation(flip=True, crop=4, cutout=8), device=setting.device
    )
    rates = []
    for epoch in range(2 if setting.quick else 10):
        batches.set_epoch(epoch)
        started = setting.now()
        for _ in batches:
            pass
        rates.append(len(images.train.labels) / (setting.now() - started))
    return {"images_per_second": median(rates[1:])}


def bare_loop(
    setting: Setting,
    recipe_name: str,
    images: Images,
    *,
    seed: int = 0,
    epochs: int = 0,
    limit: int = 0,
    batch_size: int = 0,
    whole: bool = False,
    compiled: bool = False,
    test: bool = True,
) -> dict[str, Any]:
    """A recipe's network and optimizer in a loop as airbench's: all on the device, bf16, augmented once an epoch.

    `epochs` and `batch_size` 0 are the recipe's, and `limit` batches, if not 0, an epoch.
    """
    recipe = yaml.safe_load((HERE / "configs" / recipe_name).read_text())
    model, data, device = recipe["model"], recipe["data"], setting.device
    torch.manual_seed(seed)
    size, epochs = batch_size or data["batch_size"], epochs or recipe["trainer"]["max_epochs"]
    train, all_labels = images.train.images, images.train.labels
    if limit:  # evenly spaced, since those of a folder are sorted by class
        chosen = torch.arange(limit * size) * len(train) // (limit * size)
        train, all_labels = train[chosen], all_labels[chosen]
    mean, std = (torch.tensor(values, device=device)[:, None, None] * 255 for values in mean_and_std(recipe))
    pixels, labels = (train.to(device) - mean) / std, all_labels.to(device)
    net = made(model["net"])
    if hasattr(net, "compute_whitening"):
        net.compute_whitening(pixels[:: max(1, len(pixels) // 5000)].cpu())
    net.to(device)
    optimizer = made(model["optimizer"], net.parameters())
    if isinstance(optimizer, Muon):
        optimizer.use_precision("bf16-mixed")
    total = epochs * -(-len(train) // size)
    schedule = made(model["lr_scheduler"] | _total(model["lr_scheduler"], total), optimizer)
    loss_of = made(model["loss"]) if isinstance(model["loss"], dict) else F.cross_entropy
    network = torch.compile(net) if compiled else net
    slice_size, ends = len(train) if whole else model.get("slice_size") or size, [setting.now()]
    for epoch in range(epochs):
        if hasattr(net, "begin_epoch"):
            net.begin_epoch(epoch / epochs)
        side = [side for share, side in model.get("sides", [(0, 32)]) if share <= (epoch + 0.5) / epochs][-1]
        augmented = augment(pixels, epoch, side, data["crop"], data.get("jitter", 0), seed)
        for batch in torch.randperm(len(train), device=device).split(size):
            optimizer.zero_grad()
            for part in batch.split(slice_size):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = loss_of(network(augmented[part]), labels[part])
                (loss * (len(part) / len(batch))).backward()
            optimizer.step()
            schedule.step()
        ends.append(setting.now())
    rate = (epochs - 1) * len(train) / (ends[-1] - ends[1])
    found = {"seed": seed, "train_seconds": ends[-1] - ends[0], "images_per_second": rate}
    if test:
        net.eval()
        views = model["test_time_augmentation"], model["confidence_threshold"]
        every, right = 20 if setting.quick else 1, 0
        tested, labels = (images.test.images[::every].to(device) - mean) / std, images.test.labels[::every].to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            for part, true in zip(tested.split(1000), labels.split(1000), strict=True):
                right += int((mean_logits(net, part, *views).argmax(1) == true).sum())
        found |= {"test_seconds": setting.now() - ends[-1], "test_accuracy": right / len(tested)}
    return found


def _total(schedule: dict[str, Any], steps: int) -> dict[str, Any]:
    return {"init_args": (schedule.get("init_args") or {}) | {"total_steps": steps}}


def augment(pixels: Tensor, epoch: int, side: int, crop: int, jitter: float, seed: int) -> Tensor:
    """Mirrors every second image, crops by airbench's loop over windows, jitters, and scales all images at once."""
    count, device = len(pixels), pixels.device
    first = torch.rand(count, device=device, generator=torch.Generator(device).manual_seed(seed)) < 0.5
    pixels = torch.where((first ^ bool(epoch & 1))[:, None, None, None], pixels.flip(-1), pixels)
    padded, moved = F.pad(pixels, (crop,) * 4, "reflect"), torch.empty_like(pixels)
    window = torch.randint((2 * crop + 1) ** 2, (count,), device=device)
    for number, (y, x) in enumerate(product(range(2 * crop + 1), repeat=2)):
        chosen = window == number
        moved[chosen] = padded[chosen, :, y : y + 32, x : x + 32]
    if jitter:
        offset, factor = (jitter * (2 * torch.rand(2, count, 1, 1, 1, device=device) - 1)).unbind()
        moved = (moved + offset) * (1 + factor)
    if side != 32:
        moved = F.interpolate(moved, (side, side), mode="bilinear", antialias=True)
    return moved.to(memory_format=torch.channels_last)


if __name__ == "__main__":
    part, name, root, length = sys.argv[1:]
    setting = Setting(torch.device(name), Path(root), length == "quick")
    parts = (device, speedrun, bare_speedrun, resnet18, resnet18_compiled, loader)
    print(json.dumps({each.__name__: each for each in parts}[part](setting)))
