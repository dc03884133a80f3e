"""Exporting a trained network to a file that runs elsewhere.

ONNX and torch.export files take pictures, uint8 `[N, H, W, 3]` of any N, H and W, and return probabilities `[N, C]`:
all preprocessing is inside, and they run without lit_cifar. A file gets its name only after it was run on images and
predicted the same as `LitClassifier.predict`.
"""

import io
import json
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lit_cifar.data.files import whole
from lit_cifar.data.sources import open_found
from lit_cifar.data.synthetic import draw
from lit_cifar.deploy.standalone import Standalone
from lit_cifar.errors import UsageError, UserError, reason
from lit_cifar.report.run_report import PACKAGES
from lit_cifar.report.tables import plural
from lit_cifar.runs.network import build_net
from lit_cifar.training.classifier import LitClassifier
from lit_cifar.training.predictor import BATCH

CONFIG = "config.json"
DESCRIBED = ("recipe", "net", "classes", "mean", "std", "image_size", "resize", "dataset")  # of the card
OPSET = 18  # of December 2022, for old runtimes; the newest that torch's exporter writes without converting
IMAGES = 1000  # of 32 pixels, on which a file is checked
LARGEST_DIFFERENCE = 1e-4  # of a probability; other kernels round differently, by about 1e-7

FormatName = Literal["onnx", "torch", "safetensors"]


class Format(NamedTuple):
    """How a kind of file is written and run."""

    suffix: str
    packages: tuple[str, ...]  # in addition to lit_cifar's own dependencies
    write: Callable[[Standalone, dict[str, Any], Path], None]  # takes the network, its description (JSON), and a path
    open: Callable[[Path], Callable[[Tensor], Tensor]]  # returns a function from uint8 `[N, H, W, 3]` to `[N, C]`


def check_output(output: Path, name: FormatName) -> None:
    """Raises UsageError if a file of this path would destroy something else, or the format's packages are missing."""
    suffix, config = FORMATS[name].suffix, output.with_name(CONFIG)
    wrong = ""
    if output.is_dir():
        wrong = f" is a folder; name a file in it, such as {output / f'model{suffix}'}"
    elif output.suffix != suffix:
        wrong = f" must end in {suffix}, as files of --format {name} do"
    elif not output.parent.is_dir():
        wrong = f": there is no folder {output.parent}; create it, or use another one"
    elif name == "safetensors" and config.exists() and _weights_of(config) != output.name:
        wrong = f" comes with a {CONFIG}, but {config} belongs to something else; use another folder"
    if wrong:
        raise UsageError("output-refused", f"--output {output}{wrong}")
    for package in FORMATS[name].packages:
        try:
            import_module(package)
        except ImportError as error:
            sentence = f"--format {name} needs the package {package}: pip install -e '.[export]'"
            raise UsageError("package-missing", sentence) from error


