"""Label Studio's tasks and annotations to the domain."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.domain import Click, ClickRole, Origin
from backend.labelstudio.annotations import AnnotationError, annotation_from_json, smart_clicks, task_from_json
from backend.labelstudio.labelconfig import EXAMPLE, read_roles
from tests.labelstudio.recorded import Request, all_requests, label_config, requests

ROLES = read_roles(EXAMPLE)
NOW = "2026-11-23T05:38:25.066740Z"


def keypoint(label: str = "Look here", **changed: Any) -> dict[str, Any]:
    region = {
        "id": "a",
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "image",
        "image_rotation": 0,
        "value": {"x": 30, "y": 50, "width": 3, "keypointlabels": [label]},
    }
    return region | changed


def choice(name: str = "cat", **changed: Any) -> dict[str, Any]:
    region = {"id": "c", "type": "choices", "from_name": "class", "to_name": "image", "value": {"choices": [name]}}
    return region | changed


def annotation(*result: Any, **changed: Any) -> dict[str, Any]:
    return {"id": 5, "task": 7, "completed_by": 1, "updated_at": NOW, "result": list(result)} | changed


def objects(value: Any) -> list[dict[str, Any]]:
    return value if isinstance(value, list) else [value]


def recorded(scenario: str) -> dict[str, Any]:
    body = next(one.body for one in requests(scenario) if one.action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"))
    found: dict[str, Any] = body["annotation"]
    return found


RECORDED = [request for request in all_requests() if isinstance(request.body, dict)]
RECORDED_ANNOTATIONS = [
    (request, one)
    for request in RECORDED
    for holder in [request.body, *objects(request.body.get("tasks", []))]
    for one in [*objects(holder.get("annotation", [])), *objects(holder.get("annotations", []))]
    if "result" in one
]
RECORDED_TASKS = [
    one
    for request in RECORDED
    if request.action != "TASKS_DELETED"
    for one in [*objects(request.body.get("task", [])), *objects(request.body.get("tasks", []))]
]


def test_every_recorded_task_is_read() -> None:
    assert len(RECORDED_TASKS) > 100
    roles = read_roles(label_config())
    for raw in RECORDED_TASKS:
        task = task_from_json(raw, roles)
        assert (task.id, task.image) == (raw["id"], raw["data"]["image"])


def test_every_recorded_annotation_is_read() -> None:
    assert len(RECORDED_ANNOTATIONS) > 15
    roles = read_roles(label_config())
    for request, raw in RECORDED_ANNOTATIONS:
        read = annotation_from_json(raw, roles)
        clicked = [region for region in raw["result"] if region["type"] == "keypointlabels"]
        assert read.skipped == raw["was_cancelled"]
        assert len(read.clicks) == (0 if read.skipped else len(clicked)), request.scenario
        assert read.updated_at.utcoffset() == datetime.now(UTC).utcoffset()


def test_accepted_unchanged() -> None:
    read = annotation_from_json(recorded("80_ui_open_and_accept_unchanged"), ROLES)
    assert read.clicks == (Click(0.3, 0.5, ClickRole.LOOK, Origin.CONFIRMED),)
    assert (read.label, read.label_origin) == ("cat", Origin.CONFIRMED)
    assert read.rejected == ()


def test_moved() -> None:
    (click,) = annotation_from_json(recorded("81_ui_move_predicted_keypoint"), ROLES).clicks
    assert click.origin is Origin.CORRECTED
    assert (click.x, click.y) != (0.3, 0.5)


def test_deleted() -> None:
    read = annotation_from_json(recorded("82_ui_delete_predicted_keypoint"), ROLES)
    assert read.clicks == ()
    assert [(click.x, click.y, click.role) for click in read.rejected] == [(0.3, 0.5, ClickRole.LOOK)]


def test_added_and_changed_choice() -> None:
    read = annotation_from_json(recorded("83_ui_add_keypoint_change_choice"), ROLES)
    assert (read.label, read.label_origin) == ("dog", Origin.CORRECTED)
    assert [click.origin for click in read.clicks] == [Origin.CONFIRMED, Origin.MANUAL]


def test_smart_click() -> None:
    read = annotation_from_json(recorded("84_ui_smart_click"), ROLES)
    assert [(click.role, click.origin) for click in read.clicks] == [
        (ClickRole.LOOK, Origin.CONFIRMED),
        (ClickRole.IGNORE, Origin.MANUAL),
    ]


def test_skipped_from_the_screen_teaches_nothing() -> None:
    raw = recorded("85_ui_skip_in_stream")
    assert raw["result"]
    read = annotation_from_json(raw, ROLES)
    assert read.skipped
    assert (read.clicks, read.rejected, read.label, read.label_origin) == ((), (), None, None)


def test_ground_truth() -> None:
    assert annotation_from_json(recorded("31_ground_truth_annotation"), ROLES).ground_truth


def test_created_from_predictions_is_a_confirmation() -> None:
    (request,) = (one for one in requests("28_predictions_to_annotations") if one.action == "ANNOTATIONS_CREATED")
    for raw in request.body["annotation"]:
        read = annotation_from_json(raw, ROLES)
        assert {click.origin for click in read.clicks} | {read.label_origin} == {Origin.CONFIRMED}


def contexts() -> list[tuple[Request, dict[str, Any]]]:
    found = [(one, (one.body.get("params") or {}).get("context")) for one in RECORDED if one.path == "/predict"]
    return [(request, context) for request, context in found if context]


def clicked(region: dict[str, Any]) -> Click:
    (click,) = annotation_from_json(annotation(region), ROLES).clicks
    return click


def test_recorded_smart_clicks() -> None:
    assert {len(context["result"]) for _, context in contexts()} == {0, 1}
    for request, context in contexts():
        assert len(smart_clicks(context, ROLES)) == len(context["result"]), request.scenario
    (smart,) = (
        one for request, context in contexts() if "84" in request.scenario for one in smart_clicks(context, ROLES)
    )
    assert (smart.id, smart.label, smart.click.role) == ("gqMt8hr67D", "Ignore", ClickRole.IGNORE)
    assert (smart.click.x, smart.click.y) == pytest.approx((0.6, 0.7), abs=0.001)


def test_a_context_lists_our_own_point_too() -> None:
    """It is no click of the annotator's, moved or not."""
    regions = [
        keypoint(id="p", origin="prediction"),
        keypoint(id="m", origin="prediction-changed"),
        keypoint(id="a", origin="manual"),
        keypoint("Ignore", id="b"),
        keypoint("Nose", id="c"),
        keypoint(id=None),
    ]
    assert [(smart.id, smart.label) for smart in smart_clicks({"result": regions}, ROLES)] == [
        ("a", "Look here"),
        ("b", "Ignore"),
    ]


