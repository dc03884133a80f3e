"""The two errors that a person caused or can mend; the command line prints their one sentence and no traceback."""


class UserError(Exception):
    """Something outside the program went wrong (a damaged file, a full disk, no network): exit code 1.

    Its message is one sentence that names the file, the value and what to do.
    """

    exit_code = 1
    on_every_rank = False
    """Whether all of several processes have it at once, so that the first alone should say it."""


class UsageError(UserError):
    """The program was asked for something that it can't do (a flag, a value, a path): exit code 2."""

    exit_code = 2


def reason(error: Exception) -> str:
    """The first line of what an error of others' code says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":.")
