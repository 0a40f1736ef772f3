"""A project of twelve pictures, without Label Studio."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.domain import Annotation, Click, ClickRole, Origin, Project, Task
from backend.guidance.classifier import SMALL
from backend.jobs.context import Context
from backend.settings import Settings

CONFIG = """<View>
  <Image name="photo" value="$picture"/>
  <KeyPointLabels name="spot" toName="photo"><Label value="Schau hier" lookhere="look"/></KeyPointLabels>
  <Choices name="kind" toName="photo"><Choice value="light"/><Choice value="dark"/></Choices>
</View>"""


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context.open(
        Settings(data_dir=tmp_path / "data", backbone=SMALL, image_folders=(tmp_path,), time_budget_s=60)
    )


@pytest.fixture
def project(context: Context, tmp_path: Path) -> Project:
    """Twelve pictures, bright or dark in the upper left, with known classes; two of them clicked there."""
    project = context.store.projects.ensure("http://labels", 1, CONFIG)
    rng = np.random.default_rng(0)
    tasks = []
    for number in range(12):
        pixels = rng.integers(100, 150, (64, 64, 3), dtype=np.uint8)
        pixels[:24, :24] = 255 if number % 2 else 0
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        tasks.append(Task(number, path.as_uri(), "light" if number % 2 else "dark"))
    context.store.annotations.put_tasks(project.key, tasks)
    clicks = (Click(0.2, 0.2, ClickRole.LOOK),)
    for number in (4, 5):
        label = "light" if number % 2 else "dark"
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        answer = Annotation(number, number, 1, moment, clicks, label=label, label_origin=Origin.MANUAL)
        context.store.annotations.put(project.key, [answer])
    return project
