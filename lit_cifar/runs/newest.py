"""Which checkpoint `best` and `last` mean: those of the newest run that is intact."""

from collections.abc import Sequence
from pathlib import Path

from lit_cifar.errors import UsageError, UserError
from lit_cifar.runs.checkpoint import RUNS, read_checkpoint


def named_checkpoint(path: str | None, root: Path) -> Path:
    """The one of this path; or that of the newest run under `root`, whatever its recipe, where it is `best` or `last`.

    None means that run's best, or its last where nothing was held out to tell the best by.

    Raises:
        UsageError: there is none, or the newest run has no best.
    """
    if path not in (None, "best", "last"):
        return Path(path)
    runs, any_run = root / RUNS, "*/version_*/checkpoints"
    newest = newest_checkpoint([runs], f"{any_run}/*st.ckpt")
    if newest and path is None:
        return newest_checkpoint([newest.parent], "best.ckpt") or newest
    if newest and path == "best" and not newest.with_name("best.ckpt").exists():
        raise UsageError(
            f"the newest run, {newest.parents[1]}, has no best.ckpt: nothing was held out of its training to tell the"
            " best by, or it has only begun; take --ckpt_path last, or name a checkpoint"
        )
    found = newest and (
        newest_checkpoint([newest.parent], f"{path}.ckpt") or newest_checkpoint([runs], f"{any_run}/{path}.ckpt")
    )
    if found:
        return found
    raise UsageError(
        f"there is no intact {path or 'best'}.ckpt in {runs}/*/version_*/checkpoints; train with"
        " python -m lit_cifar fit, or name a checkpoint with --ckpt_path"
    )


def newest_checkpoint(folders: Sequence[Path], pattern: str) -> Path | None:
    """The newest intact checkpoint of this pattern, such as `version_*/checkpoints/last.ckpt`, else None."""
    paths = [path for folder in folders for path in folder.glob(pattern)]
    for path in sorted(paths, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        try:
            read_checkpoint(path)
        except UserError:
            continue  # cut short or damaged: the one before it may do
        return path
    return None
