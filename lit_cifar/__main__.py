"""`python -m lit_cifar`: runs a command, and turns an error into one sentence and an exit code."""

import errno
import gc
import os
import sys

from lit_cifar.errors import UserError


def main() -> None:
    """Runs the command line: exit code 0, 1 for a failure, 2 for a wrong use, 130 after Ctrl-C."""
    gc.disable()  # importing torch and Lightning makes a million objects and no garbage: 0.5 s of 4.5
    try:
        from lit_cifar.cli import run

        gc.freeze()
        gc.enable()
        run(sys.argv[1:])
    except UserError as error:
        if error.on_every_rank and os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0":
            sys.exit(error.exit_code)
        _stop(str(error), error.exit_code)
    except KeyboardInterrupt:
        _stop("stopped by Ctrl-C", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        where = (
            error.filename2 or error.filename or "the run folder"
        )  # of a copy that failed, where it should have gone
        _stop(
            f"{where} can't be written: {os.strerror(error.errno)};"
            " mend that, or name another folder with --trainer.default_root_dir",
            1,
        )


def _stop(sentence: str, code: int) -> None:
    print(f"lit_cifar: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
