"""What a worker does: it prepares itself once, and then trains one job after another."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import isfinite
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lit_cifar.cli.process import library_settings
from lit_cifar.errors import UserError, reason

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from lit_cifar.cli.build import Run

SECONDS_TO_END = 60.0  # for a training that is told to end, to write its checkpoint
State = Literal["finished", "interrupted", "diverged", "stopped", "failed"]


@dataclass(frozen=True)
class Job:
    """A training, which a worker does in a folder of its own."""

    name: str
    words: tuple[str, ...]
    """What follows `python -m lit_cifar fit`, without `--trainer.default_root_dir` and what shows progress."""
    folder: Path
    """The folder of its `lightning_logs/`."""
    is_enough: Callable[[int, float], bool] | None = None
    """Asked after each validation, with the number of the epoch, from 1, and the accuracy: True ends the training.

    It is called in the worker, and must be picklable. After the last epoch, there is nothing left to end."""
    tests: bool = True
    """Whether to measure the test images after training: a job that doesn't leaves no report."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    state: State
    """`stopped` by `is_enough`; `failed` if it was refused, or ended with an error or its process."""
    run: Path | None = None
    """The run folder; with report.json if the state is `finished` and the job tests."""
    trained: bool = True
    """False if it had been finished before."""
    val_accuracy: float | None = None
    """Of the best weights, or the last if nothing else is known, of a job that was finished now."""
    code: str = ""
    sentence: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Checked:
    """What a job would train on, or why it is refused."""

    refusal: Outcome | None = None
    data: dict[str, Any] = field(default_factory=dict)
    """`title`, `classes`, numbers of `train`, `val` and `test` images, and `why_drawn`; empty for modules of a user's
    own, which write no report."""


_said: Connection | None = None  # of a worker: to tell its parent how far it is


def begin(index: int, count: int, said: Connection) -> None:
    """Prepares a worker, before torch is imported."""
    global _said
    _said = said
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, and a training while it lasts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if count > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
        import torch

        if gpus := torch.cuda.device_count():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[index % len(visible)]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # a training writes its checkpoint
    time.sleep(SECONDS_TO_END)
    os._exit(1)


