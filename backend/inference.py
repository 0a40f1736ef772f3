"""The loaded versions: what runs inside the serving process."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from PIL import Image

from backend.domain import Click, ClickRole, LookhereError, Prediction
from backend.guidance.classifier import Classifier, device_of, load
from backend.guidance.data import load_image
from backend.guidance.overlay import attention_overlay
from backend.guidance.predicting import made_to_serve, predict
from backend.guidance.targets import affected_disc, affected_segment

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_VERSIONS = 4
_SHOWN_SIDE = 1024


class Inference:
    """A few loaded versions and what they can be asked. Used by one thread.

    Args:
        device: torch device; None chooses ``cuda`` where there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device_of(device)
        self._loaded: OrderedDict[str, Classifier] = OrderedDict()

    @classmethod
    @cache
    def shared(cls, device: str | None) -> Self:
        """The one instance of this process."""
        return cls(device)

    def warm_up(self) -> None:
        """Do nothing, once everything is imported."""

    def predict(self, folder: str, paths: Sequence[str]) -> list[Prediction | None]:
        """Predict image files with the version in a folder; None for a file that is no readable image."""
        classifier = self._classifier(folder)
        images = [_readable(path) for path in paths]
        known = iter(self._predict([image for image in images if image is not None], classifier))
        return [None if image is None else next(known) for image in images]

    def overlay(self, folder: str, path: str) -> bytes:
        """Draw where the version in a folder looks in an image file: a JPEG."""
        image = load_image(Path(path))
        (prediction,) = self._predict([image], self._classifier(folder))
        # Label Studio 1.23.2 cuts the edges off a picture that is smaller than its place on the screen.
        scale = max(1.0, _SHOWN_SIDE / max(image.size))
        image = image.resize((round(image.width * scale), round(image.height * scale)))
        jpeg = io.BytesIO()
        attention_overlay(image, prediction.attention).save(jpeg, "JPEG", quality=88)
        return jpeg.getvalue()

    def affected(self, folder: str, path: str, clicks: Sequence[Click]) -> list[NDArray[np.bool_]]:
        """For each click the cells that it affects, (h, w) bool on the grid of the version in a folder."""
        (prediction,) = self._predict([load_image(Path(path))], self._classifier(folder))
        height, width = prediction.attention.shape
        return [
            affected_disc((height, width), click.x, click.y)
            if click.role is ClickRole.LOOK
            else affected_segment(prediction.attention, click.x, click.y)
            for click in clicks
        ]

    def _predict(self, images: Sequence[Image.Image], classifier: Classifier) -> list[Prediction]:
        batch_size = 32
        while True:
            try:
                return predict(classifier, images, batch_size=batch_size)
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                torch.cuda.empty_cache()

    def _classifier(self, folder: str) -> Classifier:
        if folder not in self._loaded:
            self._loaded[folder] = made_to_serve(load(Path(folder), self._device))
            while len(self._loaded) > _KEPT_VERSIONS:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(folder)
        return self._loaded[folder]


def _readable(path: str) -> Image.Image | None:
    try:
        return load_image(Path(path))
    except (LookhereError, OSError):
        return None
