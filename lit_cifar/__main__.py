"""`python -m lit_cifar`: runs a command, and turns an error into one sentence and an exit code."""

import atexit
import errno
import gc
import os
import sys
import textwrap
import traceback
from pathlib import Path
from typing import NoReturn

from lit_cifar.cli.process import process_settings
from lit_cifar.data.files import unwritable
from lit_cifar.errors import UserError

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
UNWRITABLE |= {errno.EPERM, errno.EIO, errno.EFBIG, errno.ENAMETOOLONG}


def main() -> None:
    """Runs the command line: exit code 0, 1 for a failure, 2 for a wrong use, 130 after Ctrl-C."""
    with process_settings():
        try:
            from lit_cifar.cli.commands import run

            run(sys.argv[1:])
        except UserError as error:
            _stop(str(error), error.code, error.exit_code, is_shown=not error.on_every_rank or _is_first_rank())
        except KeyboardInterrupt:
            _stop("stopped by Ctrl-C", "interrupted", 130, is_shown=_is_first_rank())
        except BrokenPipeError:  # `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would fail to write what is left in the buffer
            sys.exit(141)
        except UnicodeEncodeError as error:  # a path with letters that a C locale has no bytes for
            sentence = f"{error.object!a} is not ASCII, the only encoding of this locale; start again with PYTHONUTF8=1"
            _stop(sentence, "encoding-unfit", 1)
        except Exception as error:
            if sys.flags.dev_mode:
                raise
            if not isinstance(error, OSError) or error.errno not in UNWRITABLE:
                place = traceback.extract_tb(error.__traceback__)[-1]
                what = textwrap.shorten(f"{type(error).__name__}: {error}", 500, placeholder=" …")
                where = f"({place.filename}, line {place.lineno}); python -X dev -m lit_cifar … shows the traceback"
                _stop(f"{what} {where}", "unexpected", 1)
            path = Path(error.filename2 or error.filename or "a file")  # filename2: where a copy should have gone
            refusal = unwritable(path.absolute(), error)
            _stop(str(refusal), refusal.code, 1)


def _is_first_rank() -> bool:
    """Of several processes, by the variables with which Lightning, torchrun and Slurm number them."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def _stop(sentence: str, code: str, exit_code: int, is_shown: bool = True) -> NoReturn:
    if is_shown:  # it may quote a file's content, which must not control the terminal
        printable = "".join(letter if letter.isprintable() else "?" for letter in sentence)
        print(f"lit_cifar: {printable} [{code}]", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    atexit.register(gc.freeze)  # or Python would search a million objects for garbage before it ends: 1 s
    main()