@pytest.mark.parametrize("context", [{}, {"result": []}, {"result": None}])
def test_a_context_after_a_submit_has_no_clicks(context: dict[str, Any]) -> None:
    assert smart_clicks(context, ROLES) == ()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270, -90, None, "90"])
def test_a_turned_view_does_not_move_the_click(rotation: Any) -> None:
    """At (25 %, 10 %) of the view turned clockwise; Label Studio 1.23.2 stored this, of the image as it is."""
    region = keypoint(image_rotation=rotation, value={"x": 10.0, "y": 75.0, "keypointlabels": ["Ignore"]})
    assert annotation_from_json(annotation(region), ROLES).clicks == (Click(0.1, 0.75, ClickRole.IGNORE),)


@pytest.mark.parametrize(
    ("changed", "parent", "origin"),
    [
        ({}, None, Origin.MANUAL),
        ({}, 3, Origin.MANUAL),
        ({"score": 0.5}, None, Origin.MANUAL),
        ({"score": 0.5}, 3, Origin.CONFIRMED),
        ({"score": 0.5, "origin": "manual"}, 3, Origin.MANUAL),
        ({"origin": "prediction"}, None, Origin.CONFIRMED),
        ({"origin": "prediction-changed"}, None, Origin.CORRECTED),
        ({"origin": "martian"}, 3, Origin.MANUAL),
    ],
)
def test_origins(changed: dict[str, Any], parent: int | None, origin: Origin) -> None:
    raw = annotation(keypoint(**changed), choice(**changed), parent_prediction=parent)
    read = annotation_from_json(raw, ROLES)
    assert read.clicks[0].origin is origin
    assert read.label_origin is origin


def test_what_is_not_ours_is_passed_over() -> None:
    brush = {"id": "b", "type": "brushlabels", "from_name": "attention", "origin": "prediction", "value": {"rle": [1]}}
    raw = annotation(
        brush,
        keypoint("Nose"),
        keypoint(from_name="other"),
        keypoint(type="rectanglelabels"),
        choice("bird"),
        choice(from_name="quality"),
        {"id": "r", "type": "relation", "from_id": "a", "to_id": "b"},
        None,
        "text",
    )
    read = annotation_from_json(raw, ROLES)
    assert (read.clicks, read.label, read.label_origin) == ((), None, None)


def test_rejected_clicks_are_those_whose_ids_are_gone() -> None:
    predicted = {"result": [keypoint(id="a"), keypoint("Ignore", id="b"), choice(id="c")]}
    read = annotation_from_json(annotation(keypoint(id="b"), prediction=predicted), ROLES)
    assert [click.role for click in read.rejected] == [ClickRole.LOOK]


@pytest.mark.parametrize(("percent", "share"), [(-3, 0.0), (0, 0.0), (100, 1.0), (250.5, 1.0), (10**400, 1.0)])
def test_a_place_beside_the_image_is_brought_to_its_edge(percent: float, share: float) -> None:
    region = keypoint(value={"x": percent, "y": 50, "keypointlabels": ["Ignore"]})
    (click,) = annotation_from_json(annotation(region), ROLES).clicks
    assert (click.x, click.y) == (share, 0.5)


