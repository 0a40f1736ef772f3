"""Runs jobs on this machine, each in a spawned process."""

from __future__ import annotations

import logging
import os
import socket
import time
from multiprocessing import get_context, parent_process
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from backend.domain import Job, JobKind, JobState, LookhereError
from backend.settings import Settings, set_up_logging
from backend.state.store import Store

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

_LEASE_S = 15.0
_HEARTBEAT_S = 1.0
# Serving and the webhooks come before training.
_NICENESS = 10


class LocalEngine:
    """Takes queued jobs, of each project one at a time, and runs each in a process of its own.

    Any number of engines may share one database: a job is leased to one of them, and taken up by another when the
    lease runs out.

    Args:
        settings: handed to the processes.
        store: where the jobs stand.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._jobs = store.jobs
        self._worker = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._wanted = Event()
        self._closed = Event()
        self._at_once = settings.jobs_at_once
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Begin to take jobs, in threads: while one waits for its Label Studio, another project goes on."""
        self._threads = [
            Thread(target=self._take_jobs, name=f"jobs-{number}", daemon=True) for number in range(self._at_once)
        ]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look for a job now."""
        self._wanted.set()

    def close(self) -> None:
        """Stop taking jobs; a running one is interrupted, and taken up again at the next start."""
        self._closed.set()
        self._wanted.set()
        for thread in self._threads:
            thread.join()

    def run_next(self, project: int | None = None) -> Job | None:
        """Run one job to its end, here and now.

        Args:
            project: ``Project.key`` of the only project whose jobs are taken; None for any.

        Returns:
            The job as it ended; None where none was queued.
        """
        job = self._jobs.claim(self._worker, _LEASE_S, project)
        if job is None:
            return None
        log.info("Job %s: %s of project %s begins (attempt %s)", job.id, job.kind, job.project, job.attempts)
        self._run(job)
        ended = self._jobs.get(job.id)
        log.info("Job %s: %s %s", job.id, ended.state, ended.error or ended.message)
        return ended

    def _take_jobs(self) -> None:
        while not self._closed.is_set():
            self._wanted.clear()
            try:
                ran = self.run_next()
            except Exception:
                # Nothing may end this thread: without it no training ever starts again.
                log.exception("The engine could not run a job")
                ran = None
            if ran is None:
                self._wanted.wait(_HEARTBEAT_S)

    def _run(self, job: Job) -> None:
        receiving, sending = get_context("spawn").Pipe(duplex=False)
        process = get_context("spawn").Process(target=_work, args=(self._settings, job, sending), daemon=True)
        process.start()
        sending.close()
        try:
            outcome = self._follow(job, process, receiving)
        except KeyboardInterrupt:
            # Somebody at a terminal stopped waiting: no fault of the job's, which the next worker takes up.
            process.terminate()
            process.join()
            self._jobs.interrupt(job.id, self._worker, crashed=False)
            raise
        process.join()
        if outcome is not None:
            self._jobs.finish(job.id, self._worker, *outcome)
        elif self._closed.is_set():
            self._jobs.interrupt(job.id, self._worker, crashed=False)
        else:
            log.warning("Job %s: its process ended with %s before it was done", job.id, process.exitcode)
            self._jobs.interrupt(job.id, self._worker)

    def _follow(self, job: Job, process: Any, receiving: Connection) -> tuple[JobState, str] | None:
        progress, message = job.progress, "starting"
        beaten_at = 0.0
        while True:
            if time.monotonic() - beaten_at >= _HEARTBEAT_S:
                beaten_at = time.monotonic()
                if not self._jobs.heartbeat(job.id, self._worker, progress, message, _LEASE_S):
                    process.terminate()
                    return (JobState.CANCELLED, "")
            if self._closed.is_set():
                process.terminate()
                return None
            try:
                if not receiving.poll(_HEARTBEAT_S / 4):
                    continue
                said = receiving.recv()
            except (EOFError, OSError):
                return None
            if said[0] == "progress":
                progress, message = said[1:]
            else:
                self._jobs.heartbeat(job.id, self._worker, progress, message, _LEASE_S)
                return (said[1], said[2])


def _work(settings: Settings, job: Job, sending: Connection) -> None:
    os.nice(_NICENESS)
    set_up_logging(settings)

    def report(progress: float, message: str) -> None:
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            # The engine was killed; another one takes the job up when the lease runs out.
            raise SystemExit(1)
        sending.send(("progress", progress, message))

    try:
        _use_case(settings, job, report)
    except LookhereError as error:
        sending.send(("ended", JobState.FAILED, str(error)))
    except Exception as error:
        # Whatever broke belongs into the job's record, for people.
        log.exception("Job %s failed", job.id)
        sending.send(("ended", JobState.FAILED, f"{type(error).__name__}: {error}"))
    else:
        sending.send(("ended", JobState.SUCCEEDED, ""))
    sending.close()


def _use_case(settings: Settings, job: Job, report: Any) -> None:
    # torch is imported here, in the spawned process, and by the kinds that need it only.
    from backend.jobs.context import Context
    from backend.jobs.sync import sync

    context = Context.open(settings)
    project = context.store.projects.get(job.project)
    context = context.of(project)
    if job.kind is JobKind.SYNC:
        sync(context, project, report)
    elif job.kind is JobKind.TRAIN:
        from backend.jobs.train import train

        train(context, project, report)
    else:
        from backend.jobs.score import score

        score(context, project, report)
