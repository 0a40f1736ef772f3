"""A person clicks in Label Studio, and the backend holds these clicks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.domain import Click, ClickRole, Origin
from tests.e2e.conftest import Backend
from tests.e2e.labeling_screen import LabelingScreen

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

VIEW = "Label next"
# A pixel of the screen is a third of a percent.
CLOSE = 0.01


def test_a_moved_point_and_an_ignore_click_arrive(backend: Backend, screen: LabelingScreen) -> None:
    before = {annotation.id for annotation in backend.annotations()}
    screen.open_view(backend.project.number, VIEW)
    number = screen.open_first_task()
    predicted = _predicted(backend, number)
    assert predicted["score"] == min(_open_scores(backend)), f"{VIEW} starts with the lowest score"

    assert screen.chosen_class() == [predicted["class"]]
    assert screen.listed_regions() == ["Look here"]
    (point,) = screen.drawn()
    assert (point.x, point.y) == pytest.approx(predicted["place"], abs=100 * CLOSE)
    assert _difference(screen.heat(), backend.heat(number)) < 8, "the map drawn for this very image"
    assert _difference(screen.heat(), screen.image()) > 30, "the map is no second copy of the image"

    look, ignore = _free_corners(predicted["place"])
    right = next(name for name in "0123456789" if name != predicted["class"])
    screen.drag((point.x, point.y), look)
    screen.click("Ignore", ignore)
    screen.choose(right)
    screen.submit()

    annotation = backend.await_annotation_of(number)
    moved, added = annotation.clicks
    _assert_click(moved, look, ClickRole.LOOK, Origin.CORRECTED)
    _assert_click(added, ignore, ClickRole.IGNORE, Origin.MANUAL)
    assert (annotation.label, annotation.label_origin) == (right, Origin.CORRECTED)
    assert not annotation.skipped
    assert annotation.rejected == ()
    assert {one.id for one in backend.annotations()} - before == {annotation.id}, "nothing else came"


def test_a_smart_click_shows_what_it_affects_and_changes_nothing_else(backend: Backend, screen: LabelingScreen) -> None:
    screen.open_view(backend.project.number, VIEW)
    number = screen.open_first_task()
    predicted = _predicted(backend, number)
    first, second = _free_corners(predicted["place"])

    screen.switch_smart_tool_on()
    screen.smart_click("Ignore", first)
    screen.smart_click("Look here", second)
    shown = screen.drawn()
    assert screen.chosen_class() == [predicted["class"]]
    assert screen.listed_regions() == ["Look here", "Ignore", "Look here"]
    assert shown[0].width > 10, "a disc as wide as what the click affects"
    screen.submit()

    annotation = backend.await_annotation_of(number)
    confirmed = [click for click in annotation.clicks if click.origin is Origin.CONFIRMED]
    added = [click for click in annotation.clicks if click.origin is Origin.MANUAL]
    _assert_click(confirmed[0], predicted["place"], ClickRole.LOOK, Origin.CONFIRMED)
    assert len(annotation.clicks) == 3, "each click once"
    ignored, looked = sorted(added, key=lambda click: click.role)
    _assert_click(ignored, first, ClickRole.IGNORE, Origin.MANUAL)
    _assert_click(looked, second, ClickRole.LOOK, Origin.MANUAL)
    assert (annotation.label, annotation.label_origin) == (predicted["class"], Origin.CONFIRMED)


@pytest.mark.parametrize(
    ("as_displayed", "queue"), [(False, "Active learning or random queue"), (True, "Data manager queue")]
)
def test_both_entries_of_the_button_start_with_the_lowest_score(
    backend: Backend, screen: LabelingScreen, as_displayed: bool, queue: str
) -> None:
    screen.open_view(backend.project.number, VIEW)
    number, came_from = screen.label_all_tasks(as_displayed)
    assert came_from == queue
    assert _predicted(backend, number)["score"] == min(_open_scores(backend))


def _predicted(backend: Backend, number: int) -> dict[str, Any]:
    client = backend.context.client
    assert client is not None
    (prediction,) = client.task(number)["predictions"]
    values = {region["type"]: region["value"] for region in prediction["result"]}
    return {
        "score": prediction["score"],
        "class": values["choices"]["choices"][0],
        "place": (values["keypointlabels"]["x"], values["keypointlabels"]["y"]),
    }


def _open_scores(backend: Backend) -> list[float]:
    client = backend.context.client
    assert client is not None
    tasks = client.tasks(backend.project.number)
    return [prediction["score"] for task in tasks if not task["is_labeled"] for prediction in task["predictions"]]


def _free_corners(place: tuple[float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two places in percent, far from the given one and from each other."""
    corners = [(22.0, 20.0), (78.0, 24.0), (25.0, 76.0), (76.0, 80.0)]
    farthest = sorted(corners, key=lambda corner: -np.hypot(corner[0] - place[0], corner[1] - place[1]))
    return farthest[0], farthest[1]


def _assert_click(click: Click, place: tuple[float, float], role: ClickRole, origin: Origin) -> None:
    assert (click.role, click.origin) == (role, origin)
    assert (click.x, click.y) == pytest.approx((place[0] / 100, place[1] / 100), abs=CLOSE)


def _difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Mean difference of two pictures in [0, 255], at the size of the first."""
    height, width = one.shape[:2]
    resized = np.asarray(Image.fromarray(other).resize((width, height), Image.Resampling.BILINEAR))
    return float(np.abs(one.astype(float) - resized).mean())
