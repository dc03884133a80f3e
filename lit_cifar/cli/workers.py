"""Processes that train one job after another, for commands that train many times.

A worker imports torch and opens the images once. What a training prints goes into `output.txt` in its folder. A run
that is finished is not trained again, and one that was interrupted goes on, if they are of the same configuration and
the same images. A worker that dies, for lack of memory or by a signal, costs only its job: another takes its place.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from lit_cifar.cli.worker_process import SECONDS_TO_END, Checked, Job, Outcome, begin, check, train

LOST = Outcome(
    "failed",
    code="process-lost",
    sentence="its process was killed: perhaps for lack of memory, or by someone",
    exit_code=1,
)


class Workers:
    """Runs jobs in worker processes, `count` at a time; a context manager, which ends what still runs.

    Several workers share the GPUs, each with one of them, or the cores.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._slots = [_Slot(index, count) for index in range(count)]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for slot in self._slots:
                slot.terminate()  # a training first writes its checkpoint
            until = time.monotonic() + SECONDS_TO_END
            for slot in self._slots:
                slot.join(until)
        finally:  # also after a second Ctrl-C
            for slot in self._slots:
                slot.close()

    def check(self, jobs: Iterable[Job]) -> Iterator[Checked]:
        """Yields for each job what it would train on, or why it is refused; nothing is written."""
        for job in jobs:
            yield self._slots[0].check(job)

    def run(
        self, jobs: Iterable[Job], progress: Callable[[Job, float], None] = lambda job, share: None
    ) -> Iterator[tuple[Job, Outcome]]:
        """Yields jobs in the order in which they end; a job is taken from `jobs` when a worker is free for it.

        `progress` is called about once a second with a job and the share of its training that is done.
        """
        waiting, free = iter(jobs), [*self._slots]
        running: dict[Future[Outcome], tuple[_Slot, Job]] = {}
        while True:
            while free and (job := next(waiting, None)) is not None:
                slot = free.pop(0)
                running[slot.start(job)] = slot, job
            if not running:
                return
            ended, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for slot, job in running.values():
                if (share := slot.share_done()) is not None:
                    progress(job, share)
            for future in ended:
                slot, job = running.pop(future)
                outcome = slot.outcome(future)
                free.append(slot)
                yield job, outcome


class _Slot:
    """A place for one worker at a time."""

    def __init__(self, index: int, count: int) -> None:
        self._index, self._count = index, count
        self._pool: ProcessPoolExecutor | None = None
        self._ending: list[Any] = []

    def start(self, job: Job) -> Future[Outcome]:
        return self._worker().submit(train, job)

    def check(self, job: Job) -> Checked:
        try:
            return self._worker().submit(check, job).result()
        except BrokenProcessPool:
            self.close()
            return Checked(LOST)

    def _worker(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._heard, self._said = context.Pipe(duplex=False)
            of_worker = (self._index, self._count, self._said)
            self._pool = ProcessPoolExecutor(1, context, initializer=begin, initargs=of_worker)
        return self._pool

    def share_done(self) -> float | None:
        """Returns the newest share that the worker has told, if any since the last call."""
        share = None
        while self._heard.poll():
            share = self._heard.recv()
        return share

    def outcome(self, future: Future[Outcome]) -> Outcome:
        try:
            return future.result()
        except BrokenProcessPool:
            self.close()
            return LOST

    def terminate(self) -> None:
        if self._pool is None:
            return
        self._ending = [*(self._pool._processes or {}).values()]
        for worker in self._ending:
            worker.terminate()
        self._pool.shutdown(wait=False, cancel_futures=True)  # or a worker whose training has ended would wait for more

    def join(self, until: float) -> None:
        for worker in self._ending:
            worker.join(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        if self._pool is None:
            return
        for worker in [*self._ending, *(self._pool._processes or {}).values()]:
            worker.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool, self._ending = None, []
        for end in (self._heard, self._said):
            end.close()
