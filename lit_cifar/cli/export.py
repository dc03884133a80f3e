"""`python -m lit_cifar export`: a trained network as a file that runs elsewhere.

Before the file takes its name it is run on 1,000 images: it must predict the same classes as `LitClassifier.predict`,
and probabilities within 10⁻⁴ of it.
"""

import json
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor

from lit_cifar.cli.parser import Parser
from lit_cifar.data.sources import holds_images, open_images
from lit_cifar.data.synthetic import draw
from lit_cifar.deploy.formats import CONFIG, FORMATS, Format
from lit_cifar.deploy.standalone import Standalone
from lit_cifar.errors import UsageError, UserError, reason
from lit_cifar.files import whole
from lit_cifar.report.run_report import PACKAGES
from lit_cifar.runs.checkpoint import Checkpoint, find_checkpoint
from lit_cifar.runs.network import own_net
from lit_cifar.training.classifier import LitClassifier

IMAGES = 1000  # that the file is checked on
LIMIT = 1e-4  # to which a probability must agree: other kernels round otherwise, by about 1e-7


def main(argv: list[str]) -> None:
    """Writes the file, checks it, and prints its size and how far its probabilities are off."""
    parser = Parser(
        prog="python -m lit_cifar export",
        description="Write a trained network, with its preprocessing, to a file that runs elsewhere.",
    )
    parser.add_argument("--ckpt_path", type=str, help="A path, or best or last of the newest run; by default its best.")
    parser.add_argument("--format", type=Literal["onnx", "torch", "safetensors"], default="onnx", help="Kind of file.")
    parser.add_argument("--output", type=Path, help="File to write; by default model with the format's suffix.")
    parser.add_argument("--data.root", type=Path, default=Path("data"), help="Folder with the test images.")
    parser.add_argument("--model.net", type=str, help="Class path of your own network, where the checkpoint is of one.")
    parser.add_argument(
        "--trainer.default_root_dir", type=Path, default=Path(), help="Folder in which lightning_logs lies."
    )
    config = parser.parse_args(argv)
    kind = FORMATS[config.format]
    output = config.output or Path(f"model{kind.suffix}")
    _check_output(output, config.format, kind)
    _check_packages(config.format, kind)
    checkpoint = find_checkpoint(config.ckpt_path, config.trainer.default_root_dir)
    path = checkpoint.path
    classifier, description = _load(checkpoint, config.model.net)
    images, of_what = _some_images(config.data.root, description["dataset"])
    console = Console(file=sys.stderr)  # this one, for torch is kept from writing to it

    def busy(what: str) -> AbstractContextManager[Any]:
        return console.status(what) if console.is_terminal else nullcontext()

    network = Standalone(classifier.net, classifier.mean, classifier.std)
    size = sum(weight.nbytes for weight in classifier.net.state_dict().values())
    with whole(output, size, "--output") as part:  # the files have their names in its folder until they are checked
        with busy(f"Exporting {path}"):
            kind.write(network, description, part)
        with busy(f"Checking on {len(images):,} images"):
            difference = _difference(kind, part, classifier, images, output)
        written = [output.with_name(file.name) for file in sorted(part.parent.iterdir(), reverse=True)]
    print(f"Checkpoint: {path}, {type(classifier.net).__name__}, {len(classifier.classes)} classes")
    print(
        f"Checked on {len(images):,} {of_what}: the same predictions, and probabilities within {difference:.1g}"
        " of LitClassifier.predict"
    )
    for file in written:
        print(f"Written: {file}, {file.stat().st_size:,} bytes")


def _check_output(output: Path, name: str, kind: Format) -> None:
    """Refuses a name that can't be meant, or that would destroy something else."""
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file in it, such as {output / f'model{kind.suffix}'}")
    if output.suffix != kind.suffix:
        raise UsageError(f"--output {output} must end in {kind.suffix}, as files of --format {name} do")
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: there is no folder {output.parent}; create it, or name another")
    config = output.with_name(CONFIG)
    if name == "safetensors" and config.exists() and _weights_of(config) != output.name:
        raise UsageError(
            f"--output {output} comes with a {CONFIG}, but {config} belongs to something else; name another folder"
        )


def _weights_of(config: Path) -> str | None:
    """The file that a config.json of ours describes; None for another's."""
    try:
        return str(json.loads(config.read_text(encoding="utf-8"))["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_packages(name: str, kind: Format) -> None:
    for package in kind.packages:
        try:
            import_module(package)
        except ImportError as error:
            raise UsageError(
                f"--format {name} needs the package {package}, which is not installed;"
                " install what export needs with pip install -e '.[export]'"
            ) from error


def _load(checkpoint: Checkpoint, class_path: str | None) -> tuple[LitClassifier, dict[str, Any]]:
    """The classifier of a checkpoint, and what describes it: plain values, as JSON has them."""
    path, card = checkpoint.path, checkpoint.card
    try:
        classifier = LitClassifier.load_from_checkpoint(
            checkpoint, own_net(class_path, checkpoint) if class_path else None, test_time_augmentation="none"
        )
        description = {
            "recipe": classifier.recipe,
            "net": {
                "class_path": class_path or card.net["class_path"],
                "init_args": card.net.get("init_args") or {},
            },
            "classes": list(classifier.classes),
            "mean": list(classifier.mean),
            "std": list(classifier.std),
            "dataset": card.dataset,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        }
        return classifier, json.loads(json.dumps(description))
    except (KeyError, TypeError, ValueError, AttributeError, ImportError, RuntimeError) as error:
        raise UserError(
            f"--ckpt_path {path} is damaged: its network, weights and description don't fit together ({reason(error)});"
            " use another checkpoint"
        ) from error


def _some_images(root: Path, dataset: str) -> tuple[Tensor, str]:
    """uint8 `[n, 3, 32, 32]` to check on, and what they are: of the run's data where it lies in `root`, else drawn."""
    if dataset == "drawn" or not holds_images(root):
        why = "" if dataset == "drawn" else f", since {root} holds no others"
        return draw(train=10, test=IMAGES)[1].images, f"drawn images{why}"
    images = open_images(root).test.images
    count = min(IMAGES, len(images))
    return images[torch.arange(count) * len(images) // count], f"test images in {root}"


def _difference(kind: Format, file: Path, classifier: LitClassifier, images: Tensor, output: Path) -> float:
    """The largest difference of a probability that the file gives.

    Raises:
        UserError: it is too large, another class is predicted, or the file does not run.
    """
    expected = classifier.predict(images)
    try:
        classify = kind.open(file)
        with torch.inference_mode():
            found = torch.cat([classify(batch.permute(0, 2, 3, 1).contiguous()) for batch in images.split(250)])
    except Exception as error:  # each runtime has its own
        raise UserError(
            f"--output {output} was not written, for the file does not run ({reason(error)}); try another --format"
        ) from error
    difference = float((found - expected).abs().max())
    others = int((found.argmax(1) != expected.argmax(1)).sum())
    if others or not difference <= LIMIT:
        raise UserError(
            f"--output {output} was not written, for the file does not do as the network does:"
            f" of {len(images):,} images it gives {others:,} another class, and probabilities differ by up to"
            f" {difference:.1g} (allowed: {LIMIT:.1g}); try another --format"
        )
    return difference
