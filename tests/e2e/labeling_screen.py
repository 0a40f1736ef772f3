"""Label Studio's labeling screen, as a person sees and uses it. Selectors hold for Label Studio 1.23.2."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image
from playwright.sync_api import FloatRect, Page, expect
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUBMIT = "[data-testid=bottombar-submit-button]"
_AUTO_ANNOTATION = "[data-testid=bottombar-auto-annotation-toggle]"
_SMART_TOOL = ".lsf-tool_smart:visible"
_MOVE_TOOL = "[aria-label=move-tool]"
_STAGE = ".konvajs-content"
_PICTURES = "img[alt=image]"
_ROW = "[data-testid=table-row]"

# Smaller specks of difference between two screenshots are no region.
_SMALLEST_REGION_PX = 6
_VISIBLE_DIFFERENCE = 12
_LOOKS = 200
_BETWEEN_LOOKS_MS = 150


@dataclass(frozen=True)
class Drawn:
    """A region as it is seen on the image.

    Attributes:
        x: of its middle, in percent of the image's width.
        y: of its middle, in percent of the image's height.
        width: in percent of the image's width.
    """

    x: float
    y: float
    width: float


class LabelingScreen:
    """One person at a browser.

    Args:
        page: a blank page.
        address: of Label Studio, without a trailing slash.
    """

    def __init__(self, page: Page, address: str) -> None:
        self._page = page
        self._address = address

    def login(self, email: str, password: str) -> None:
        """Log in at the form."""
        page = self._page
        page.goto(f"{self._address}/user/login/")
        page.fill("input[name=email]", email)
        page.fill("input[name=password]", password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/user/login" not in url)

    def open_view(self, project: int, title: str) -> None:
        """Open a tab of the Data Manager."""
        self._page.goto(f"{self._address}/projects/{project}/data")
        self._page.locator("[class*=tabs]").get_by_text(title, exact=True).first.click()
        self._page.locator(_ROW).first.wait_for()

    def label_all_tasks(self, as_displayed: bool = False) -> tuple[int, str]:
        """Start labeling at the button of the view; returns the served task's id and the queue that it came from.

        Args:
            as_displayed: choose the entry of its menu, "Label Tasks As Displayed", in place of "Label All Tasks".
        """
        button = self._page.get_by_role("button", name="Label All Tasks")
        with self._page.expect_response(lambda response: "id=next_task" in response.url) as served:
            if as_displayed:
                button.locator("xpath=following-sibling::*").first.click()
                self._page.get_by_text("Label Tasks As Displayed").click()
            else:
                button.click()
        answer = served.value.json()
        self._wait_until_drawn()
        return int(answer["id"]), str(answer["queue"])

    def open_first_task(self) -> int:
        """Open the task in the first row of the view; returns its id."""
        self._page.locator(_ROW).first.click()
        self._page.wait_for_url("**task=*")
        self._wait_until_drawn()
        return int(parse_qs(urlsplit(self._page.url).query)["task"][0])

    def open_task(self, project: int, task: int) -> None:
        """Open a task by its address."""
        self._page.goto(f"{self._address}/projects/{project}/data?task={task}")
        self._wait_until_drawn()

    def chosen_class(self) -> list[str]:
        """The choices that are ticked."""
        ticked = self._page.locator(".lsf-choice__checkbox input[type=checkbox]:checked")
        return [str(choice.get_attribute("name")) for choice in ticked.all()]

    def choose(self, name: str) -> None:
        """Tick a choice."""
        self._page.locator(f'.lsf-choice__checkbox input[type=checkbox][name="{name}"]').check()

    def listed_regions(self) -> list[str]:
        """The labels in the panel of regions, from top to bottom."""
        titles = self._page.locator(".lsf-outliner-item__title").all_inner_texts()
        return [title.strip() for title in titles]

    def drawn(self) -> list[Drawn]:
        """The regions that are seen on the image, largest first: what vanishes when regions are hidden."""
        # First the mouse goes there, so that what it shows on its way is not seen once and then not.
        self._page.hover("[aria-label='Hide all regions']")
        with_regions = self._seen(0)
        self._page.click("[aria-label='Hide all regions']")
        without = self._seen(0)
        self._page.click("[aria-label='Show all regions']")
        self._seen(0)
        changed = np.abs(with_regions.astype(int) - without).max(axis=2) > _VISIBLE_DIFFERENCE
        blobs, _ = ndimage.label(changed, structure=np.ones((3, 3)))
        height, width = changed.shape
        found = []
        for rows, columns in ndimage.find_objects(blobs):
            if min(rows.stop - rows.start, columns.stop - columns.start) >= _SMALLEST_REGION_PX:
                x = 100 * (columns.start + columns.stop) / 2 / width
                y = 100 * (rows.start + rows.stop) / 2 / height
                found.append(Drawn(x, y, 100 * (columns.stop - columns.start) / width))
        return sorted(found, key=lambda region: -region.width)

    def image(self) -> NDArray[np.uint8]:
        """What is seen of the image and its regions: (H, W, 3), RGB."""
        return self._seen(0)

    def heat(self) -> NDArray[np.uint8]:
        """What is seen of the heat map beside the image: (H, W, 3), RGB."""
        return self._seen(1)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag what is drawn at one place of the image to another; places are (x, y) in percent."""
        self._page.locator(_MOVE_TOOL).first.click()
        mouse = self._page.mouse
        mouse.move(*self._on_page(start))
        mouse.down()
        mouse.move(*self._on_page(end), steps=8)
        mouse.up()

    def click(self, label: str, place: tuple[float, float]) -> None:
        """Choose a label and click the image at (x, y) in percent."""
        before = len(self.listed_regions())
        self._page.locator(".lsf-labels").get_by_text(label, exact=True).click()
        self._page.mouse.click(*self._on_page(place))
        expect(self._page.locator(".lsf-outliner-item__title")).to_have_count(before + 1)

    def switch_smart_tool_on(self) -> None:
        """Turn on Auto-Annotation and Auto-Accept, and take the smart tool."""
        self._page.click(_AUTO_ANNOTATION)
        self._page.get_by_text("Auto-Accept Suggestions").click()
        self._page.locator(_SMART_TOOL).first.click()

    def smart_click(self, label: str, place: tuple[float, float]) -> None:
        """Choose a label, click the image at (x, y) in percent with the smart tool, and await the answer."""
        with self._page.expect_response("**/interactive-annotating**"):
            self.click(label, place)

    def submit(self) -> None:
        """Submit the annotation, and await that Label Studio has it."""
        with self._page.expect_response(
            lambda answer: "/annotations" in answer.url and answer.request.method == "POST" and answer.ok
        ):
            self._page.click(_SUBMIT)

    def _wait_until_drawn(self) -> None:
        self._page.locator(_SUBMIT).wait_for()
        expect(self._page.locator(_STAGE)).to_have_count(2)
        self._page.wait_for_function(
            """selector => {
                const pictures = [...document.querySelectorAll(selector)];
                return pictures.length === 2 && pictures.every(picture => picture.complete && picture.naturalWidth > 0);
            }""",
            arg=_PICTURES,
        )
        self._seen(0)

    def _place(self, number: int) -> FloatRect:
        place = self._page.locator(_STAGE).nth(number).bounding_box()
        assert place is not None, "the image is not on the screen"
        return place

    def _seen(self, number: int) -> NDArray[np.uint8]:
        # The screen fades and shifts a little after each action; what is the same twice has come to rest.
        last: NDArray[np.uint8] | None = None
        for _ in range(_LOOKS):
            self._page.wait_for_timeout(_BETWEEN_LOOKS_MS)
            shot = Image.open(io.BytesIO(self._page.screenshot(clip=self._place(number))))
            seen = np.asarray(shot.convert("RGB"))
            if last is not None and np.array_equal(seen, last):
                return seen
            last = seen
        raise AssertionError("the screen does not come to rest")

    def _on_page(self, place: tuple[float, float]) -> tuple[float, float]:
        box = self._place(0)
        return box["x"] + box["width"] * place[0] / 100, box["y"] + box["height"] * place[1] / 100
