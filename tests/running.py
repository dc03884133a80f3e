"""Runs the command line in processes of their own, and compares what two runs left."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

DRAWN = ("fit", "--data.dataset=drawn", "--data.batch_size=8", "--data.val_size=1000")
RUN = Path("lightning_logs", "tutorial-drawn", "version_0")


def start(*argv: str | Path) -> "subprocess.Popen[str]":
    """`python -m lit_cifar ...` in a process group of its own."""
    command = [sys.executable, "-m", "lit_cifar", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run(*argv: str | Path) -> str:
    """What a run that must end well prints."""
    process = start(*argv)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return out


def run_folder(root: Path) -> Path:
    """That of the only run with a last.ckpt: one killed before its first is begun anew, in the next folder."""
    (last,) = root.glob(str(RUN.with_name("version_*") / "checkpoints" / "last.ckpt"))
    return last.parent.parent


def last_checkpoint(root: Path) -> dict[str, Any]:
    """The content of last.ckpt, without what tells of folders and wall time."""
    checkpoint = torch.load(run_folder(root) / "checkpoints" / "last.ckpt", weights_only=True)
    del checkpoint["lit_cifar"]["history"]["trained"]["seconds"]
    for state in checkpoint["callbacks"].values():
        for key in ("dirpath", "best_model_path", "best_k_models", "kth_best_model_path", "last_model_path"):
            state.pop(key, None)
    return checkpoint


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Every place where two nested structures differ in a single bit."""
    if type(a) is not type(b):
        return [path]
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        found = [f"{path}/{key}" for key in a.keys() ^ b.keys()]
        for key in a.keys() & b.keys():
            found += differences(a[key], b[key], f"{path}/{key}")
        return found
    if isinstance(a, list | tuple):
        found = [] if len(a) == len(b) else [f"{path} (length)"]
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            found += differences(x, y, f"{path}[{i}]")
        return found
    return [] if a == b else [path]


def tensorboard_curves(root: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar of the only run, as TensorBoard shows them, without what tells of wall time."""
    curves = curves_in(run_folder(root))
    curves.pop("fit_seconds", None)
    return curves


def curves_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def shown_settings(folder: Path) -> dict[str, Any]:
    """The hyperparameters of a run, as TensorBoard reads them; with a list of columns, it would look at no other's."""
    events = EventAccumulator(str(folder))
    events.Reload()
    assert "_hparams_/experiment" not in events.Tags()["tensors"]
    metadata = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = HParamsPluginData.FromString(metadata).session_start_info.hparams
    return {name: value.string_value or value.number_value for name, value in values.items()}


def largest_relative_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Over the weight tensors of two checkpoints, of norms."""
    weights = [name for name in a["state_dict"] if name.startswith("net.")]
    assert weights
    return max(
        float((a["state_dict"][name] - b["state_dict"][name]).norm() / a["state_dict"][name].norm()) for name in weights
    )
