"""The goals of reliability, each measured by a command: `python -m tests.faults COMMAND`."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import click
import numpy as np

from tests.faults import events, fuzz, kill, load


@click.group()
def main() -> None:
    """Do harm, and see that nothing is lost."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)


@main.command("kill")
@click.option("--times", default=200, show_default=True)
@click.option("--seed", default=0, show_default=True)
def kill_command(times: int, seed: int) -> None:
    """Kill the backend at random moments of every phase."""
    with tempfile.TemporaryDirectory() as folder:
        found = kill.measure(Path(folder), times, seed, click.echo)
    click.echo(f"kills by phase: {dict(found.kills)}")
    click.echo(f"acknowledged annotations lost: {found.lost}, torn versions: {found.torn}, loops stuck: {found.stuck}")
    middle, worst = np.median(found.recovery_s), max(found.recovery_s)
    click.echo(f"from restart to the completed loop: median {middle:.1f} s, longest {worst:.1f} s")


@main.command("events")
@click.option("--times", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def events_command(times: int, seed: int) -> None:
    """Deliver events in any order, twice, not at all, or forged, and reconcile."""
    with tempfile.TemporaryDirectory() as folder:
        found = events.measure(Path(folder), times, seed, click.echo)
    click.echo(f"{found.histories} histories, {found.events} events")
    click.echo(f"states unlike Label Studio's after {times} reconciliations: {found.different}")
    click.echo(f"states that depend on the order of delivery: {found.order_mattered} of {found.orders}")


@main.command("fuzz")
@click.option("--requests", "times", default=50_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def fuzz_command(times: int, seed: int) -> None:
    """Send malformed requests to every route."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz.measure(Path(folder), times, seed, click.echo)
    for line in [*found.broken, *found.changed][:20]:
        click.echo(line)
    click.echo(f"answers: {dict(sorted(found.statuses.items()))}")
    click.echo(f"5xx but 503, or none: {len(found.broken)}; refused, but the state changed: {len(found.changed)}")


@main.command("load")
@click.option("--rate", default=50.0, show_default=True)
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--images", default=400, show_default=True)
def load_command(rate: float, seconds: float, images: int) -> None:
    """Send webhooks while trainings use the machine."""
    with tempfile.TemporaryDirectory() as folder:
        found = load.measure_load(Path(folder), rate, seconds, images, click.echo)
    middle, late, worst = 1000 * np.quantile(found.seconds, (0.5, 0.99, 1.0))
    click.echo(f"{len(found.seconds)} events, not acknowledged: {found.refused}, lost: {found.lost}")
    click.echo(f"acknowledged within: median {middle:.0f} ms, 99 % {late:.0f} ms, all {worst:.0f} ms")
    click.echo(f"a training ran {found.training:.0%} of the time")


@main.command("soak")
@click.option("--predictions", default=10_000, show_default=True)
def soak_command(predictions: int) -> None:
    """Ask for predictions, and watch the memory."""
    with tempfile.TemporaryDirectory() as folder:
        found = load.measure_soak(Path(folder), predictions, click.echo)
    growth = found.megabytes[-1] / found.megabytes[0] - 1
    click.echo(
        f"{found.predictions} predictions, {found.failed} failed; memory {found.megabytes[0]:.0f} MB, {growth:+.1%}"
    )


if __name__ == "__main__":
    main()