@pytest.mark.parametrize("x", [None, "30", True, float("nan"), float("inf"), [30], {}])
def test_a_click_without_a_place_is_refused(x: Any) -> None:
    region = keypoint(value={"x": x, "y": 50, "keypointlabels": ["Ignore"]})
    with pytest.raises(AnnotationError, match="x in percent"):
        annotation_from_json(annotation(region), ROLES)


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("2026-11-23T05:38:25Z", datetime(2026, 11, 23, 5, 38, 25, tzinfo=UTC)),
        ("2026-11-23T05:38:25", datetime(2026, 11, 23, 5, 38, 25, tzinfo=UTC)),
        ("2026-11-23T05:38:25.5+02:00", datetime(2026, 11, 23, 3, 38, 25, 500000, tzinfo=UTC)),
    ],
)
def test_moments_are_in_utc(said: str, moment: datetime) -> None:
    read = annotation_from_json(annotation(updated_at=said), ROLES).updated_at
    assert read == moment
    assert read.tzinfo is UTC


@pytest.mark.parametrize(("user", "annotator"), [(4, 4), ({"id": 4, "email": "a@b"}, 4), (None, None), (True, None)])
def test_annotators(user: Any, annotator: int | None) -> None:
    assert annotation_from_json(annotation(completed_by=user), ROLES).annotator == annotator


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "text",
        {},
        annotation(id=None),
        annotation(id="5"),
        annotation(id=True),
        annotation(task=None),
        annotation(updated_at=None),
        annotation(updated_at="yesterday"),
        annotation(updated_at=5),
        annotation(updated_at="0001-01-01T00:00:00+23:00"),
        annotation(result="text"),
        annotation(result={"a": 1}),
        annotation(prediction={"result": 5}),
    ],
    ids=repr,
)
def test_malformed_annotations_are_refused(broken: Any) -> None:
    with pytest.raises(AnnotationError, match="Expected"):
        annotation_from_json(broken, ROLES)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {"id": 1},
        {"id": 1, "data": []},
        {"id": 1, "data": {"photo": "a.png"}},
        {"id": 1, "data": {"image": ""}},
        {"id": 1, "data": {"image": ["a.png"]}},
        {"id": "1", "data": {"image": "a.png"}},
    ],
    ids=repr,
)
def test_malformed_tasks_are_refused(broken: Any) -> None:
    with pytest.raises(AnnotationError, match="Expected"):
        task_from_json(broken, ROLES)


@pytest.mark.parametrize(
    ("value", "known"), [("dog", "dog"), ("bird", None), (None, None), (["dog"], None), ({}, None)]
)
def test_known_classes(value: Any, known: str | None) -> None:
    assert task_from_json({"id": 1, "data": {"image": "a.png", "class": value}}, ROLES).known_label == known


percents = st.floats(0, 100)


@given(percents, percents, st.sampled_from(ClickRole), st.booleans())
def test_any_place_survives(x: float, y: float, role: ClickRole, as_labels: bool) -> None:
    name = ROLES.look[0] if role is ClickRole.LOOK else ROLES.ignore[0]
    value = {"x": x, "y": y, "width": 0.26, "labels" if as_labels else "keypointlabels": [name]}
    (click,) = annotation_from_json(annotation(keypoint(value=value)), ROLES).clicks
    assert click.role is role
    assert (100 * click.x, 100 * click.y) == pytest.approx((x, y))


texts = st.text(max_size=6) | st.sampled_from(["click", "class", "keypointlabels", "choices", "Ignore", "cat", NOW])
keys = texts | st.sampled_from(
    [
        "id",
        "task",
        "data",
        "image",
        "result",
        "value",
        "x",
        "y",
        "type",
        "from_name",
        "origin",
        "updated_at",
        "prediction",
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=20,
)


@given(anything)
@example(annotation(keypoint(id={}), prediction={"result": [keypoint(id=[])]}))
@example(annotation(keypoint(value={"x": 1, "y": 1, "keypointlabels": [{}]}), choice(value={"choices": [["cat"]]})))
def test_any_json_is_read_or_refused(value: Any) -> None:
    for raw in (value, annotation(result=value), annotation(value), annotation(keypoint(value=value))):
        try:
            read = annotation_from_json(raw, ROLES)
        except AnnotationError:
            continue
        assert all(0 <= click.x <= 1 and 0 <= click.y <= 1 for click in (*read.clicks, *read.rejected))
        assert (read.label is None) == (read.label_origin is None)
    with contextlib.suppress(AnnotationError):
        assert all(
            isinstance(smart.id, str)
            for smart in smart_clicks({"result": [keypoint(value=value), keypoint(id=value)]}, ROLES)
        )
    for raw in (value, {"id": 1, "data": value}, {"id": 1, "data": {"image": "a.png", "class": value}}):
        try:
            task = task_from_json(raw, ROLES)
        except AnnotationError:
            continue
        assert task.image
        assert task.known_label in (None, *ROLES.classes)
