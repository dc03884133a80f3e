"""Predictor: a network with its classes and normalisation, which loads from a checkpoint and predicts pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from typing_extensions import Self

from lit_cifar.data.image_files import Resize, Scaling
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.loader import BatchLoader
from lit_cifar.data.pictures import Picture, to_batch
from lit_cifar.errors import UsageError, require
from lit_cifar.evaluation import metrics as evaluation
from lit_cifar.evaluation.test_time_augmentation import Views, mean_logits
from lit_cifar.runs.card import Description, RunCard, describe, plain
from lit_cifar.runs.checkpoint import Checkpoint, read_checkpoint
from lit_cifar.runs.network import build_net, check_net

BATCH = 250  # images of 32 pixels that are predicted at once
EVALUATION = ("test_time_augmentation", "confidence_threshold")


class Predictor(pl.LightningModule):
    """What LitClassifier is apart from its training."""

    def __init__(self, net: nn.Module, test_time_augmentation: Views, confidence_threshold: float) -> None:
        super().__init__()
        views, threshold = test_time_augmentation, float(confidence_threshold)
        require(views in get_args(Views), f"--model.test_time_augmentation {views} must be none, flip or flip-shift")
        require(0 < threshold <= 1, f"--model.confidence_threshold {threshold} must be more than 0 and at most 1")
        self.net = net
        self.test_time_augmentation, self.confidence_threshold = views, threshold
        self.recipe: str = "python"  # as the card has it
        self.described: dict[str, Any] = {"net": describe(net)}
        self.card: RunCard | None = None
        """What is trained, tested or was loaded; known after `setup` or `load_from_checkpoint`, like all below."""
        self.classes: tuple[str, ...] = ()  # in the order of the labels
        self.mean: tuple[float, ...] = ()  # of each channel, of values from 0 to 1; it is subtracted from images
        self.std: tuple[float, ...] = ()  # of each channel; images are divided by it
        self.image_size: int = 32  # in pixels
        self.resize: Resize = "squeeze"  # how pictures become images of this size
        self.whitened = False  # whether a whitening layer has been computed: that of a trained network stays
        self.example_input_array = torch.zeros(1, 3, self.image_size, self.image_size)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's unpickles, and asks for the network
        cls,
        checkpoint_path: str | Path | Checkpoint,
        net: nn.Module | None = None,
        test_time_augmentation: Views | None = None,
        *,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **settings: Any,
    ) -> Self:
        """Returns a trained classifier, ready to predict; call `train()` to train it further.

        Args:
            checkpoint_path: best.ckpt or last.ckpt of a run, or one that was read already.
            net: Network of the checkpoint's class, if that is not one of this project, torch or torchvision.
            test_time_augmentation: As for LitClassifier; by default, the setting that the run was tested with.
            map_location: Device to load it to; by default, and if it is a function or a dictionary, the CPU.
            hparams_file: Not needed, as the checkpoint holds all settings.
            strict: Whether the weights' names must be the same; they must by default.
            weights_only: Not needed: checkpoints are always read so that they can't run code.
            settings: Further arguments of LitClassifier, such as an optimizer to train on with.

        Raises:
            UsageError: The file is not a checkpoint of ours, or its network is not in this version.
            UserError: The file is damaged.
        """
        checkpoint = checkpoint_path if isinstance(checkpoint_path, Checkpoint) else read_checkpoint(checkpoint_path)
        card = checkpoint.card
        if net is None:
            check_net(card.net, checkpoint.path)
        if test_time_augmentation is not None:
            card = replace(card, test_time_augmentation=test_time_augmentation)
        settings = {name: getattr(card, name) for name in EVALUATION} | settings
        try:
            module = cls(build_net(card.net) if net is None else net, **settings)
            module.load_state_dict(checkpoint.weights, strict=strict is not False)
        except (TypeError, ValueError, RuntimeError) as error:
            sentence = f"--ckpt_path {checkpoint.path} holds a {card.net['class_path']} with other arguments or weights"
            remedy = "load it with the version that trained it, or with the network that was trained"
            raise UsageError("network-unfit", f"{sentence} than this network; {remedy}") from error
        module.whitened = True
        module.name_run(card.recipe, net=card.net)
        module.card = card
        module.classes, module.mean, module.std = tuple(card.classes), tuple(card.mean), tuple(card.std)
        module.see(card.image_size, card.resize)
        if isinstance(map_location, str | int | torch.device):
            module.to(map_location)
        return module.eval()

    def name_run(self, recipe: str, **described: Description) -> None:
        """Sets the recipe's name and the descriptions of parts, such as `net`, for the card.

        The command line knows both best.

        Raises UsageError for an argument that can't be written down.
        """
        self.recipe, self.described = recipe, {name: plain(part, f"--model.{name}") for name, part in described.items()}

    def see(self, image_size: int, resize: Resize) -> None:
        """Sets the side of images in pixels, and how pictures become such images."""
        self.image_size, self.resize = image_size, resize
        self.example_input_array = torch.zeros(1, 3, image_size, image_size)

    @property
    def scaling(self) -> Scaling:
        """How pictures are scaled."""
        return Scaling(self.image_size, self.resize)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, C]` of normalised images `[N, 3, H, W]`."""
        return self.net(images)

    def mean_logits(self, images: Tensor) -> Tensor:
        """Returns logits `[N, C]`, averaged over the views of test-time augmentation."""
        return mean_logits(self, images, self.test_time_augmentation, self.confidence_threshold)

    @torch.no_grad()
    def predict(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Returns probabilities `[N, C]` of one image or several, in the order of `classes`.

        Args:
            images: PIL images of any mode, arrays uint8 `[H, W]` (grey), `[H, W, 3]` or `[H, W, 4]` (RGBA), or tensors
                uint8 `[3, H, W]`, of any size; or a whole batch as an array `[N, H, W, 3]` or a tensor `[N, 3, H, W]`.

        Raises:
            ValueError: An image has another shape or type, such as floating-point numbers.
            UsageError: The classifier was neither trained nor loaded, or trained on images normalised in unknown ways.
        """
        pixels = to_batch(images, self.scaling)
        if not len(pixels):
            return torch.empty(0, len(self.classes))
        if not self.classes:
            sentence = "The classifier knows no classes yet; train it, or use LitClassifier.load_from_checkpoint"
            raise UsageError("network-untrained", sentence)
        require_normalization(self)
        pictures = ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64), self.classes)
        size = self.scaling.images_like(BATCH)
        batches = BatchLoader(pictures, size, mean=self.mean, std=self.std, device=self.device)
        layout = torch.channels_last  # convolutions on a CPU take three quarters of the time
        with evaluation.evaluating(self):
            logits = [self.mean_logits(batch.to(memory_format=layout)) for batch, _ in batches]
        return torch.cat(logits).softmax(1).cpu()


def require_normalization(predictor: Predictor) -> None:
    """Raises UsageError unless it is known how images must be normalised."""
    if not predictor.mean or not predictor.std:
        sentence = "The network was trained on loaders of your own, and doesn't know their normalization"
        raise UsageError("normalization-unknown", f"{sentence}; set mean and std of the LitClassifier in Python")
