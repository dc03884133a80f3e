"""What a command changes in its process, and puts back when it ends.

`process_settings` is entered before torch is imported, since some of torch's settings are read at its import;
`library_settings` is entered after the import, since Lightning's import sets logging levels itself.
"""

import codecs
import gc
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import Any

from lit_cifar.training.quiet import quiet

BEFORE_TORCH = {
    "KINETO_LOG_LEVEL": "6",  # torch's profiler would report its stages, and that there is no GPU
    # How long gcc's OpenMP threads spin while they wait: as fast as its own 300,000 turns, but with two runs on two
    # cores an epoch at batch 64 takes 5 s instead of up to 27
    "GOMP_SPINCOUNT": "4000",
}
SUBSTITUTES = {"█": "#", "…": "...", "×": "x", "–": "-", "±": "+-", "★": "*"}


@contextmanager
def process_settings() -> Iterator[None]:
    """Sets environment variables, garbage collection and output streams for one command."""
    environment, is_collecting, frozen = dict(os.environ), gc.isenabled(), gc.get_freeze_count()
    os.environ.update(BEFORE_TORCH | environment)
    if "JPY_PARENT_PID" in environment:  # `!command` in a notebook: a terminal in which nothing can be drawn again
        os.environ.setdefault("TTY_COMPATIBLE", "0")
    gc.disable()  # importing torch and Lightning makes a million objects and no garbage: 0.5 s of 4.5
    try:
        with _streams():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        gc.collect()  # what the command leaves; what was imported is still frozen
        if not frozen:
            gc.unfreeze()
        (gc.enable if is_collecting else gc.disable)()


@contextmanager
def library_settings() -> Iterator[None]:
    """Silences remarks that a user can't act on, and teaches jsonargparse and PyYAML the types of our parameters."""
    if not gc.get_freeze_count():
        gc.freeze()
    gc.enable()  # for what is made after the imports
    with warnings.catch_warnings(), quiet(), ExitStack() as stack:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about metadata, and about sizes that are refused anyway
        if "pytorch_lightning" in sys.modules:
            from torch import distributed

            from lit_cifar.runs.folder import quiet_about_disk_errors

            @stack.callback
            def leave_process_group() -> None:  # Gloo's threads, if still running at the end, may abort the process
                if distributed.is_available() and distributed.is_initialized():
                    distributed.destroy_process_group()

            stack.callback(setattr, threading, "excepthook", threading.excepthook)
            threading.excepthook = quiet_about_disk_errors
            stack.enter_context(_registered_types())
        yield


@contextmanager
def _streams() -> Iterator[None]:
    """Opens closed streams, so that no file of ours gets their numbers, and replaces what an encoding lacks."""
    codecs.register_error("lit_cifar", _substituted)
    with ExitStack() as stack:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            stream = getattr(sys, name)
            if stream is None:
                stack.callback(setattr, sys, name, None)
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
            elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
                stack.callback(_set_errors, stream, stream.errors)
                _set_errors(stream, "lit_cifar")
        yield


def _set_errors(stream: io.TextIOWrapper, errors: str | None) -> None:
    if not stream.closed:
        stream.reconfigure(errors=errors)


def _substituted(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(SUBSTITUTES.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


@contextmanager
def _registered_types() -> Iterator[None]:
    """Types that Lightning's callbacks and torchvision's transforms have as parameters, and config.yaml must hold."""
    from numbers import Number

    import torch
    import yaml
    from jsonargparse.typing import register_type, registered_type_handlers

    from lit_cifar.runs.card import as_list

    ours: tuple[type, ...] = (torch.device, torch.Tensor, Number)
    handlers = {kind: handler for kind, handler in registered_type_handlers.items() if kind in ours}
    register_type(torch.device)
    register_type(torch.Tensor, as_list, _tensor)  # such as a loss's class weights
    register_type(Number, lambda value: value, _number, type_check=isinstance)  # such as RandomRotation's degrees
    is_inherited = "yaml_multi_representers" not in vars(yaml.SafeDumper)
    representers = yaml.SafeDumper.yaml_multi_representers
    as_value = {Enum: lambda dumper, value: dumper.represent_data(value.value)}
    yaml.SafeDumper.yaml_multi_representers = representers | as_value
    try:
        yield
    finally:
        yaml.SafeDumper.yaml_multi_representers = representers
        if is_inherited:
            del yaml.SafeDumper.yaml_multi_representers
        for kind in ours:
            del registered_type_handlers[kind]
        registered_type_handlers.update(handlers)


def _tensor(value: Any) -> Any:
    import torch
    import yaml

    numbers = yaml.safe_load(value) if isinstance(value, str) else value
    tensor = torch.as_tensor(numbers, dtype=torch.get_default_dtype())
    if tensor.numel() < 2:  # such as a learning rate, which may be a tensor too
        raise ValueError(f"{value} is not a list of numbers")
    return tensor


def _number(text: Any) -> Any:
    import yaml

    value = yaml.safe_load(text) if isinstance(text, str) else text
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{text} is not a number")
    return value
