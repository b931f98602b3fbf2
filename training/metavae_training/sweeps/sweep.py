"""Many training runs: finished ones are kept, interrupted ones go on, several at once.

Every run is a `metavae-train run` of its own, on one thread by default: as many runs as cores, one
thread each, waste nothing, where threads of one small model mostly wait for each other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from metavae_training.sweeps.jobs import Job, settings
from metavae_training.trainer.build import check_settings
from metavae_training.trainer.checkpoint import Checkpoint
from metavae_training.trainer.data import check_data
from metavae_training.trainer.device import choose_device
from metavae_zoo.errors import MetavaeError
from metavae_zoo.machine import usable_cores
from metavae_zoo.stopping import STARTER, Stopped

STDERR = "stderr.txt"

_LOOK = 0.2  # seconds between two looks at the workers
_PATIENCE = 10.0  # seconds that a worker has to end

Status = Literal["kept", "trained", "failed"]


class RunsFailed(MetavaeError):
    """Runs of a sweep that did not succeed; the others did."""

    code = "runs_failed"


@dataclass(frozen=True)
class Outcome:
    """What became of a job; `error` says why it failed."""

    job: Job
    status: Status
    error: str = ""

    def __str__(self) -> str:
        if self.status == "failed":
            return f"{self.job}: failed, {self.error}"
        saved = self._saved
        return (
            f"{self.job}: {self.status}, epoch {saved.best_epoch} of {saved.epoch} is best,"
            f" validation ELBO {saved.best_validation_elbo:.3f} nats per image"
        )

    @property
    def _saved(self) -> Checkpoint:
        saved = self.job.saved()
        assert saved is not None  # noqa: S101 - a job that has not failed is there
        return saved

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON holds it."""
        facts: dict[str, Any] = {
            "recipe": self.job.recipe.name,
            "seed": self.job.seed,
            "status": self.status,
            "checkpoint": str(self.job.checkpoint),
        }
        if self.status == "failed":
            return facts | {"error": self.error}
        saved = self._saved
        return facts | {
            "epochs": saved.epoch,
            "best_epoch": saved.best_epoch,
            "validation_elbo": saved.best_validation_elbo,
        }


def default_workers(device: str) -> int:
    """One run per core, or one on a GPU; raises DeviceUnavailable."""
    if choose_device(device).type != "cpu":
        return 1
    return usable_cores()


def sweep(
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    threads: int = 1,
    device: str = "auto",
    data_root: Path | None = None,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Bring every job to its end, `workers` at once; tell each outcome to `report` as it comes.

    A job that fails does not stop the others. Ctrl-C and SIGTERM end all of them and raise
    Stopped; the same sweep then goes on where they were. Progress is on stderr. Raises BadRecipe
    and DataUnavailable, before any job begins, where one of them cannot be.
    """
    workers = workers or default_workers(device)
    command = _Command(threads, device, data_root)
    outcomes: list[Outcome] = []

    def settle(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report(outcome)

    waiting = []
    for job in jobs:
        if job.finished():
            settle(Outcome(job, "kept"))
        else:
            waiting.append(job)
    if not waiting:
        return outcomes
    for recipe in {job.recipe.name: job.recipe for job in waiting}.values():
        check_settings(recipe)
        check_data(recipe, data_root)
    running: list[_Worker] = []
    with _stop_noted() as stop_asked, _bar(jobs) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop(0)
                    try:
                        running.append(_Worker(job, command))
                    except OSError as error:  # a folder that is none, or not ours
                        settle(Outcome(job, "failed", f"{error.filename}: {error.strerror}"))
                time.sleep(_LOOK)
                if stop_asked():  # first: a worker that Ctrl-C has ended too has not failed
                    done = sum(outcome.status != "failed" for outcome in outcomes)
                    raise Stopped(
                        f"stopped with {done} of {len(jobs)} runs finished",
                        hint="The same command goes on where it was stopped",
                    )
                for worker in [one for one in running if one.ended()]:
                    running.remove(worker)
                    settle(worker.outcome())
                _show(bar, jobs, len(running), len(outcomes))
        finally:
            _end(running)
    return outcomes


def check(outcomes: Sequence[Outcome]) -> None:
    """Raise RunsFailed if any failed; `report` has told why."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        named = ", ".join(str(outcome.job) for outcome in failed)
        raise RunsFailed(
            f"{len(failed)} of {len(outcomes)} runs failed: {named}",
            hint="Their errors are above; once they are mended, the same command runs only these",
        )


@dataclass(frozen=True)
class _Command:
    """How a job becomes a command line."""

    threads: int
    device: str
    data_root: Path | None

    def words(self, job: Job) -> list[str]:
        words: list[object] = [sys.executable, "-m", "metavae_training", "run", job.recipe.name]
        words += ["--seed", job.seed, "--out", job.folder, "--device", self.device]
        # What another sweep is training, perhaps one that was killed, is not lost by waiting.
        words += ["--threads", self.threads, "--wait", "--json"]
        words += ["--data-root", self.data_root] if self.data_root else []
        for setting, value in settings(job.recipe).items():
            words += ["--set", f"{setting}={json.dumps(value)}"]
        return [str(word) for word in words]


class _Worker:
    """A job at work in a process of its own, which alone writes into the job's folder."""

    def __init__(self, job: Job, command: _Command) -> None:
        self.job = job
        job.folder.mkdir(parents=True, exist_ok=True)
        path = job.folder / STDERR
        path.unlink(missing_ok=True)  # a worker whose sweep was killed may still write into it
        with path.open("wb") as errors:
            self.process = subprocess.Popen(
                command.words(job),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={
                    **os.environ,
                    "OMP_WAIT_POLICY": "passive",  # spinning would take the other runs' cores
                    STARTER: str(os.getpid()),
                },
            )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def outcome(self) -> Outcome:
        if self.process.returncode == 0:
            return Outcome(self.job, "trained")
        path = self.job.folder / STDERR
        said = path.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it said nothing")
        if self.process.returncode < 0:
            last = f"ended by {signal.Signals(-self.process.returncode).name}"
        return Outcome(self.job, "failed", f"{last.removeprefix('Error: ')}; see {path}")


def _end(running: Sequence[_Worker]) -> None:
    """End workers; their checkpoints are whole at any moment."""
    for worker in running:
        worker.process.terminate()
    for worker in running:
        try:
            worker.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


@contextmanager
def _stop_noted() -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C and SIGTERM, rather than be interrupted while a worker is being started."""
    asked: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(jobs: Sequence[Job]) -> tqdm:
    return tqdm(
        total=sum(job.recipe.epochs for job in jobs),
        initial=_epochs(jobs),
        desc="sweep",
        unit=" epochs",
        smoothing=0.05,
        disable=None,
    )


def _show(bar: tqdm, jobs: Sequence[Job], running: int, settled: int) -> None:
    if not bar.disable:
        bar.n = _epochs(jobs)
        bar.set_postfix_str(f"{running} running, {settled} of {len(jobs)} runs", refresh=False)
        bar.refresh()


def _epochs(jobs: Sequence[Job]) -> int:
    return sum(min(job.epochs_logged(), job.recipe.epochs) for job in jobs)
