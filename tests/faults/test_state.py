"""A command leaves its process as it found it, whether it succeeds or fails, and importing the package changes nothing.

The modules of others that are imported meanwhile may change it: the commands run when all of them are imported.
"""

import gc
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Cli, checkpoint
from jsonargparse import get_loader
from jsonargparse.typing import get_registered_type, registered_type_handlers

LOGGERS = (
    "",
    "pytorch_lightning",
    "lightning_fabric",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers.mlflow",
)
YAML = (yaml.SafeDumper, yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def state() -> dict[str, Any]:
    return {
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "levels": [logging.getLogger(name).level for name in LOGGERS],
        "excepthook": threading.excepthook,
        "gc": (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()),
        "threads": torch.get_num_threads(),
        "yaml": [{k: v for k, v in vars(kind).items() if k.startswith("yaml_")} for kind in YAML],
        "jsonargparse": (get_loader("yaml"), get_registered_type(torch.device)),
        "streams": [(stream, getattr(stream, "errors", None)) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        "group": torch.distributed.is_initialized(),
    }


NO_MIRROR = "--data.mirrors=http://127.0.0.1:9/cifar-10-python.tar.gz"
COMMANDS: list[tuple[int, str, list[str]]] = [
    (0, "help", ["--help"]),
    (2, "nothing", []),
    (2, "unknown command", ["fitt"]),
    (2, "unknown flag", ["fit", "--data.rooot=x"]),
    (2, "no recipe", ["fit", "--config=nowhere.yaml"]),
    (2, "refused network", ["fit", "--data.root=pictures", "--model.net.num_classes=4"]),
    (0, "drawn instead", ["fit", "--data.root=empty", NO_MIRROR, "--trainer.max_steps=1", "--data.batch_size=100"]),
    (1, "no images", ["fit", "--config=TUTORIAL", "--data.root=empty", NO_MIRROR]),
    (0, "test", ["test", "--ckpt_path=BEST", "--data.root=pictures", "--data.val_size=6"]),
    (0, "show", ["show", "--data.root=pictures", "--data.val_size=6"]),
    (0, "predict", ["predict", "pictures/test", "--ckpt_path=BEST"]),
    (1, "damaged", ["test", "--ckpt_path=damaged.ckpt"]),
]


def make_other_than_commands_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what an earlier command may have left, which would hide that this one leaves it again."""
    warnings.resetwarnings()
    for name in LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "level", 17)
    for name in [name for name in os.environ if name.startswith(("LIT_CIFAR", "PL_", "KINETO", "GOMP"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    monkeypatch.delitem(registered_type_handlers, torch.device, raising=False)
    if "yaml_multi_representers" in vars(yaml.SafeDumper):
        monkeypatch.delattr(yaml.SafeDumper, "yaml_multi_representers")
    gc.unfreeze()


@pytest.mark.slow
def test_commands_in_one_process_leave_it_as_it_was(
    cli: Cli, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tutorial = Path("configs", "tutorial.yaml").resolve()
    monkeypatch.chdir(tmp_path)
    Path("pictures").symlink_to(runs / "pictures")
    Path("empty").mkdir()
    content = bytearray(checkpoint(runs).read_bytes())
    content[len(content) // 2] ^= 255
    Path("damaged.ckpt").write_bytes(content)
    with warnings.catch_warnings():
        make_other_than_commands_would(monkeypatch)
        before = state()
        for code, name, words in COMMANDS:
            paths = {"BEST": str(checkpoint(runs)), "TUTORIAL": str(tutorial)}
            result = cli(
                *[word.replace("BEST", paths["BEST"]).replace("TUTORIAL", paths["TUTORIAL"]) for word in words]
            )
            assert result.code == code, (name, result)
            after = state()
            assert {key: value for key, value in after.items() if value != before[key]} == {}, name


IMPORT = """
import gc, logging, os, pkgutil, sys, threading, warnings
import captum.attr, jsonargparse, onnxscript, pytorch_lightning.cli, rich, starlette, tensorboard, torch, torchvision
import torchmetrics, uvicorn, yaml, matplotlib.pyplot, PIL.Image, jinja2

def state():
    filters, levels = list(warnings.filters), [logging.getLogger(n).level for n in ("", "pytorch_lightning")]
    tables = [dict(vars(kind)) for kind in (yaml.SafeDumper, yaml.CSafeLoader)]
    collected = gc.isenabled(), gc.get_freeze_count()
    return filters, levels, tables, collected, dict(os.environ), threading.excepthook, torch.get_num_threads()

before = state()
import lit_cifar
for module in pkgutil.walk_packages(lit_cifar.__path__, "lit_cifar."):
    __import__(module.name)
for name, was, now in zip(("filters", "levels", "yaml", "gc", "environ", "hook", "threads"), before, state()):
    assert was == now, (name, was, now)
"""


def test_importing_the_package_and_all_its_modules_changes_nothing() -> None:
    result = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_the_second_command_prints_what_the_first_does(cli: Cli, tmp_path: Path) -> None:
    words = ("fit", f"--data.root={tmp_path}", NO_MIRROR, "--trainer.max_steps=1", "--data.batch_size=100")
    first, second = (cli(*words, f"--trainer.default_root_dir={tmp_path / name}") for name in ("first", "second"))
    assert first.code == second.code == 0
    assert first.err == second.err == "Downloading CIFAR-10 (170 MB) from 127.0.0.1:9\n"
    assert first.out.count("SYNTHETIC IMAGES") == second.out.count("SYNTHETIC IMAGES") == 2
