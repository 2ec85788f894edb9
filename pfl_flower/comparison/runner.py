"""Run many simulations side by side, and show how far they are."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from queue import Empty
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pfl_flower.server.callbacks import RoundNews

_POLL = 0.2  # seconds between looks at the news of workers


@dataclass(frozen=True)
class Job:
    """A simulation to run: ``function(*arguments, progress)``, which a process can be sent.

    Attributes
    ----------
    label : str
        For people.
    rounds : int
        Rounds that it will play.
    """

    label: str
    rounds: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class _Queue(Protocol):
    def put(self, item: tuple[int, RoundNews]) -> None: ...
    def get_nowait(self) -> tuple[int, RoundNews]: ...


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    title: str,
    console: Console | None = None,
    listen: Callable[[Job, RoundNews], None] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run the jobs, ``workers`` at a time, behind a display of rounds, time left and scores.

    Parameters
    ----------
    jobs : sequence of Job
        What to run.
    workers : int
        Number of processes; 1 for this one.
    title : str
        Of the display.
    console : Console, optional
        To draw on; standard error by default.
    listen : callable, optional
        Called with the news of every round, in this process.

    Yields
    ------
    iterator of tuple of int and object
        Place among ``jobs`` and what it returned, as each one ends.
    """
    if not jobs:
        return
    with _Display(jobs, title, console, listen) as display:
        if workers <= 1:
            for place, job in enumerate(jobs):
                yield place, job.function(*job.arguments, partial(display.news, place))
                display.done(place)
            return
        yield from _in_processes(jobs, workers, display)


def _in_processes(
    jobs: Sequence[Job], workers: int, display: "_Display"
) -> Iterator[tuple[int, Any]]:
    # spawn, because a fork of a process in which torch has run threads may hang
    context = get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(_leave_interrupts_to_the_parent)
    queue: _Queue = manager.Queue()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (queue,))
    with manager, pool:
        futures: dict[Future[Any], int] = {
            pool.submit(_run, job.function, job.arguments, place): place
            for place, job in enumerate(jobs)
        }
        try:
            waiting = set(futures)
            while waiting:
                ended, waiting = wait(waiting, timeout=_POLL)
                for place, news in _pending(queue):
                    display.news(place, news)
                for future in ended:
                    yield futures[future], future.result()
                    display.done(futures[future])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_news: list[_Queue] = []
"""Where a worker process reports its news; given once, so that no job holds a connection."""


def _start_worker(queue: _Queue) -> None:
    _leave_interrupts_to_the_parent()
    _news.append(queue)


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], place: int) -> Any:
    def report(news: RoundNews) -> None:
        with suppress(OSError, EOFError):  # the parent was interrupted; this job ends by itself
            _news[-1].put((place, news))

    return function(*arguments, report)


def _pending(queue: _Queue) -> Iterator[tuple[int, RoundNews]]:
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return


class _Display:
    """A bar for everything, and one for each job under way."""

    def __init__(
        self,
        jobs: Sequence[Job],
        title: str,
        console: Console | None,
        listen: Callable[[Job, RoundNews], None] | None,
    ) -> None:
        self.jobs = jobs
        self.listen = listen
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rounds"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
            console=console or Console(stderr=True),
        )
        total = sum(job.rounds for job in jobs)
        self.whole = self.progress.add_task(f"[bold]{title}[/bold]", total=total, score="")
        self.tasks: dict[int, Any] = {}
        self.rounds: dict[int, int] = {}

    def __enter__(self) -> "_Display":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def news(self, place: int, news: RoundNews) -> None:
        """Show how far a job is, and its running score."""
        job = self.jobs[place]
        if place not in self.tasks:
            self.tasks[place] = self.progress.add_task(job.label, total=job.rounds, score="")
        self.rounds[place] = news.round
        score = running_score(news.means)
        self.progress.update(self.tasks[place], completed=news.round, score=score)
        self.progress.update(self.whole, completed=sum(self.rounds.values()))
        if self.listen:
            self.listen(job, news)

    def done(self, place: int) -> None:
        """Take away the bar of a job that has ended."""
        if place in self.tasks:
            self.progress.remove_task(self.tasks.pop(place))
        self.rounds[place] = self.jobs[place].rounds
        self.progress.update(self.whole, completed=sum(self.rounds.values()))


def running_score(means: Mapping[str, float]) -> str:
    """Say how good the models are so far: on validation examples where there are some."""
    for name, words in (("validation-", "validation "), ("", "test ")):
        if f"evaluate/{name}accuracy" in means:
            return f"{words}accuracy {means[f'evaluate/{name}accuracy']:.1%}"
        if f"evaluate/{name}rmse" in means:
            return f"{words}rmse {means[f'evaluate/{name}rmse']:.4g}"
    return ""
