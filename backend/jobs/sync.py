"""Catches up with Label Studio, and asks for the jobs that are due after that."""

from __future__ import annotations

from backend.domain import JobKind, Project
from backend.jobs.context import Context, Report
from backend.jobs.patience import patiently
from backend.jobs.reconcile import reconcile


def sync(context: Context, project: Project, report: Report) -> None:
    """Read what the webhooks missed; then train, or put the order into Label Studio, if that was missed too.

    Args:
        context: what the job works with.
        project: that is read.
        report: told the progress.

    Raises:
        LookhereError: if Label Studio cannot be asked, or the label config cannot work.
    """
    project = reconcile(context, project.number, report)
    store, client = context.store, context.client
    if store.training_is_due(project.key, context.settings.train_after):
        store.ask_for_training(project.key)
        report(1.0, "enough annotations came meanwhile: a training is asked for")
        return
    active = store.versions.active(project.key)
    if active is None or client is None:
        return
    if patiently(lambda: client.project(project.number), report).model_version != active.name:
        store.jobs.request(project.key, JobKind.SCORE)
        report(1.0, f"Label Studio does not serve by {active.name} yet: its scores are asked for")
