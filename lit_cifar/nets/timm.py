"""Any network of timm (github.com/huggingface/pytorch-image-models) by its name, made for small images.

`Timm("resnet18")` has a 3×3 convolution and no pooling at the start, `Timm("vit_tiny_patch16_224")` patches of 4
pixels; stem.py says by which rule. A stranger's checkpoint may name this class, so no argument makes timm download or
open anything but `pretrained`, which is refused in a checkpoint.
"""

import difflib
import re
from typing import Any, Literal, get_args
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from lit_cifar.errors import UsageError, UserError, reason, require
from lit_cifar.nets import stem as stems

Stem = Literal["cifar", "original"]
OURS = re.compile(
    r"pretrained.*|checkpoint_path|cache_dir|features_only|out_indices|feature_cls|img_size|in_chans|model_name"
)
"""Arguments of `timm.create_model` that are ours to set, or would download, open files, or return features."""
SIDES = (8, 16, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224)
"""Sizes to name if a network can't take another."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


class Timm(nn.Module):
    """A network of timm.

    Args:
        name: Name of the network, such as resnet18 or vit_tiny_patch16_224.augreg_in21k, whose tag names weights.
        stem: cifar shrinks images four times less in the first layers: to 4×4 places for 32 pixels, or patches of 4
            pixels; original, for larger images, is timm's.
        pretrained: Start from timm's pretrained weights, which are downloaded.
        num_classes: Number of logits.
        image_size: Side of the images in pixels.
        further: Further arguments of timm's network, such as drop_path_rate.
    """

    def __init__(
        self,
        name: str,
        stem: Stem = "cifar",
        pretrained: bool = False,
        num_classes: int = 10,
        image_size: int = 32,
        **further: Any,
    ) -> None:
        super().__init__()
        require(stem in get_args(Stem), f"--model.net.stem {stem} must be cifar or original")
        require(num_classes > 0, f"--model.net.num_classes {num_classes} must be at least 1")
        require(image_size > 0, f"--model.net.image_size {image_size} must be at least 1")
        check_name(name, pretrained)
        for each in further:
            if OURS.fullmatch(each):
                raise UsageError("value-invalid", f"--model.net.{each} can't be set for Timm; use its own arguments")
        self.name: str = name
        self.stem, self.num_classes, self.image_size, self.further = stem, num_classes, image_size, further
        self.net = self._fitting(pretrained)
        self.pretrained = False  # what a checkpoint says of it, which brings its own weights
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits `[N, num_classes]` of normalised images `[N, 3, H, W]`."""
        return self.net(images.contiguous(memory_format=torch.channels_last))

    def _fitting(self, pretrained: bool) -> nn.Module:
        """Returns timm's network with its stem, or raises UsageError."""
        try:
            enlargement = stems.enlargement(self._blank()) if self.stem == "cifar" else 1.0
            return self._made(self.image_size, enlargement, pretrained)
        except UserError:
            raise
        except stems.StemError as error:
            sentence = f"--model.net.name {self.name} can't have --model.net.stem cifar ({error})"
            raise UsageError("network-unfit", f"{sentence}; use original") from error
        except Exception as error:  # timm's networks raise and assert anything
            size, sides = f"{self.image_size} × {self.image_size} pixels", self._sides(enlargement)
            sentence = f"--model.net.name {self.name} can't take images of {size} with --model.net.stem {self.stem}"
            todo = f"it can take {' or '.join(map(str, sides))}" if sides else "use another network, or the other stem"
            raise UsageError("network-unfit", f"{sentence} ({reason(error)}); {todo}") from error

    def _made(self, side: int, enlargement: float, pretrained: bool) -> nn.Module:
        """Returns timm's network with its stem for images of this side, or raises whatever timm raises."""
        from timm.layers.blur_pool import BlurPool2d

        larger = side * enlargement
        if not larger.is_integer():
            raise ValueError(f"it would see what it sees of {larger:g} pixels with its own stem")
        try:
            net = self._created(pretrained, img_size=int(larger))
        except TypeError:  # it has no such argument, as it takes images of any size
            net = self._created(pretrained)
        if enlargement > 1:
            pools = (nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)
            stems.shorten(net, int(larger), side, pools, keep_weights=pretrained)
        logits = stems.run(net, side)
        if not isinstance(logits, Tensor) or logits.shape != (1, self.num_classes):
            raise UsageError("network-unfit", f"--model.net.name {self.name} is not a classifier; use another network")
        return net

    def _blank(self) -> nn.Module:
        """Returns the network as timm makes it, without weights unless timm is too old for that."""
        try:
            with torch.device("meta"):
                return self._created()
        except (NotImplementedError, RuntimeError):
            pass
        except Exception as error:
            raise self._refused(error) from error
        try:
            return self._created()
        except Exception as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> UsageError:
        what = " and ".join(f"{name} {value}" for name, value in self.further.items()) or "no further arguments"
        return UsageError("value-invalid", f"--model.net: timm can't make {self.name} with {what} ({reason(error)})")

    def _created(self, pretrained: bool = False, **more: Any) -> nn.Module:
        import timm

        arguments = {"num_classes": self.num_classes, **self.further, **more}
        if not pretrained:
            return timm.create_model(self.name, **arguments)
        named = f"--model.net.pretrained true: the weights of {self.name}"
        try:
            return timm.create_model(self.name, pretrained=True, **arguments)
        except TypeError:
            raise
        except RuntimeError as error:  # load_state_dict's
            todo = "use --model.net.stem original or --model.net.pretrained false"
            raise UsageError("network-unfit", f"{named} don't fit the network ({reason(error)}); {todo}") from error
        except Exception as error:  # a library for each protocol
            sentence = f"{named} can't be had ({reason(error)})"
            raise UserError("download-failed", f"{sentence}; try again, or train without them") from error

    def _sides(self, enlargement: float) -> list[int]:
        """Returns some sizes of images that the network can take, near that which it can't."""
        found: list[int] = []
        for side in sorted(SIDES, key=lambda each: abs(each - self.image_size)):
            try:
                with torch.device("meta"):
                    self._made(side, enlargement, pretrained=False)
            except Exception:  # as above
                continue
            found.append(side)
            if len(found) == 3:
                break
        return sorted(found)


