"""Standard input and output as they may be: closed, or of an encoding that lacks our characters."""

import codecs
import io
import os
import sys

INSTEAD = {"█": "#", "…": "...", "×": "x", "–": "-", "±": "+-"}


def make_usable() -> None:
    """Opens what is closed, so that no file of ours gets its number, and lets nothing that is printed fail."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    codecs.register_error("instead", _instead)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="instead")


def _instead(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(INSTEAD.get(letter, "?") for letter in text), error.end


def leave_broken_pipe() -> None:
    """Whoever read what we print has gone: what is left in the buffer must not fail when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
