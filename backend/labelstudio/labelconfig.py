"""Label config XML to the roles of its tags.

Roles are said by an attribute, ``lookhere="look|ignore|class|attention|image|heat"`` on a tag or label, and inferred
where it is missing. Label Studio 1.23.2 keeps attributes that it does not know. Results name a label or choice by its
``alias`` where it has one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, TreeBuilder, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError

from backend.domain import LookhereError

HEAT_NAME = "heat"
"""Name of the image tag that shows where the classifier looks."""

_ROLE = "lookhere"
_REGION_TAGS = ("RectangleLabels", "PolygonLabels", "EllipseLabels", "BrushLabels")
_ROLES = ("look", "ignore", "class", "attention", "image", HEAT_NAME)
_KNOWN = "lookhere-known"
_LOOK_WORDS = {"look", "focus", "attend", "positive", "yes", "foreground"}
_IGNORE_WORDS = {"ignore", "avoid", "not", "no", "negative", "background", "exclude", "wrong", "distractor", "repel"}
_SIDE_BY_SIDE = "display: flex; gap: 1em; align-items: flex-start"
_HALF = "flex: 1; min-width: 0"

EXAMPLE = """<View>
  <Image name="image" value="$image"/>
  <KeyPointLabels name="click" toName="image" smart="true">
    <Label value="Look here" lookhere="look"/>
    <Label value="Ignore" lookhere="ignore"/>
  </KeyPointLabels>
  <Choices name="class" toName="image" choice="single" lookhere="class">
    <Choice value="cat"/>
    <Choice value="dog"/>
  </Choices>
</View>"""
"""A label config that works."""


class LabelConfigError(LookhereError):
    """A label config that this backend cannot work with. Says what is missing and shows one that works."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The label config cannot work: {what} One that works:\n{EXAMPLE}")


@dataclass(frozen=True)
class Roles:
    """What the tags of a label config are for.

    Attributes:
        image_tag: name of the image that is clicked.
        image_field: key of the task data that holds its reference.
        click_tag: name of the ``KeyPointLabels``.
        look: labels that attract attention.
        ignore: labels that repel attention; may be empty.
        class_tag: name of the ``Choices`` that say the class.
        classes: its values, in order.
        known_field: key of the task data that may state the class already.
        ignored_regions: labels of boxes, polygons, ellipses and masks that are to be ignored.
        brush_tag: name of the ``BrushLabels`` that show attention, None where there are none.
        brush_label: its label for attention, None where there is none.
        brush_ignore_label: its label for an ignored segment; ``brush_label`` where there is no other.
    """

    image_tag: str
    image_field: str
    click_tag: str
    look: tuple[str, ...]
    ignore: tuple[str, ...]
    class_tag: str
    classes: tuple[str, ...]
    known_field: str
    ignored_regions: tuple[str, ...] = ()
    brush_tag: str | None = None
    brush_label: str | None = None
    brush_ignore_label: str | None = None


def read_roles(xml: str) -> Roles:
    """Read the roles from a label config.

    Args:
        xml: the label config.

    Raises:
        LabelConfigError: if a tag is missing that the clicks, the class or the image need, or a role is unknown.
    """
    root = _parse(xml)
    _need_known_roles(root)
    clicks = _click_control(root)
    image = _image(root, clicks)
    name = _required(image, "name")
    look, ignore = _click_labels(clicks)
    choices = _class_control(root, name)
    brush = _brush_control(root, name)
    brush_labels = _labels(brush, "Label") if brush is not None else []
    shows = [label for label in brush_labels if not _means_ignore(label)] or brush_labels
    hides = [label for label in brush_labels if _means_ignore(label)] or shows
    return Roles(
        image_tag=name,
        image_field=_field(image),
        click_tag=_required(clicks, "name"),
        look=look,
        ignore=ignore,
        class_tag=_required(choices, "name"),
        classes=_names(_labels(choices, "Choice")),
        known_field=choices.get(_KNOWN, "").removeprefix("$") or _required(choices, "name"),
        ignored_regions=_ignored_regions(root),
        brush_tag=_required(brush, "name") if brush is not None and shows else None,
        brush_label=_names(shows)[0] if shows else None,
        brush_ignore_label=_names(hides)[0] if hides else None,
    )


def with_heat(xml: str, link: str) -> str:
    """Put the picture of the classifier's attention beside the image.

    Args:
        xml: a label config with roles.
        link: address of the picture, with ``$field`` where Label Studio is to paste the image reference in.

    Returns:
        The label config; the same, to the letter, where the picture with this link is there already.

    Raises:
        LabelConfigError: if the label config has no image to stand beside.
    """
    root = _parse(xml)
    heat = next((tag for tag in root.iter("Image") if _is_heat(tag)), None)
    if heat is not None:
        if heat.get("value") == link:
            return xml
        heat.set("value", link)
        return tostring(root, encoding="unicode")
    image = _image(root, _click_control(root))
    parent = next((tag for tag in root.iter() if image in list(tag)), None)
    if parent is None:
        raise LabelConfigError("the <View> around its <Image> is missing.")
    # Label Studio refuses a name that two tags bear.
    name = f"{_ROLE}-{HEAT_NAME}" if any(tag.get("name") == HEAT_NAME for tag in root.iter()) else HEAT_NAME
    place = list(parent).index(image)
    parent.remove(image)
    row = Element("View", {"style": _SIDE_BY_SIDE})
    row.tail, image.tail = image.tail, None
    for tag in (image, Element("Image", {"name": name, "value": link, _ROLE: HEAT_NAME})):
        half = Element("View", {"style": _HALF})
        half.append(tag)
        row.append(half)
    parent.insert(place, row)
    return tostring(root, encoding="unicode")


