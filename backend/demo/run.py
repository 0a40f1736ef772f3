"""`lookhere demo`, for a person or a simulated one."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from threading import Event

import click

from backend.demo.demonstration import demonstration
from backend.demo.simulation import simulate as simulation


def run(folder: Path, *, simulate: bool) -> None:
    """Run the demonstration until Ctrl-C, or through the simulated rounds.

    Args:
        folder: where servers, data and versions live; a simulation begins with an empty one of its own.
        simulate: let a simulated annotator click.

    Raises:
        LookhereError: if a stage fails, or the simulated clicks won nothing.
    """
    # However it is ended, no server stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if simulate:
        with demonstration(folder / "simulation", fresh=True) as running:
            simulation(running, folder / "simulation" / "rounds.json")
        return
    with demonstration(folder / "live", fresh=False) as running:
        server = running.label_studio
        click.echo(
            "\nOpen the view 'Label next', choose a task, and drag the point to where the classifier should look."
        )
        click.echo(f"  address   {server.url}/projects/{running.project}/data")
        click.echo(f"  login     {server.email}")
        click.echo(f"  password  {server.password.get_secret_value()}")
        click.echo("Ctrl-C ends it; what you labelled stays for the next time.")
        with suppress(KeyboardInterrupt):
            Event().wait()
