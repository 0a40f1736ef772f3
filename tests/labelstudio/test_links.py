"""Signed links to the heat maps."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from backend.labelstudio.links import heat_link, sign, verify

SECRET = b"a secret of the tests"
projects = st.integers(0, 2**63)


@given(st.binary(), projects)
def test_a_signature_opens_its_project(secret: bytes, project: int) -> None:
    assert verify(secret, project, sign(secret, project))


@given(projects, projects)
def test_a_signature_opens_no_other_project(one: int, other: int) -> None:
    assume(one != other)
    assert not verify(SECRET, other, sign(SECRET, one))


@given(st.binary(), st.binary())
def test_a_signature_holds_for_one_secret(one: bytes, other: bytes) -> None:
    # HMAC fills short keys up with zeros.
    assume(one.rstrip(b"\0") != other.rstrip(b"\0"))
    assume(max(len(one), len(other)) <= 64)
    assert not verify(other, 1, sign(one, 1))


@given(st.text(st.characters()))
def test_any_other_text_is_refused_without_a_raise(text: str) -> None:
    assume(text != sign(SECRET, 1))
    assert not verify(SECRET, 1, text)


def test_a_changed_signature_is_refused() -> None:
    good = sign(SECRET, 1)
    assert len(good) == 32
    assert not verify(SECRET, 1, good[:-1])
    assert not verify(SECRET, 1, good + "0")
    assert not verify(SECRET, 1, good.upper() + " ")


def test_the_link() -> None:
    assert heat_link("https://x.org/l", 7, "ab", "photo") == "https://x.org/l/heat/7/ab?src=$photo"
