"""The web process: gunicorn, one worker with threads, the engine beside it."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.app.base import BaseApplication

from backend.domain import JobKind
from backend.intake import Intake
from backend.jobs.context import Context
from backend.jobs.engine import Engine
from backend.jobs.local import LocalEngine
from backend.labelstudio.answers import Answers
from backend.labelstudio.contract import UseCases
from backend.serving import Serving
from backend.settings import Settings, host_to_listen_on
from backend.web.app import create_app
from backend.web.jobs import job_routes
from backend.web.projects import projects

log = logging.getLogger(__name__)


class Backend:
    """The running backend: the application, the serving process and the engine.

    Args:
        settings: the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._context = Context.open(settings)
        # The other half of the threads is left to webhooks: Label Studio waits one second for them, and asks once.
        self._serving = Serving(settings.device, waiting=max(1, settings.threads // 2))
        self._engine: Engine = LocalEngine(settings, self._context.store)
        self._intake = Intake(settings, self._context.store, self._engine.wake)
        self.use_cases = self._use_cases(settings)
        store = self._context.store
        self.app = create_app(
            self.use_cases, job_routes(store.jobs), projects(settings, store), largest_body=settings.largest_body
        )

    def start(self) -> None:
        """Load the classifiers, take up the jobs, and read from Label Studio what was missed meanwhile."""
        self._serving.warm_up()
        for project in self._context.store.projects.all():
            if self._context.of(project).client is not None:
                self._context.store.jobs.request(project.key, JobKind.SYNC)
        self._engine.start()

    def close(self) -> None:
        """Stop the engine and the serving process."""
        self._engine.close()
        self._serving.close()

    def _use_cases(self, settings: Settings) -> UseCases:
        context, store, intake = self._context, self._context.store, self._intake

        def active_name(key: int) -> str | None:
            version = store.versions.active(key)
            return version.name if version else None

        def names(only: int | None) -> list[str]:
            keys = [project.key for project in store.projects.all()] if only is None else [only]
            return [version.name for key in keys for version in store.versions.list(key)]

        def address(host: str | None) -> str:
            theirs = settings.at(host) if host else settings
            return theirs.label_studio_public_url or theirs.label_studio_url

        return UseCases(
            project=lambda number, config, host: intake.project(number, config, host=host),
            project_of_key=store.projects.find_key,
            receive=intake.receive,
            active_version=active_name,
            versions=names,
            answers=Answers(self._serving, store.versions.active, context.fetch, store.annotations),
            secret=context.secret,
            label_studio_address=address,
            most_tasks=settings.most_tasks,
        )


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    One worker process: the classifiers, the engine and the database each want to exist once, and the work is done in
    processes of its own, so that threads suffice to answer.
    """

    class Server(BaseApplication):  # type: ignore[misc] # gunicorn has no types
        def load_config(self) -> None:
            self.cfg.set("bind", f"{host_to_listen_on(settings)}:{settings.port}")
            self.cfg.set("workers", 1)
            self.cfg.set("worker_class", "gthread")
            self.cfg.set("threads", settings.threads)
            self.cfg.set("timeout", 120)
            self.cfg.set("graceful_timeout", 10)
            self.cfg.set("keepalive", 5)
            self.cfg.set("control_socket_disable", True)
            self.cfg.set("worker_exit", lambda _arbiter, _worker: self.backend.close())

        def load(self) -> Any:
            self.backend = Backend(settings)
            self.backend.start()
            return self.backend.app

    Server().run()