def train(job: Job) -> Outcome:
    """Does a job, in a worker."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with _prepared(job.folder / "output.txt"):
        until = time.monotonic() + SECONDS_TO_END
        while (outcome := _outcome(job)).code == "run-locked" and time.monotonic() < until:
            time.sleep(1)  # the worker of a command that was just killed still writes its checkpoint
        if outcome.sentence:
            print(f"lit_cifar: {outcome.sentence} [{outcome.code}]", file=sys.stderr)
        return outcome


def check(job: Job) -> Checked:
    """Tries everything that `fit` tries before it writes, in a worker: words, images, network, loss and optimizer."""
    from lit_cifar.cli.arguments import refusals_of_lightning
    from lit_cifar.cli.build import build
    from lit_cifar.training.classifier import LitClassifier

    with _prepared(Path(os.devnull)):
        try:
            with refusals_of_lightning():
                run = build("fit", _fit_words(job, "--resume=never"), "")
        except Exception as error:
            return Checked(_failure(error))
        if not isinstance(run.model, LitClassifier) or run.trainer.fast_dev_run or not run.trainer.loggers:  # type: ignore[attr-defined]
            return Checked()
        data: Any = run.data
        counts = {"train": len(data.images.train.labels), "test": len(data.images.test.labels)}
        counts["val"] = data.val_size if run.trainer.limit_val_batches else 0
        about = {"title": data.title, "classes": list(data.classes), "why_drawn": data.images.why_drawn}
        return Checked(data=about | counts)


_stays_open: ExitStack | None = None  # of a worker: the images


@contextmanager
def _prepared(output: Path) -> Iterator[None]:
    """Prepares the process for one job, and puts back what the job changes in it."""
    import lit_cifar.cli.fit  # noqa: F401  # library_settings changes what Lightning's import sets
    from lit_cifar.data.sources import kept_open

    global _stays_open
    if _stays_open is None:
        _stays_open = ExitStack()
        _stays_open.enter_context(kept_open())
    environment, words = dict(os.environ), [*sys.argv]
    try:
        with _printing_to(output), library_settings():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:] = words


def _fit_words(job: Job, *more: str) -> list[str]:
    """The words of `fit`, also for the further processes of a training on several devices, which repeat sys.argv."""
    folder = f"--trainer.default_root_dir={job.folder}"
    words = [*job.words, folder, "--trainer.enable_progress_bar=false", *more]
    sys.argv[1:] = ["fit", *words]
    return words


def _outcome(job: Job) -> Outcome:
    from lit_cifar.cli.arguments import refusals_of_lightning
    from lit_cifar.runs.folder import release

    try:
        with refusals_of_lightning():
            return _trained(job)
    except Exception as error:
        return _failure(error)
    finally:
        release()


def _trained(job: Job) -> Outcome:
    from lit_cifar.cli.build import build
    from lit_cifar.cli.fit import carry_out

    run = build("fit", _fit_words(job, "--resume=never"), "")
    before, is_finished = _same_before(run, job.folder)
    if before and is_finished and job.tests:
        return Outcome("finished", before, trained=False)
    if before:
        config = _config(run).content
        run = build("fit", _fit_words(job, f"--ckpt_path={before / 'checkpoints/last.ckpt'}"), "")
        _config(run).content = config  # a checkpoint changes defaults
    if job.is_enough:
        run.trainer.callbacks.insert(0, _ending_early(job.is_enough))
    with _telling_progress(run):
        carry_out("fit", run, job.tests)
    folder = Path(getattr(run.trainer.logger, "log_dir", job.folder))  # trainer.log_dir asks other ranks: they ended
    if not job.tests or (folder / "report.json").is_file():
        return Outcome("finished", folder, val_accuracy=_val_accuracy(run))
    sentence = "it wrote no report: leave --trainer.logger on, and use images with a folder test"
    return Outcome("failed", code="report-missing", sentence=sentence, exit_code=2)


def _failure(error: Exception) -> Outcome:
    from torch import OutOfMemoryError

    from lit_cifar.training.history import DivergedError

    if isinstance(error, UserError):
        ended: dict[str, State] = {"interrupted": "interrupted", "stopped": "stopped"}
        state = "diverged" if isinstance(error, DivergedError) else ended.get(error.code, "failed")
        return Outcome(state, code=error.code, sentence=str(error), exit_code=error.exit_code)
    is_memory = isinstance(error, MemoryError | OutOfMemoryError)
    code, what = ("out-of-memory", "it ran out of memory") if is_memory else ("unexpected", type(error).__name__)
    return Outcome("failed", code=code, sentence=f"{what}: {reason(error)}", exit_code=1)


def _config(run: "Run") -> Any:
    from lit_cifar.runs.folder import WholeConfig

    return next((each for each in run.trainer.callbacks if isinstance(each, WholeConfig)), WholeConfig(""))


def _val_accuracy(run: "Run") -> float | None:
    accuracy = run.best.best_model_score if run.best else run.trainer.callback_metrics.get("accuracy/val")
    return None if accuracy is None else float(accuracy)


def _same_before(run: "Run", root: Path) -> tuple[Path | None, bool]:
    """Returns the folder of an earlier run of the same configuration and images, and whether it is finished."""
    from lit_cifar.runs.checkpoint import read_checkpoint
    from lit_cifar.runs.state import RUNS

    config = _config(run).content
    folders = sorted(root.glob(f"{RUNS}/*/version_*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in folders:
        try:
            if (folder / "config.yaml").read_text(encoding="utf-8") != config:
                continue
            card = read_checkpoint(folder / "checkpoints" / "last.ckpt").card
            if not card.differences(run.model.make_card(run.data, run.trainer)):  # type: ignore[operator]
                return folder, (folder / "report.json").is_file()
        except (UserError, OSError, ValueError):  # damaged, or cut short before its first checkpoint
            continue
    return None, False


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Appends to a file what this process and its children print."""
    with ExitStack() as stack, path.open("ab") as file:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            before = os.dup(number)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, number)
            stack.callback(stream.flush)
            os.dup2(file.fileno(), number)
        yield


@contextmanager
def _telling_progress(run: "Run") -> Iterator[None]:
    """Tells the parent about once a second how much of a training is done: from another thread, at no cost to it."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(1):
            try:
                if _said is not None:
                    _said.send(_share_done(run.trainer))
            except OSError:  # the parent is gone
                return

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _share_done(trainer: "Trainer") -> float:
    steps = (trainer.max_epochs or 0) * trainer.num_training_batches / trainer.accumulate_grad_batches
    steps = steps if trainer.max_steps < 0 else trainer.max_steps
    return min(1.0, trainer.global_step / steps) if steps > 0 and isfinite(steps) else 0.0


def _ending_early(is_enough: Callable[[int, float], bool]) -> Any:
    """Returns a callback that ends a training after a validation, if that is enough."""
    from pytorch_lightning.callbacks import LambdaCallback

    def ask(trainer: Any, module: Any) -> None:
        accuracy = trainer.callback_metrics.get("accuracy/val")
        epoch = trainer.current_epoch + 1
        if accuracy is None or trainer.state.fn != "fit":
            return
        if is_enough(epoch, float(accuracy)) and epoch != trainer.max_epochs:
            raise UserError("stopped", f"stopped after epoch {epoch}")

    return LambdaCallback(on_validation_end=ask)
