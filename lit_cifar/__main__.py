"""`python -m lit_cifar`: runs a command, and turns an error into one sentence and an exit code."""

import errno
import gc
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from lit_cifar import streams
from lit_cifar.errors import UserError

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
UNWRITABLE |= {errno.EPERM, errno.EIO, errno.EFBIG, errno.ENAMETOOLONG}


def main() -> None:
    """Runs the command line: exit code 0, 1 for a failure, 2 for a wrong use, 130 after Ctrl-C.

    An error that nobody foresaw gets a sentence too; Python's development mode (`python -X dev`) shows its traceback.
    """
    streams.make_usable()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler tells its stages, and that there is no GPU
    # Turns that gcc's OpenMP threads spin while they wait: as fast as its own 300,000, but where two runs share two
    # cores, an epoch at batch 64 took 5 s, not up to 27
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")
    gc.disable()  # importing torch and Lightning makes a million objects and no garbage: 0.5 s of 4.5
    try:
        from lit_cifar.cli.lightning import run

        gc.freeze()
        gc.enable()
        run(sys.argv[1:])
    except UserError as error:
        if error.on_every_rank and not _is_first_rank():
            sys.exit(error.exit_code)
        _stop(f"{error} [{error.code}]" if error.code else str(error), error.exit_code)
    except KeyboardInterrupt:
        if not _is_first_rank():
            sys.exit(130)
        _stop("stopped by Ctrl-C", 130)
    except BrokenPipeError:  # `| head`
        streams.leave_broken_pipe()
        sys.exit(141)
    except UnicodeEncodeError as error:  # a path with letters that a C locale has no bytes for
        _stop(f"{error.object!a} is not ASCII, and this locale knows nothing else; start again with PYTHONUTF8=1", 1)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        if not isinstance(error, OSError) or error.errno not in UNWRITABLE:
            _stop(_unforeseen(error), 1)
        from lit_cifar.files import unwritable

        where = error.filename2 or error.filename or Path("a file")  # of a copy, where it should have gone
        _stop(str(unwritable(Path(where).absolute(), error)), 1)


def _is_first_rank() -> bool:
    """Of several processes, by the variables with which Lightning, torchrun and Slurm number them."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _unforeseen(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(f"{type(error).__name__}: {error}".split())
    what = what if len(what) <= 500 else f"{what[:500]} …"
    return f"{what} ({place.filename}, line {place.lineno}); python -X dev -m lit_cifar … shows the way there"


def _stop(sentence: str, code: int) -> NoReturn:
    # it may quote what a stranger wrote, for a terminal to obey
    shown = "".join(letter if letter.isprintable() else "?" for letter in sentence)
    print(f"lit_cifar: {shown}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