def _weights_of(config: Path) -> str | None:
    """Returns the file that a config.json of ours describes; None for any other config.json."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(config.read_text(encoding="utf-8"))["weights"])
    return None


def check_images(classifier: LitClassifier, root: Path) -> tuple[Tensor, str]:
    """Returns images to check a file on, uint8 `[N, 3, H, W]`, and how many of what: synthetic if `root` has none."""
    assert classifier.card is not None  # it was loaded
    card, drawn = classifier.card, classifier.card.dataset == "drawn"
    most = classifier.scaling.images_like(IMAGES)
    opened = None if drawn else open_found(root, card.dataset, card.labels, classifier.scaling)
    if opened is None:
        why = "" if drawn else f", since {root} contains no images"
        return draw(train=10, test=most)[1].images, f"{plural(most, 'synthetic image')}{why}"
    split = "test" if len(opened.test.labels) else "train"
    images = getattr(opened, split).images
    count = min(most, len(images))
    return images[torch.arange(count) * len(images) // count], f"{plural(count, f'{split} image')} in {root}"


def export(classifier: LitClassifier, name: FormatName, output: Path, images: Tensor) -> tuple[list[Path], float]:
    """Writes a file, whole or not at all, if it predicts the images like `LitClassifier.predict`, both on the CPU.

    Returns the files written and the largest difference of a probability, or raises UserError.
    """
    assert classifier.card is not None  # it was loaded
    card, kind = classifier.card.as_dict(), FORMATS[name]
    network = Standalone(classifier.net, classifier.mean, classifier.std, *classifier.scaling)
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    description = {key: card[key] for key in DESCRIBED}
    size = sum(weight.nbytes for weight in classifier.net.state_dict().values())
    with whole(output, size, "--output") as part, ExitStack() as afterwards:
        afterwards.callback(classifier.to, classifier.device)
        classifier.cpu()
        kind.write(network, description | {"versions": versions}, part)
        batches = images.split(classifier.scaling.images_like(BATCH))
        difference = _difference(kind, part, classifier.predict(images), batches, output)
        written = [output.with_name(file.name) for file in sorted(part.parent.iterdir(), reverse=True)]
    return written, difference


def _difference(kind: Format, file: Path, expected: Tensor, batches: Sequence[Tensor], output: Path) -> float:
    """Returns the largest difference of a probability, or raises UserError if the file does not do as expected."""
    refused = f"--output {output} was not written"
    if not expected.isfinite().all():
        raise UserError("diverged", f"{refused}: the network computes NaN; export another checkpoint")
    try:
        classify = kind.open(file)
        with torch.inference_mode():
            found = torch.cat([classify(batch.permute(0, 2, 3, 1).contiguous()) for batch in batches])
    except Exception as error:  # each runtime has its own
        sentence = f"{refused}: the file does not run ({reason(error)}); try another --format"
        raise UserError("export-failed", sentence) from error
    difference = float((found - expected).abs().max())
    others = int((found.argmax(1) != expected.argmax(1)).sum())
    if others or not difference <= LARGEST_DIFFERENCE:  # NaN is not
        classes = f"the file predicts another class for {others:,} of {len(expected):,} images"
        values = f"its probabilities differ by up to {difference:.1g} (allowed: {LARGEST_DIFFERENCE:.1g})"
        raise UserError("export-differs", f"{refused}: {classes}, and {values}; try another --format")
    return difference


def _write_onnx(network: Standalone, description: dict[str, Any], path: Path) -> None:
    with _quietly("onnx", network):
        program = torch.onnx.export(
            _traced(network),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pictures"],
            output_names=["probabilities"],
            dynamic_shapes={"pictures": {0: "N", 1: "H", 2: "W"}},
            external_data=False,
            verbose=False,
        )
        assert program is not None
        for key, value in description.items():
            program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
        program.save(path, external_data=False)


def _open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors only: it warns if there is no graphics card
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    finally:
        onnxruntime.set_default_logger_severity(2)  # its default, which it can't be asked for
    return lambda pictures: torch.from_numpy(session.run(None, {"pictures": pictures.numpy()})[0])


def _write_torch(network: Standalone, description: dict[str, Any], path: Path) -> None:
    file = io.BytesIO()  # written to disk by Python, whose errors say why they could not
    with _quietly("torch", network):
        torch.export.save(_traced(network), file, extra_files={CONFIG: json.dumps(description)})
    path.write_bytes(file.getvalue())


def _write_safetensors(network: Standalone, description: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save

    # copies, because the format refuses tensors that share memory or are not contiguous
    weights = {
        name: weight.clone(memory_format=torch.contiguous_format) for name, weight in network.net.state_dict().items()
    }
    path.write_bytes(save(weights))
    description = {"weights": path.name, **description}
    path.with_name(CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _open_safetensors(path: Path) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file

    config = json.loads(path.with_name(CONFIG).read_text(encoding="utf-8"))
    net = build_net(config["net"])
    net.load_state_dict(load_file(path))
    return Standalone(net, config["mean"], config["std"], config["image_size"], config["resize"])


def _traced(network: Standalone) -> torch.export.ExportedProgram:
    sizes = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)
    example = torch.zeros(2, 40, 50, 3, dtype=torch.uint8)  # no two sizes alike, so that torch can't confuse them
    return torch.export.export(network, (example,), dynamic_shapes=(sizes,))


@contextmanager
def _quietly(name: FormatName, network: Standalone) -> Iterator[None]:
    """Hides what torch prints and logs, and turns its errors into UserError."""
    silence = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(silence), redirect_stderr(silence), ExitStack() as stack:
            warnings.simplefilter("ignore")
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
            yield
    except OSError:
        raise  # of the disk
    except Exception as error:  # a forward may be any Python, and so may what it raises
        why = f"--format {name} can't export {type(network.net).__name__} ({reason(error)})"
        todo = "change its forward, or use --format safetensors, which does not trace it"
        raise UserError("export-failed", f"{why}; {todo}") from error


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx),
    "torch": Format(".pt2", (), _write_torch, lambda path: torch.export.load(path).module()),
    "safetensors": Format(".safetensors", ("safetensors",), _write_safetensors, _open_safetensors),
}
