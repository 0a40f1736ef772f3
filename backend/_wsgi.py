"""Entry of ``label-studio-ml start backend``, and ``_wsgi:app`` for a WSGI server, on label-studio-ml 1.0.9 and 2.x."""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

# `label-studio-ml start backend` runs this file by its path, with its folder on the path instead of the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from label_studio_ml.api import init_app  # noqa: E402 - found by the path above

from backend.labelstudio.sdk import Behind, Front, Lookhere  # noqa: E402
from backend.settings import Settings, host_to_listen_on, set_up_logging  # noqa: E402
from backend.web.server import Backend  # noqa: E402


@cache
def backend() -> Backend:
    """The backend of this process."""
    return Backend(Settings())


def behind() -> Behind:
    """The use cases behind the model class."""
    use = backend().use_cases
    return Behind(use.answers, use.project, use.project_of_key, use.receive)


def application() -> Front:
    """Start the backend, and put its routes before those of label-studio-ml."""
    Lookhere.behind = staticmethod(behind)
    running = backend()
    running.start()
    theirs = init_app(model_class=Lookhere)
    return Front(running.app, theirs, running.use_cases.secret, running.app.config["MAX_CONTENT_LENGTH"])


def main() -> None:
    """Serve with Flask's own server, as label-studio-ml does."""
    from werkzeug.serving import run_simple

    settings = Settings()
    set_up_logging(settings)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-p", "--port", type=int, default=settings.port)
    parser.add_argument("--host", default=settings.host)
    arguments, _ = parser.parse_known_args()
    settings = settings.model_copy(update={"host": arguments.host})
    run_simple(host_to_listen_on(settings), arguments.port, application(), threaded=True)


if __name__ == "__main__":
    main()
elif __name__ != "__mp_main__":
    app = application()
