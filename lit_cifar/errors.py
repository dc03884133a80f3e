"""The two kinds of error that a person caused or can fix. The command line prints their sentence, and no traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something outside the program went wrong, such as a damaged file, a full disk or a lost network: exit code 1.

    The `code` is what went wrong, in words joined by `-`, such as `checkpoint-damaged`: printed behind the sentence and
    asserted by tests, it stays when the sentence is reworded. The `sentence` names the file, the value, and what to do.
    """

    exit_code = 1
    on_every_rank = False
    """Whether all processes of a run raise it at once, so that only the first should print it."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class UsageError(UserError):
    """The program was asked for something it can't do, by a flag, a value or a path: exit code 2."""

    exit_code = 2


def require(is_in_range: bool, sentence: str) -> None:
    """Raises UsageError for a value that is out of range."""
    if not is_in_range:
        raise UsageError("value-out-of-range", sentence)


def meant(word: str, known: Iterable[str]) -> str:
    """Returns a question for the known word that is nearest to an unknown one, or "" if none is near."""
    close = difflib.get_close_matches(word, [*known], 1)
    return f"did you mean {close[0]}?" if close else ""


def either(choices: Iterable[str]) -> str:
    """Returns `squeeze, crop or pad`."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


def listed(names: Iterable[str], most: int = 10) -> str:
    """Returns the first names, and how many there are if there are more."""
    names = [*names]
    return ", ".join(names[:most]) + (f", … ({len(names):,} in all)" if len(names) > most else "")


def reason(error: Exception) -> str:
    """Returns the first line of the message of someone else's error, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":.")
