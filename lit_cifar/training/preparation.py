"""Before the first step: network and loss are tried, the network is whitened and compiled, memory is kept."""

import copy
import ctypes
import logging
import sys
import warnings
from collections.abc import Callable, Sequence, Sized
from typing import Any, Literal

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_cifar.data.augmentation import Augmentation
from lit_cifar.data.datamodule import CIFAR10DataModule
from lit_cifar.data.image_files import SIDE, Scaling
from lit_cifar.errors import UsageError, UserError, reason
from lit_cifar.evaluation import metrics as evaluation
from lit_cifar.nets.sizes import nets_for
from lit_cifar.training.step import Fewest, Loss, moved

WHITENING_IMAGES = 5000  # of training, of 32 pixels, from which a whitening layer is computed
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def whiten(net: nn.Module, datamodule: CIFAR10DataModule) -> None:
    """Gives training images, without augmentation, to a network on the CPU that has a method `compute_whitening`."""
    compute = getattr(net, "compute_whitening", None)
    if compute is not None:
        loader = CIFAR10DataModule.train_dataloader(datamodule)  # a subclass may have loaders of its own
        loader.augmentation = Augmentation()
        indices = datamodule.split()[0]  # a folder's are sorted by class, and every class must be represented
        count = Scaling(datamodule.image_size).images_like(WHITENING_IMAGES)
        compute(loader.take(indices[:: max(1, len(indices) // count)])[0].cpu())


@torch.no_grad()
def require_fit(net: nn.Module, loss: Loss, sides: Sequence[int], data: CIFAR10DataModule) -> None:
    """Tries a network with the data's size of images and with these sides, and a loss with its logits.

    Raises UsageError if they don't fit.
    """
    name = type(net).__name__
    weight = next(net.parameters(), torch.empty(0))
    loss = moved(loss, weight.device)
    with evaluation.evaluating(net):
        size = data.image_size
        of_data = "--model.net" if size == SIDE else f"--data.image_size {size}"
        for side, flag in [(size, of_data), *((side, "--model.sides") for side in sides)]:
            images = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
            try:
                logits = net(images)
            except Exception as error:  # a user's network may raise anything, and timm's assert sizes
                sentence = f"the network {name} can't take images of {side} × {side} pixels ({reason(error)})"
                raise UsageError("network-unfit", f"{flag}: {sentence}; {_others(side)}") from error
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise UsageError("network-unfit", f"--model.net: {name} must return logits [N, classes], not {shape}")
    classes = len(data.classes)
    if logits.shape[1] != classes:
        sentence = f"The network has {logits.shape[1]} outputs, but there are {classes} classes in {data.title}"
        raise UsageError("network-classes", f"{sentence}; set --model.net.init_args.num_classes {classes}")
    logits = logits.float().expand(classes + 1, -1)
    labels = torch.arange(classes + 1, device=weight.device) % classes
    _require_mean(loss, logits, labels, "labels [N]", "use another")
    if data.augmentation.mixes:
        probabilities = torch.eye(classes, device=weight.device)[labels] * 0.5 + 0.5 / classes
        what, todo = "probabilities [N, C] of mixed images", "use another, or set --data.mixup and --data.cutmix to 0"
        _require_mean(loss, logits, probabilities, what, todo)


def _require_mean(loss: Loss, logits: Tensor, labels: Tensor, what: str, todo: str) -> None:
    """Tries a loss, or raises UsageError unless it returns a mean."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some losses only warn about sizes that don't fit
            value = loss(logits, labels)
            twice = loss(torch.cat((logits, logits)), torch.cat((labels, labels)))
    except Exception as error:  # a user's loss may raise anything
        sentence = f"--model.loss can't take logits [N, C] and {what} ({reason(error)})"
        raise UsageError("loss-unfit", f"{sentence}; {todo}") from error
    if not isinstance(value, Tensor) or value.ndim:
        raise UsageError("loss-unfit", "--model.loss must return one number, the mean loss of a batch")
    if value and value.isfinite() and torch.isclose(twice, 2 * value):
        sentence = "--model.loss must return the mean loss of a batch, not the sum; use reduction mean"
        raise UsageError("loss-unfit", f"{sentence}, and a larger learning rate")


def _others(side: int) -> str:
    names = ", ".join(nets_for(side))
    return f"use another, such as one of {names}" if names else "use another"


def require_own_data_fit(net: nn.Module, sides: Sequence[tuple[float, int]], whitened: bool) -> None:
    """Raises UsageError for what only CIFAR10DataModule can do."""
    if sides:
        raise UsageError("value-invalid", "--model.sides needs CIFAR10DataModule, which scales the images")
    if hasattr(net, "compute_whitening") and not whitened:
        sentence = f"{type(net).__name__} computes its first layer from training images, which are not known"
        todo = "call net.compute_whitening(images) with some thousand of them, and set classifier.whitened = True"
        raise UsageError("network-unfit", f"{sentence} without CIFAR10DataModule; {todo}")


@torch.no_grad()
def require_trainable(
    net: nn.Module, sides: Sequence[int], data: CIFAR10DataModule, batches: int, fewest: Callable[[int], Fewest]
) -> None:
    """Tries a copy of a network in training mode, with as few images as will occur, or raises UsageError.

    Two images stand for any larger number: batch normalization needs two values of each channel.

    Args:
        net: The network.
        sides: Sides of images in pixels, besides the data's own.
        data: The images to train on.
        batches: How many batches of an epoch are used.
        fewest: Returns how few images of a batch of this size go through the network at once.
    """
    name, total, size = type(net).__name__, len(data.split()[0]), data.batch_size
    few, images_in_batch = _fewest_of_all(total, size, batches, fewest)
    weight = next(net.parameters(), torch.empty(0))
    try:
        trial = copy.deepcopy(net).train()
    except (RuntimeError, TypeError):  # it holds what can't be copied, such as a lock
        return
    with isolate_rng():
        for side in sorted({data.image_size, min(sides, default=data.image_size)}):
            images = torch.rand(2, 3, side, side).to(weight.device, weight.dtype)
            _train_once(trial.train(), images)
            if few.on_a_process > 1:
                continue
            for layer in trial.modules() if few.normalized > 1 else ():  # together with images of other processes
                if isinstance(layer, _BatchNorm):
                    layer.eval()
            try:
                _train_once(trial, images[:1])
            except UsageError as error:
                sizes = sorted(range(2, min(total, 2 * size + 8) + 1), key=lambda each: abs(each - size))
                fitting = (each for each in sizes if min(_fewest_of_all(total, each, total, fewest)[0]) > 1)
                better = next(fitting, 0)
                todo = f"set --data.batch_size, for example to {better}" if better else "use more images"
                what = f"the last of {total:,} images in batches of {size} is one"
                if images_in_batch > 1:
                    what = f"a slice, or a device's share, of a batch of {images_in_batch} has only one"
                sentence = f"{name} can't train on a single image, but {what}; {todo}"
                raise UsageError("network-unfit", f"--model.net: {sentence}") from error


def _fewest_of_all(total: int, size: int, batches: int, fewest: Callable[[int], Fewest]) -> tuple[Fewest, int]:
    """Returns how few images go through a network at once, and how many their batch has, of the first batches."""
    sizes = {min(size, total)}
    if total % size and batches > total // size:
        sizes.add(total % size)  # the last batch
    return min((fewest(each), each) for each in sizes)


def _train_once(net: nn.Module, images: Tensor) -> None:
    name = type(net).__name__
    try:
        outputs = net(images)
    except Exception as error:
        sentence = f"the network {name} fails while training ({reason(error)})"
        raise UsageError("network-unfit", f"--model.net: {sentence}; use another") from error
    kind, todo = type(outputs).__name__, "use another network, or wrap it"
    if isinstance(outputs, Tensor):
        if outputs.ndim == 2 and len(outputs) == len(images):
            return
        kind = str(list(outputs.shape))
    elif isinstance(outputs, Sized):
        kind += f" of {len(outputs)}"
        todo = "switch other outputs off (torchvision: --model.net.aux_logits false), or wrap the network"
    sentence = f"{name} returns {kind} for {len(images):,} images while training, but must return logits [N, classes]"
    raise UsageError("network-unfit", f"--model.net: {sentence}; {todo}")


def compile_net(net: nn.Module, device: torch.device) -> None:
    """Makes `net` compile itself at its first use, or raises UserError without a compiler; weights keep their names."""
    from torch._dynamo.exc import TorchDynamoException  # imports torch's compiler: 1 s

    def concerns(record: logging.LogRecord) -> bool:  # nothing is compiled for the GPU that a warning misses
        return "No CUDA runtime is found" not in record.getMessage()

    log = logging.getLogger("torch.utils.cpp_extension")
    log.addFilter(concerns)
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))  # 3 s; a network takes a minute
    except (TorchDynamoException, RuntimeError) as error:
        sentence = f"--model.compile true: torch can't compile for {device.type} ({reason(error)})"
        raise UserError("compile-failed", f"{sentence}; install a C++ compiler or, for CUDA, Triton") from error
    finally:
        log.removeFilter(concerns)
    net.compile()


def fast_precision(device: torch.device) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """Returns bf16 if faster than float32 (on a CPU: with AMX or AVX-512-BF16), half on older CUDA, or float32."""
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device) >= (8, 0) else "16-mixed"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bf16-mixed"
    return "32-true"


def chosen_device(accelerator: Any) -> torch.device:
    """Returns the kind of device that Lightning chooses for `--trainer.accelerator`."""
    if accelerator in ("cuda", "gpu", "auto") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if accelerator in ("mps", "gpu", "auto") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Makes glibc keep freed blocks of less than 1 GiB (32 MiB in older versions); does nothing elsewhere.

    By default, the memory of large tensors goes back to the system after each step and returns page by page: 3 to 7 %
    of a step on a CPU, and most of what differs from run to run.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):  # musl has none
        mallopt(M_TRIM_THRESHOLD, 2**30)
        if not mallopt(M_MMAP_THRESHOLD, 2**30):
            mallopt(M_MMAP_THRESHOLD, 2**25)