def _parse(xml: str) -> Element:
    parser = DefusedXMLParser(target=TreeBuilder(insert_comments=True), forbid_dtd=True)
    try:
        parser.feed(xml)
        root: Element = parser.close()
    except DefusedXmlException as error:
        raise LabelConfigError("it holds a DOCTYPE or entities, which are refused.") from error
    except (ParseError, ValueError) as error:
        raise LabelConfigError(f"it is no XML ({error}).") from error
    return root


def _need_known_roles(root: Element) -> None:
    for tag in root.iter():
        role = tag.get(_ROLE)
        if role is not None and role not in _ROLES:
            raise LabelConfigError(f'{_ROLE}="{role}" is no role; the roles are {", ".join(_ROLES)}.')


def _click_control(root: Element) -> Element:
    controls = list(root.iter("KeyPointLabels"))
    said = [tag for tag in controls if tag.get(_ROLE) or any(label.get(_ROLE) for label in tag)]
    for tag in said or controls:
        if tag.get("name") and tag.get("toName") and _labels(tag, "Label"):
            return tag
    raise LabelConfigError('the tag <KeyPointLabels name="…" toName="…"> with a <Label> for clicks is missing.')


def _click_labels(clicks: Element) -> tuple[tuple[str, ...], tuple[str, ...]]:
    labels = _labels(clicks, "Label")
    ignore = [label for label in labels if _means_ignore(label)]
    look = [label for label in labels if label not in ignore]
    if len(look) == 2 and sum(map(_means_look, look)) == 1:
        # Two opposites, of which one names itself.
        ignore = [label for label in look if not _means_look(label)]
        look = [label for label in look if label not in ignore]
    if not look:
        raise LabelConfigError('a <Label> with lookhere="look" for clicks that attract attention is missing.')
    return _names(look), _names(ignore)


def _means_ignore(label: Element) -> bool:
    role = label.get(_ROLE)
    return role == "ignore" if role is not None else bool(_IGNORE_WORDS & _words(label))


def _means_look(label: Element) -> bool:
    role = label.get(_ROLE)
    return role == "look" if role is not None else bool(_LOOK_WORDS & _words(label))


def _words(label: Element) -> set[str]:
    return set(re.findall(r"[a-z]+", label.get("value", "").lower()))


def _image(root: Element, clicks: Element) -> Element:
    images = [tag for tag in root.iter("Image") if not _is_heat(tag)]
    names = clicks.get("toName", "").split(",")
    for tag in [tag for tag in images if tag.get(_ROLE) == "image"] or images:
        if tag.get("name") in names and tag.get("value", "").startswith("$"):
            return tag
    raise LabelConfigError(f'the tag <Image name="{names[0]}" value="$image"/> that the clicks are made on is missing.')


def _class_control(root: Element, image: str) -> Element:
    controls = [tag for tag in root.iter("Choices") if image in tag.get("toName", "").split(",") and tag.get("name")]
    controls = [tag for tag in controls if tag.get(_ROLE) == "class"] or controls
    for tag in controls:
        single = tag.get("choice", "single").startswith("single")
        # Choices of a region, or along a path, are not the class of the image.
        other = "true" in (tag.get("perRegion"), tag.get("allowNested"))
        if single and not other and len(_labels(tag, "Choice")) > 1:
            return tag
    raise LabelConfigError(
        f'the tag <Choices name="…" toName="{image}" choice="single"> with at least two <Choice> is missing; it '
        "says the class."
    )


def _brush_control(root: Element, image: str) -> Element | None:
    controls = [tag for tag in root.iter("BrushLabels") if image in tag.get("toName", "").split(",")]
    said = [tag for tag in controls if tag.get(_ROLE) == "attention"]
    return next(iter(tag for tag in said or controls if tag.get("name")), None)


def _ignored_regions(root: Element) -> tuple[str, ...]:
    labels = (label for tag in _REGION_TAGS for control in root.iter(tag) for label in _labels(control, "Label"))
    return _names([label for label in labels if _means_ignore(label)])


def _labels(control: Element, tag: str) -> Sequence[Element]:
    return [label for label in control.iter(tag) if label.get("value")]


def _names(labels: Sequence[Element]) -> tuple[str, ...]:
    return tuple(label.get("alias") or _required(label, "value") for label in labels)


def _is_heat(tag: Element) -> bool:
    return tag.get(_ROLE) == HEAT_NAME


def _field(image: Element) -> str:
    return image.get("value", "").removeprefix("$")


def _required(tag: Element, attribute: str) -> str:
    value = tag.get(attribute)
    if not value:
        raise LabelConfigError(f'the attribute {attribute}="…" of a <{tag.tag}> is missing.')
    return value
