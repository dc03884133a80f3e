"""The kinds of file that `export` writes, and how each is run again.

ONNX and torch.export files take pictures, uint8 `[N, H, W, 3]` of any N, H and W, and give probabilities `[N, C]`: all
preprocessing is inside, and they run without lit_cifar.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_cifar.deploy.standalone import Standalone
from lit_cifar.errors import UserError, reason
from lit_cifar.runs.network import build_net

CONFIG = "config.json"
OPSET = 18  # of December 2022, so that old runtimes take it; the newest that torch's exporter writes without converting


class Format(NamedTuple):
    """How a kind of file is written and run."""

    suffix: str
    packages: tuple[str, ...]
    """What it needs beyond lit_cifar's own dependencies."""
    write: Callable[[Standalone, dict[str, Any], Path], None]
    """Takes the network, what describes it (JSON), and the file."""
    open: Callable[[Path], Callable[[Tensor], Tensor]]
    """Gives what turns uint8 `[N, H, W, 3]` into probabilities `[N, C]`."""


def _write_onnx(network: Standalone, description: dict[str, Any], path: Path) -> None:
    axes = {0: "N", 1: "H", 2: "W"}
    with _quietly("onnx", network):
        program = torch.onnx.export(
            _traced(network),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pictures"],
            output_names=["probabilities"],
            dynamic_shapes={"pictures": axes},
            external_data=False,
            verbose=False,
        )
        assert program is not None
        for key, value in description.items():
            program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
        program.save(path, external_data=False)


def _open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors alone: it warns of graphics cards that it does not find
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pictures: torch.from_numpy(session.run(None, {"pictures": pictures.numpy()})[0])


def _write_torch(network: Standalone, description: dict[str, Any], path: Path) -> None:
    file = io.BytesIO()  # written to disk by Python, whose errors say why they could not
    with _quietly("torch", network):
        torch.export.save(_traced(network), file, extra_files={CONFIG: json.dumps(description)})
    path.write_bytes(file.getvalue())


def _open_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _write_safetensors(network: Standalone, description: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save

    # each tensor on its own: the format knows none that share memory, nor any order of memory but the plain one
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
    return Standalone(net, config["mean"], config["std"])


def _traced(network: Standalone) -> torch.export.ExportedProgram:
    dynamic = torch.export.Dim.DYNAMIC
    example = torch.zeros(2, 40, 50, 3, dtype=torch.uint8)  # no two alike, so that none is taken for another
    return torch.export.export(network, (example,), dynamic_shapes=({0: dynamic, 1: dynamic, 2: dynamic},))


@contextmanager
def _quietly(name: str, network: Standalone) -> Iterator[None]:
    """Keeps back torch's remarks, and says in one sentence what it can't export."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise  # of the disk
    except Exception as error:  # a forward may be any Python, and so may what it raises
        raise UserError(
            f"--format {name}: torch can't export {type(network.net).__name__} ({reason(error)});"
            " change its forward, or take --format safetensors, which needs no trace of it"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _open_onnx),
    "torch": Format(".pt2", (), _write_torch, _open_torch),
    "safetensors": Format(".safetensors", ("safetensors",), _write_safetensors, _open_safetensors),
}
