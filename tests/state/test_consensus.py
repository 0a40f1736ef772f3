"""What several annotators say together, and how far each agrees with the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from backend.domain import REGION_SIDE, Annotation, Click, ClickRole, Task
from backend.state.consensus import SAME_PLACE, Agreement, agreements, click_agreement, kappa, merge

START = datetime(2026, 1, 1, tzinfo=UTC)
LOOK, IGNORE = ClickRole.LOOK, ClickRole.IGNORE


def vote(annotator: int, label: str | None = "cat", *clicks: Click, task: int = 1, **facts: object) -> Annotation:
    number = annotator * 1000 + task
    values = {"updated_at": START + timedelta(minutes=annotator), "label": label, "clicks": clicks, **facts}
    return Annotation(id=number, task=task, annotator=annotator, **values)  # type: ignore[arg-type]


def taught(*annotations: Annotation) -> tuple[str | None, bool, bool]:
    merged = merge(Task(1, "a.png"), annotations)
    return merged.label, merged.contested, merged.contradicted


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ([vote(1), vote(2, "dog")], (None, True, False)),
        ([vote(1), vote(2, "dog"), vote(3, "dog")], ("dog", False, False)),
        ([vote(1), vote(2, "dog"), vote(3, "cow")], (None, True, False)),
        ([vote(1), vote(2, "dog"), vote(3, None)], (None, True, False)),
        ([vote(1), vote(2, "dog", ground_truth=True), vote(3)], ("dog", False, False)),
        ([vote(1, ground_truth=True), vote(2, "dog", ground_truth=True), vote(3)], (None, True, False)),
        ([vote(1), vote(2, "dog", skipped=True)], ("cat", False, False)),
        ([vote(1, None), vote(2, None)], (None, False, False)),
        ([vote(1, "cat", Click(0.5, 0.5, LOOK)), vote(2, "cat", Click(0.52, 0.5, IGNORE))], ("cat", False, True)),
        ([vote(1, "cat", Click(0.5, 0.5, LOOK)), vote(2, "cat", Click(0.7, 0.5, IGNORE))], ("cat", False, False)),
    ],
)
def test_what_several_teach_together(votes: list[Annotation], expected: tuple[str | None, bool, bool]) -> None:
    assert taught(*votes) == expected
    assert taught(*votes[::-1]) == expected, "whoever came first"


def test_a_task_to_look_at_again_says_why() -> None:
    merged = merge(Task(1, "a.png"), [vote(1, "cat", Click(0.5, 0.5, LOOK)), vote(2, "dog", Click(0.5, 0.5, IGNORE))])
    assert merged.review == "annotators chose different classes; clicks contradict each other"
    assert merge(Task(1, "a.png"), [vote(1), vote(2)]).review == ""


def test_the_reviewers_ground_truth_ends_a_contradiction() -> None:
    looks, ignores = vote(1, "cat", Click(0.5, 0.5, LOOK)), vote(2, "cat", Click(0.5, 0.5, IGNORE))
    reviewed = vote(3, "cat", Click(0.5, 0.5, LOOK), ground_truth=True)
    (click,) = merge(Task(1, "a.png"), [looks, ignores, reviewed]).clicks
    assert (click.role, click.agreement) == (LOOK, 1.0)


def test_a_click_of_most_keeps_what_the_contradiction_leaves() -> None:
    annotations = [vote(number, "cat", Click(0.5, 0.5, LOOK if number < 4 else IGNORE)) for number in range(1, 5)]
    weights = {click.role: click.agreement for click in merge(Task(1, "a.png"), annotations).clicks}
    assert weights == {LOOK: pytest.approx(0.5), IGNORE: 0.0}


classes = st.lists(st.tuples(*[st.sampled_from("abc")] * 2), min_size=1, max_size=30)


@given(pairs=classes)
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    one, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = kappa(one, other)
    if len({*one, *other}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(cohen_kappa_score(one, other))


places = st.lists(
    st.builds(
        Click, st.sampled_from([0.1, 0.15, 0.2, 0.6]), st.sampled_from([0.3, 0.36, 0.9]), st.sampled_from(ClickRole)
    ),
    min_size=1,
    max_size=6,
)


@given(own=places, others=places)
def test_click_agreement_is_the_dice_of_the_clicks_that_have_a_partner(own: list[Click], others: list[Click]) -> None:
    def partnered(clicks: Sequence[Click], partners: Sequence[Click]) -> int:
        return len(
            {
                place
                for (place, one), other in product(enumerate(clicks), partners)
                if one.role == other.role and np.hypot(one.x - other.x, one.y - other.y) <= SAME_PLACE
            }
        )

    precision, recall = partnered(own, others) / len(own), partnered(others, own) / len(others)
    expected = 0.0 if not precision * recall else 2 / (1 / precision + 1 / recall)
    assert click_agreement(own, others) == pytest.approx(expected)
    assert click_agreement(own, others) == pytest.approx(click_agreement(others, own))
    assert click_agreement(own, own) == 1


def test_each_annotator_is_measured_against_the_others() -> None:
    tasks = [
        [
            vote(1, "cat", Click(0.5, 0.5, LOOK)),
            vote(2, "cat", Click(0.5, 0.5, LOOK)),
            vote(3, "dog", Click(0.5, 0.5, IGNORE)),
        ],
        [vote(1, "dog", task=2), vote(2, "dog", task=2), vote(3, "dog", task=2)],
        [vote(1, "cat", task=3)],
        [vote(2, "cat", task=4), vote(3, "cat", task=4, skipped=True)],
    ]
    first, second, third = agreements(tasks)
    # On the first task the others of 1 and of 2 are in a tie.
    assert first == Agreement(1, 3, 1, 1.0, None, 1, 2 / 3, 1, 0)
    assert (second.tasks, second.compared, second.label) == (3, 1, 1.0)
    assert (third.tasks, third.compared, third.label, third.kappa) == (2, 2, 0.5, 0.0)
    assert (third.clicked, third.clicks, third.contradicted) == (1, 0.0, 1)


def test_ground_truth_is_the_consensus_of_all_but_its_author() -> None:
    task = [vote(1, "cat"), vote(2, "cat"), vote(3, "dog", ground_truth=True)]
    found = {one.annotator: one.label for one in agreements([task])}
    assert found == {1: 0.0, 2: 0.0, 3: 0.0}, "the author's own answer is held against the others', like anybody's"


def test_what_somebody_else_changed_is_not_held_for_the_authors() -> None:
    task = [vote(1, "dog", editor=9), vote(2, "cat", editor=2), vote(3, "cat")]
    found = {one.annotator: (one.compared, one.edited) for one in agreements([task])}
    assert found[1] == (0, 1)
    assert 9 not in found, "who edits has no vote of their own"


def test_the_latest_of_ones_own_answers_is_compared() -> None:
    task = [vote(1, "dog"), vote(1, "cat", task=1), vote(2, "cat")]
    later = Annotation(77, 1, 1, START + timedelta(hours=1), label="dog")
    assert {one.annotator: one.label for one in agreements([[*task, later]])} == {1: 0.0, 2: 0.0}


def outline(left: float, right: float) -> bytes:
    cells = np.zeros((REGION_SIDE, REGION_SIDE), bool)
    cells[:, int(left * REGION_SIDE) : int(right * REGION_SIDE)] = True
    return np.packbits(cells).tobytes()


def test_of_several_outlines_the_part_stands_that_half_of_them_hold() -> None:
    votes = [vote(number, region=outline(*ends)) for number, ends in enumerate([(0, 0.5), (0.25, 0.75), (0.25, 1)])]
    assert merge(Task(1, "a.png"), [*votes, vote(9)]).region == outline(0.25, 0.75)
    assert merge(Task(1, "a.png"), [vote(1)]).region is None


def test_an_ignore_on_an_outlined_object_is_a_contradiction() -> None:
    for place, expected in ((0.2, True), (0.8, False)):
        merged = merge(Task(1, "a.png"), [vote(1, region=outline(0, 0.5)), vote(2, "cat", Click(place, 0.5, IGNORE))])
        assert merged.contradicted is expected