def check_name(name: str, pretrained: bool) -> None:
    """Raises UsageError or UserError unless timm has a network of this name, and its weights can be had if needed."""
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            "package-missing", "--model.net Timm needs the package timm: pip install -e '.[timm]'"
        ) from error
    networks = [*timm.list_models(), *timm.list_models(include_tags=True)]
    is_renamed = name not in networks and re.fullmatch(r"\w+", name) and timm.is_model(name)  # timm still makes it
    if name not in networks and not is_renamed:
        base, dot, _ = name.rpartition("/")[2].lower().partition(".")
        near = [each for each in networks if each.startswith(f"{base}{dot}")] if dot else []
        near = near[:3] or difflib.get_close_matches(base, networks, 3)
        todo = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists all"
        raise UsageError("network-unknown", f"--model.net.name {name}: timm has no network of this name; {todo}")
    if pretrained and not is_renamed and not timm.is_model_pretrained(name):
        near = timm.list_pretrained(f"{name.partition('.')[0]}*")[:3]
        todo = f"there are those of {' or '.join(near)}" if near else "leave it out"
        raise UsageError("value-invalid", f"--model.net.pretrained true: timm has no weights of {name}; {todo}")
    if pretrained:
        require_reachable(name)


def require_reachable(name: str) -> None:
    """Raises UserError unless a network's weights are in the cache or their server answers; timm tries for a minute."""
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    hub = getattr(config, "hf_hub_id", None)
    if hub and any(isinstance(try_to_load_from_cache(hub, file), str) for file in WEIGHT_FILES):
        return
    address = constants.ENDPOINT if hub else getattr(config, "url", None)
    try:
        urlopen(Request(str(address), method="HEAD"), timeout=10).close()
    except HTTPError:  # which is an answer
        pass
    except OSError as error:
        why = reason(getattr(error, "reason", error))
        sentence = f"--model.net.pretrained true: the weights of {name} can't be downloaded ({why})"
        raise UserError("download-failed", f"{sentence}; try again, or train without them") from error
