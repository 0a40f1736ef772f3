"""Label configs to roles, and the heat map beside the image."""

from __future__ import annotations

from xml.etree.ElementTree import SubElement, tostring

import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.labelconfig import EXAMPLE, LabelConfigError, read_roles, with_heat
from tests.labelstudio.recorded import label_config

LINK = "http://localhost:9090/heat/1/abc?src=$image"
IMAGE = '<Image name="image" value="$image"/>'
CLICKS = (
    '<KeyPointLabels name="click" toName="image"><Label value="Look here"/><Label value="Ignore"/></KeyPointLabels>'
)
CLASS = '<Choices name="class" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices>'


def config(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def clicks(*labels: str) -> str:
    return f'<KeyPointLabels name="click" toName="image">{"".join(labels)}</KeyPointLabels>'


def test_the_recorded_config() -> None:
    roles = read_roles(label_config())
    assert (roles.image_tag, roles.image_field, roles.click_tag) == ("image", "image", "click")
    assert (roles.look, roles.ignore) == (("Look here",), ("Ignore",))
    assert (roles.class_tag, roles.classes) == ("class", ("cat", "dog"))
    assert (roles.brush_tag, roles.brush_label) == ("attention", "Attention")


def test_the_example_in_error_messages_works() -> None:
    assert read_roles(EXAMPLE).classes == ("cat", "dog")


def test_said_roles_win_over_words() -> None:
    labels = '<Label value="Ignore" lookhere="look"/>', '<Label value="Look" lookhere="ignore"/>'
    roles = read_roles(config(IMAGE, clicks(*labels), CLASS))
    assert (roles.look, roles.ignore) == (("Ignore",), ("Look",))


@pytest.mark.parametrize("word", ["IGNORE", "Not this", "avoid it", "Negative", "background", "exclude-me"])
def test_words_for_ignoring(word: str) -> None:
    roles = read_roles(config(IMAGE, clicks(f'<Label value="{word}"/>', '<Label value="Anything"/>'), CLASS))
    assert (roles.look, roles.ignore) == (("Anything",), (word,))


@pytest.mark.parametrize("look", ['<Label value="POSITIVE"/>', '<Label value="A" lookhere="look"/>'])
def test_of_two_labels_the_one_beside_look_is_ignore(look: str) -> None:
    assert read_roles(config(IMAGE, clicks('<Label value="Rest"/>', look), CLASS)).ignore == ("Rest",)


def test_labels_without_any_hint_all_attract() -> None:
    labels = [f'<Label value="{name}"/>' for name in ("Knotted", "Notable")]
    roles = read_roles(config(IMAGE, clicks(*labels), CLASS))
    assert (roles.look, roles.ignore) == (("Knotted", "Notable"), ())


def test_results_name_aliases() -> None:
    choices = '<Choices name="c" toName="image"><Choice value="A cat" alias="cat"/><Choice value="dog"/></Choices>'
    labels = '<Label value="Look here" alias="+"/>', '<Label value="Ignore" alias="-"/>'
    roles = read_roles(config(IMAGE, clicks(*labels), choices))
    assert (roles.look, roles.ignore, roles.classes) == (("+",), ("-",), ("cat", "dog"))


def test_the_clicks_decide_which_image_is_meant() -> None:
    other = '<Image name="other" value="$other"/>'
    wrong = CLASS.replace('"class"', '"wrong"').replace('toName="image"', 'toName="other"')
    roles = read_roles(config(other, IMAGE, wrong, CLICKS, CLASS))
    assert (roles.image_tag, roles.image_field, roles.class_tag) == ("image", "image", "class")


@pytest.mark.parametrize("attribute", ['choice="multiple"', 'perRegion="true"', 'allowNested="true"'])
def test_choices_that_are_not_the_class_of_the_image(attribute: str) -> None:
    other = CLASS.replace('name="class"', f'name="other" {attribute}')
    assert read_roles(config(IMAGE, CLICKS, other, CLASS)).class_tag == "class"
    with pytest.raises(LabelConfigError, match="Choices"):
        read_roles(config(IMAGE, CLICKS, other))


def test_a_said_class_wins_over_the_first() -> None:
    said = CLASS.replace('name="class"', 'name="breed" lookhere="class"')
    assert read_roles(config(IMAGE, CLICKS, CLASS, said)).class_tag == "breed"


@pytest.mark.parametrize(("attribute", "field"), [("", "class"), ('lookhere-known="$breed"', "breed")])
def test_where_the_known_class_stands(attribute: str, field: str) -> None:
    choices = CLASS.replace('name="class"', f'name="class" {attribute}')
    assert read_roles(config(IMAGE, CLICKS, choices)).known_field == field


def test_brushes() -> None:
    brush = '<BrushLabels name="b" toName="image"><Label value="Ignored"/><Label value="Attention"/></BrushLabels>'
    roles = read_roles(config(IMAGE, CLICKS, CLASS, brush.replace("Ignored", "Ignore")))
    assert (roles.brush_tag, roles.brush_label, roles.brush_ignore_label) == ("b", "Attention", "Ignore")
    one = brush.replace('<Label value="Ignored"/>', "")
    assert read_roles(config(IMAGE, CLICKS, CLASS, one)).brush_ignore_label == "Attention"


@pytest.mark.parametrize(
    ("xml", "missing"),
    [
        (config(CLICKS, CLASS), '<Image name="image"'),
        (config(IMAGE, CLASS), "<KeyPointLabels"),
        (config(IMAGE, CLICKS), "<Choices"),
        (config(IMAGE, CLICKS, CLASS.replace('<Choice value="dog"/>', "")), "at least two <Choice>"),
        (config(IMAGE, clicks('<Label value="Ignore"/>'), CLASS), 'lookhere="look"'),
        (config(IMAGE, clicks('<Label value="A" lookhere="lok"/>'), CLASS), 'lookhere="lok" is no role'),
        (config(IMAGE.replace("/>", ' lookhere="heat"/>'), CLICKS, CLASS), "<Image"),
        (config(IMAGE.replace("$image", "http://host/a.png"), CLICKS, CLASS), "<Image"),
        ("<View>", "no XML"),
        ("", "no XML"),
        ("\ud800", "no XML"),
    ],
)
def test_what_is_missing_is_named_beside_a_config_that_works(xml: str, missing: str) -> None:
    with pytest.raises(LabelConfigError) as caught:
        read_roles(xml)
    assert missing in str(caught.value)
    assert EXAMPLE in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE View [<!ENTITY a "b">]>',
        '<!DOCTYPE View SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE View [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
    ],
)
def test_entities_are_refused(head: str) -> None:
    with pytest.raises(LabelConfigError, match="DOCTYPE"):
        read_roles(head + config(IMAGE, CLICKS, CLASS))


