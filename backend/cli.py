"""The command line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backend.domain import Job, JobKind, JobState, LookhereError, Project
from backend.settings import Settings, set_up_logging

if TYPE_CHECKING:
    from backend.jobs.context import Context

_POLL_S = 0.5


class Command(click.Group):
    """A group whose commands end an expected error with its message, not with a trace."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except LookhereError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Click where your classifier should look: a Label Studio ML backend that learns attention from clicks."""
    set_up_logging(Settings())


def _context() -> Context:
    # Imported late, so that `lookhere --help` is quick.
    from backend.jobs.context import Context

    return Context.open(Settings())


def _with_project(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --project, and the context and project it names."""

    @click.option("--server", help="Address of its Label Studio, where that is not the first one.")
    @click.option("--project", "number", type=int, required=True, help="Label Studio's project id.")
    @wraps(command)
    def with_project(number: int, server: str | None, **options: Any) -> None:
        from backend.state.store import known_host

        context = _context()
        project = context.store.projects.ensure(known_host(context.settings, server), number)
        command(context.of(project), project, **options)

    return with_project


@main.command()
def serve() -> None:
    """Serve Label Studio: predictions, webhooks, heat maps, and the training in the background."""
    from backend.web.server import serve

    serve(Settings())


@main.command()
@_with_project
def connect(context: Context, project: Project) -> None:
    """Hook up an existing project: backend, webhook, heat map, view, order, first training and scoring."""
    from backend.jobs.reconcile import reconcile
    from backend.labelstudio.hookup import connect

    client, number = _client(context), project.number
    connected = connect(
        client,
        number,
        context.settings,
        context.heat_link(project),
        basic_auth=context.basic_auth(project),
        webhook_headers=context.webhook_headers(project),
    )
    for step in connected.steps:
        click.echo(step)
    project = reconcile(context, number)
    guidance = context.store.annotations.guidance(project.key)
    labels = {item.label for item in guidance if item.label is not None}
    click.echo(f"{len(guidance)} tasks, {sum(item.label is not None for item in guidance)} with a known class")
    if context.store.versions.active(project.key) is not None:
        _run(context, project, JobKind.SCORE)
    elif len(labels) >= 2:
        _run(context, project, JobKind.TRAIN)
    else:
        click.echo(
            "No classifier yet: choose the class of a few images of at least two classes; the first training starts "
            f"after {context.settings.train_after} annotations, with Label Studio's Start Training button, or with "
            f"`lookhere train --project {number}`."
        )


@main.command()
@_with_project
def doctor(context: Context, project: Project) -> None:
    """Find what keeps a project from working, and say how to mend it. Exits with 1 if anything was found."""
    from backend.labelstudio.hookup import diagnose
    from backend.state.versions import is_version_name

    findings = diagnose(
        _client(context),
        project.number,
        context.settings,
        context.heat_link(project),
        fetch=context.images.fetch,
        ours=is_version_name,
        basic_auth=context.basic_auth(project),
        webhook_headers=context.webhook_headers(project),
    )
    for finding in findings:
        click.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.check}: {finding.detail}")
        if not finding.ok:
            click.echo(f"     {finding.remedy}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@main.command()
@_with_project
def train(context: Context, project: Project) -> None:
    """Train a new version now, then score the pool with it."""
    _run(context, project, JobKind.TRAIN)


@main.command()
@_with_project
def score(context: Context, project: Project) -> None:
    """Score the pool with the active version and put the order into Label Studio."""
    _run(context, project, JobKind.SCORE)


@main.command()
@_with_project
def sync(context: Context, project: Project) -> None:
    """Read tasks and annotations from Label Studio."""
    _run(context, project, JobKind.SYNC)


@main.command()
@_with_project
def versions(context: Context, project: Project) -> None:
    """List the versions of a project, the active one marked."""
    for version in context.store.versions.list(project.key):
        metrics = version.card.get("metrics", {})
        figures = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items() if isinstance(value, float))
        when = f"{version.created_at:%Y-%m-%d %H:%M}"
        click.echo(f"{'*' if version.active else ' '} {version.name}  {when}  {figures}")


@main.command()
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@_with_project
def settings(context: Context, project: Project, changes: tuple[str, ...]) -> None:
    """Show the settings of a project, or change some; `NAME=` goes back to what the backend is set to."""
    pairs = {name: value or None for name, _, value in (change.partition("=") for change in changes)}
    context.store.change_settings(project, pairs, texts=True)
    told = context.store.settings_json(project, Settings())
    for name, value in told["settings"].items():
        click.echo(f"{name}={'' if value is None else value}{'  (its own)' if name in told['own'] else ''}")


@main.command()
@click.option("--format", "form", type=click.Choice(["torchscript", "onnx"]), default="torchscript", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write into.")
@_with_project
def export(context: Context, project: Project, form: str, out: Path) -> None:
    """Write the active classifier with its card, ready for use elsewhere, and the clicks as a table."""
    from backend.guidance.exporting import Format
    from backend.jobs.export import export_project

    for path in export_project(context, project, Format(form), out):
        click.echo(path)


@main.command()
@_with_project
def annotators(context: Context, project: Project) -> None:
    """Tell how far each annotator agrees with the others; docs/teams.md says how it is measured."""
    found = context.store.annotations.agreements(project.key)
    click.echo("annotator  tasks  compared  same class  kappa  clicked  clicks  contradicted  edited by others")
    for one in found:
        click.echo(
            f"{one.annotator:9} {one.tasks:6} {one.compared:9} {_share(one.label):>11} {_figure(one.kappa):>6} "
            f"{one.clicked:8} {_share(one.clicks):>7} {one.contradicted:13} {one.edited:17}"
        )


@main.command()
@_with_project
def review(context: Context, project: Project) -> None:
    """List the tasks that somebody should look at again, because their annotators do not agree."""
    for item in context.store.annotations.guidance(project.key):
        if item.review:
            click.echo(f"{project.host}/projects/{project.number}/data?task={item.task.id}  {item.review}")


@main.command()
@_with_project
def rollback(context: Context, project: Project) -> None:
    """Serve the version that was active before, and put its predictions back into Label Studio."""
    version = context.store.versions.rollback(project.key)
    click.echo(f"{version.name} is active")
    _run(context, project, JobKind.SCORE)


@main.command()
@click.option("--log", "wanted", type=int, help="Tell of this job's progress, line by line, instead.")
@_with_project
def jobs(context: Context, project: Project, wanted: int | None) -> None:
    """List the jobs of a project, the newest first."""
    if wanted is not None:
        click.echo("\n".join(context.store.jobs.log(_job_of(context, project, wanted).id)))
        return
    for job in context.store.jobs.list(project.key):
        click.echo(f"{job.id:5} {job.kind:6} {job.state:12} {job.progress:4.0%}  {job.error or job.message}")


@main.command()
@click.argument("job", type=int)
@_with_project
def cancel(context: Context, project: Project, job: int) -> None:
    """Cancel a job that waits or runs; `lookhere jobs` lists them. The active version serves on."""
    state = _job_of(context, project, job).state
    if state not in (JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED):
        raise LookhereError(f"Expected a job that waits or runs, got job {job}, which has {state}.")
    waited = context.store.jobs.cancel(job).state is JobState.CANCELLED
    click.echo(f"Job {job} is cancelled." if waited else f"Job {job} is told to stop.")


@main.command()
@click.option("--simulate", is_flag=True, help="Let a simulated annotator click, in rounds, and report what it won.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".lookhere/demo"), help="Where it all lives.")
def demo(simulate: bool, folder: Path) -> None:
    """Start a real Label Studio with a project of demonstration data, connected to this backend."""
    from backend.demo.run import run

    run(folder, simulate=simulate)


@main.group()
def bench() -> None:
    """Measure the science on data whose masks are known."""


@bench.command("guidance")
@click.option("--data", default="digits", show_default=True, help="`digits`, or a folder in the pack format.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of the backbone to start from.")
@click.option("--backbone", help="A torchvision backbone. Default: resnet18 with --weights, else the built-in network.")
@click.option("--methods", default="erm,control,energy,default", show_default=True, help="Names, by comma.")
@click.option("--clicked", default="16,64", show_default=True, help="Numbers of clicked images, by comma.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Repetitions.")
@click.option("--noise", default=0.0, type=click.FloatRange(0, 1), help="Deviation of clicks, as a share of the image.")
@click.option("--mistakes", default=0.0, type=click.FloatRange(0, 1), help="Share of clicks that go anywhere.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="JSON file. Default: in the folder.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/out"), show_default=True)
def bench_guidance(
    weights: Path | None, backbone: str | None, methods: str, clicked: str, report: Path | None, out: Path, **rest: Any
) -> None:
    """Methods of guidance, numbers of clicked images and seeds; a table, its JSON, a plot and heat maps."""
    from backend.bench.guidance import Protocol, bench

    protocol = Protocol(
        backbone=backbone or ("resnet18" if weights else "small"),
        weights=weights,
        methods=tuple(methods.split(",")),
        clicked=_counts(clicked),
        **rest,
    )
    bench(protocol, out, report)


@bench.command("selection")
@click.option("--data", default="digits", show_default=True, help="`digits`, or a folder in the pack format.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of the backbone to start from.")
@click.option("--backbone", help="A torchvision backbone. Default: resnet18 with --weights, else the built-in network.")
@click.option("--strategies", default="random,entropy,mixture,representative", show_default=True, help="By comma.")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(1), help="How often images are chosen.")
@click.option("--per-round", default=8, show_default=True, type=click.IntRange(1), help="How many at a time.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1), help="Repetitions.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="JSON file. Default: in the folder.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/out"), show_default=True)
def bench_selection(
    weights: Path | None, backbone: str | None, strategies: str, report: Path | None, out: Path, **rest: Any
) -> None:
    """Strategies of choosing the next images, rounds and seeds; a table, its JSON and a plot."""
    from backend.bench.selection import Protocol, bench

    protocol = Protocol(
        backbone=backbone or ("resnet18" if weights else "small"),
        weights=weights,
        strategies=tuple(strategies.split(",")),
        **rest,
    )
    bench(protocol, out, report)


@bench.command("ordering")
@click.option("--tasks", default="10000,100000,1000000", show_default=True, help="Sizes of pools, by comma.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/out"), show_default=True)
def bench_ordering(tasks: str, out: Path) -> None:
    """What it costs to order large pools from stored features: seconds and memory."""
    from backend.bench.ordering import bench

    bench(_counts(tasks), out)


@bench.command("speed")
@click.option("--data", default="digits", show_default=True, help="`digits`, or a folder in the pack format.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights of the backbone to start from.")
@click.option("--backbone", help="A torchvision backbone. Default: resnet18 with --weights, else the built-in network.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/out"), show_default=True)
def bench_speed(data: str, weights: Path | None, backbone: str | None, out: Path) -> None:
    """Attention maps, a guided step and a retraining, each against its rival; needs pytorch-grad-cam."""
    from backend.bench.speed import bench

    bench(data, backbone or ("resnet18" if weights else "small"), weights, out)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(count) for count in text.split(","))
    except ValueError as error:
        raise LookhereError(f"Expected numbers by comma, like 0,16,64, got {text!r}.") from error
    if min(counts) < 0:
        raise LookhereError(f"Expected numbers of at least 0, got {text!r}.")
    return counts


def _job_of(context: Context, project: Project, number: int) -> Job:
    job = context.store.jobs.get(number)
    if job.project != project.key:
        raise LookhereError(f"Expected a job of project {project.number}, got job {number} of another one.")
    return job


def _client(context: Context) -> Any:
    if context.client is None:
        raise LookhereError(
            f"Expected a credential for {context.settings.label_studio_url}, got none; set "
            "LOOKHERE_LABEL_STUDIO_API_KEY, or its `api_key` in LOOKHERE_LABEL_STUDIO_SERVERS, to a personal access "
            "token (Label Studio: Account & Settings, Personal Access Token) or a legacy token."
        )
    return context.client


def _run(context: Context, project: Project, kind: JobKind) -> None:
    """Ask for a job and follow it, and what it asks for, to the end; run it here unless a server takes it first.

    Jobs of other projects are left to the server: none of them makes this one wait.
    """
    from backend.jobs.local import LocalEngine

    engine = LocalEngine(context.settings, context.store)
    wanted = context.store.jobs.request(project.key, kind)
    ended = _follow(context, engine, wanted)
    if ended.state is not JobState.SUCCEEDED:
        raise LookhereError(f"The {kind} job {ended.id} {ended.state}: {ended.error or ended.message}")
    click.echo(f"{kind}: {ended.message}")
    if kind is JobKind.TRAIN:
        for job in context.store.jobs.list(project.key):
            if job.kind is JobKind.SCORE and job.state in (JobState.QUEUED, JobState.RUNNING):
                click.echo(f"score: {_follow(context, engine, job).message}")


def _follow(context: Context, engine: Any, job: Job) -> Job:
    while True:
        engine.run_next(job.project)
        job = context.store.jobs.get(job.id)
        if job.state not in (JobState.QUEUED, JobState.RUNNING, JobState.INTERRUPTED):
            return job
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main()
