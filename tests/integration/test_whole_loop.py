"""The README's way, on a project of other names: connect, click, train, and the next image is ours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image

from backend.demo.demonstration import lookhere, served
from backend.demo.label_studio import LabelStudioServer, free_port
from backend.domain import ClickRole
from backend.settings import Settings
from backend.state.store import Store
from tests.integration.harness import Api, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("loop")]

CONFIG = """<View>
  <Header value="Was ist das?"/>
  <Choices name="art" toName="foto" choice="single" showInLine="true">
    <Choice value="Boot"/><Choice value="Haus"/><Choice value="Baum"/>
  </Choices>
  <Image name="foto" value="$bild"/>
  <KeyPointLabels name="punkt" toName="foto">
    <Label value="Hierhin schauen" lookhere="look"/><Label value="Nicht beachten" lookhere="ignore"/>
  </KeyPointLabels>
  <BrushLabels name="karte" toName="foto" lookhere="attention"><Label value="Aufmerksamkeit"/></BrushLabels>
</View>"""
CLASSES = ("Boot", "Haus", "Baum")
IMAGES = 12
ANNOTATED = 9


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(90, 160, (90, 120, 3), dtype=np.uint8)
    pixels[:40, :40] = (0, 128, 255)[number % 3]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_project(api: Api) -> tuple[int, list[int]]:
    project = api.call("POST", "/api/projects/", json={"title": "Zweites Projekt", "label_config": CONFIG})["id"]
    for number in range(IMAGES):
        api.call(
            "POST", f"/api/projects/{project}/import", files={"file": (f"{number}.png", image(number), "image/png")}
        )
    listed = api.call("GET", "/api/tasks", params={"project": project, "page_size": IMAGES})["tasks"]
    return project, sorted(task["id"] for task in listed)


def annotate(api: Api, task: int, number: int) -> None:
    place = {"original_width": 120, "original_height": 90, "image_rotation": 0}
    result = [
        {"type": "choices", "from_name": "art", "to_name": "foto", "value": {"choices": [CLASSES[number % 3]]}},
        {
            "type": "keypointlabels",
            "from_name": "punkt",
            "to_name": "foto",
            "value": {"x": 16.0, "y": 22.0, "width": 1.0, "keypointlabels": ["Hierhin schauen"]},
            **place,
        },
    ]
    api.call("POST", f"/api/tasks/{task}/annotations/", json={"result": result, "lead_time": 1.0})


@pytest.mark.parametrize("kind", ["personal", "legacy"])
def test_another_project_connects_trains_and_is_served_in_our_order(
    api: Api, label_studio: LabelStudioServer, tmp_path: Path, kind: str
) -> None:
    token = label_studio.personal_access_token() if kind == "personal" else label_studio.legacy_token
    port = free_port()
    settings = Settings(
        _env_file=None,
        label_studio_url=label_studio.url,
        label_studio_api_key=token,
        public_url=f"http://127.0.0.1:{port}",
        port=port,
        data_dir=tmp_path / "data",
        backbone="small",
        train_after=3,
    )
    project, tasks = make_project(api)
    for number in range(ANNOTATED - 3):
        annotate(api, tasks[number], number)
    with served(settings, tmp_path / "log"):
        printed = lookhere(settings, "connect", "--project", str(project))
        assert "train:" in printed
        assert "score:" in printed
        store = Store.open(settings)
        key = store.projects.ensure(label_studio.url, project).key
        first = store.versions.active(key)
        assert first is not None
        served_task = assert_order(api, project, first.name)
        assert "FAIL" not in lookhere(settings, "doctor", "--project", str(project))

        annotate(api, served_task, tasks.index(served_task))
        for _ in range(2):
            served_task = api.call("GET", f"/api/projects/{project}/next")["id"]
            annotate(api, served_task, tasks.index(served_task))
        second = wait_for(lambda: newer(store, key, first.name))
        wait_for(lambda: api.call("GET", f"/api/projects/{project}/")["model_version"] == second.name)
        wait_for(lambda: not [job for job in store.jobs.list(key) if job.finished_at is None])
        served_task = assert_order(api, project, second.name)
        kept = store.annotations.annotations(key)
        assert [click.role for one in kept for click in one.clicks] == [ClickRole.LOOK] * ANNOTATED
        assert {(round(click.x, 2), round(click.y, 2)) for one in kept for click in one.clicks} == {(0.16, 0.22)}
        again = lookhere(settings, "connect", "--project", str(project))
        assert "Done" not in again, "connecting again changes nothing"
        rolled = lookhere(settings, "rollback", "--project", str(project))
        assert first.name in rolled
        annotate(api, served_task, tasks.index(served_task))
        assert_order(api, project, first.name)


def newer(store: Store, key: int, old: str) -> Any:
    active = store.versions.active(key)
    return active if active is not None and active.name != old else None


def assert_order(api: Api, project: int, version: str) -> int:
    """Every task has one prediction, of this version, and `next` serves the lowest open score.

    Returns the served task, which Label Studio serves again until it is submitted, whatever the order is by then.
    """
    listed = api.call("GET", "/api/tasks", params={"project": project, "page_size": IMAGES, "fields": "all"})["tasks"]
    scores = {}
    for task in listed:
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == version
        scores[task["id"]] = prediction["score"]
        (brush,) = [region for region in prediction["result"] if region["type"] == "brushlabels"]
        levels = np.unique(decode_rle(brush["value"]["rle"]))
        assert len(levels) <= 8
    assert len(set(scores.values())) == IMAGES
    unlabelled = {task["id"] for task in listed if not task["is_labeled"]}
    served_next = api.call("GET", f"/api/projects/{project}/next")
    assert served_next["id"] == min(unlabelled, key=scores.__getitem__)
    served: int = served_next["id"]
    return served