def test_the_heat_map_stands_beside_the_image() -> None:
    root = fromstring(with_heat(EXAMPLE, LINK))
    row = root[0]
    assert "flex" in row.get("style", "")
    image, heat = list(row.iter("Image"))
    assert image.attrib == {"name": "image", "value": "$image"}
    assert heat.attrib == {"name": "heat", "value": LINK, "lookhere": "heat"}
    assert [tag.tag for tag in root] == ["View", "KeyPointLabels", "Choices"]


@pytest.mark.parametrize(
    "xml", [EXAMPLE, label_config(), config(CLASS, "<View><View>", IMAGE, "</View></View>", CLICKS)]
)
def test_the_heat_map_changes_no_role_and_comes_once(xml: str) -> None:
    shown = with_heat(xml, LINK)
    assert read_roles(shown) == read_roles(xml)
    assert with_heat(shown, LINK) == shown
    newer = with_heat(shown, "http://new?src=$image&x=<")
    assert LINK not in newer
    assert [tag.get("value") for tag in fromstring(newer).iter("Image")] == ["$image", "http://new?src=$image&x=<"]


def test_the_heat_map_leaves_comments_alone() -> None:
    assert "<!-- a note -->" in with_heat(config("<!-- a note -->", IMAGE, CLICKS, CLASS), LINK)


def test_the_heat_map_takes_no_name_that_is_in_use() -> None:
    xml = config(IMAGE, CLICKS, CLASS).replace('"image"', '"heat"')
    shown = with_heat(xml, LINK)
    names = [tag.get("name") for tag in fromstring(shown).iter() if tag.get("name")]
    assert len(set(names)) == len(names)
    assert read_roles(shown).image_tag == "heat"


def test_an_image_without_a_view_around_it_is_refused() -> None:
    bare = f"{IMAGE.removesuffix('/>')}>{CLICKS}{CLASS}</Image>"
    with pytest.raises(LabelConfigError, match="View"):
        with_heat(bare, LINK)


@given(st.text() | st.text("<>/ \"'=!-&;ViewImagname$").map(lambda text: f"<View>{text}</View>"))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (read_roles, lambda xml: with_heat(xml, LINK)):
        with pytest.raises(LabelConfigError):
            read(text)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]), min_size=1, max_size=12)


@given(st.lists(names, min_size=2, max_size=6, unique=True), names.map(lambda name: f"http://host/?{name}"))
def test_any_names_survive(classes: list[str], link: str) -> None:
    root = fromstring(EXAMPLE)
    control = next(root.iter("Choices"))
    for choice in list(control):
        control.remove(choice)
    for name in classes:
        SubElement(control, "Choice", {"value": name})
    shown = with_heat(tostring(root, encoding="unicode"), link)
    assert read_roles(shown).classes == tuple(classes)
    assert link in [tag.get("value") for tag in fromstring(shown).iter("Image")]
