"""The predict use case: published versions, answering from a process of their own.

The web process must say ``/health`` within a second while a classifier is loading, predicting or training, so it
never imports torch: the loaded versions live in one child process, and threads wait for its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any

from backend.domain import Click, LookhereError, ModelVersion, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Small enough that a heat map or a smart click is not kept waiting behind a whole batch.
_IMAGES_PER_CALL = 16


class Overloaded(LookhereError):
    """More requests wait for predictions than the backend accepts."""


class Serving:
    """Predictions of published versions. Safe to share between threads.

    Args:
        device: torch device of the classifiers; None chooses ``cuda`` where there is one.
        waiting: how many requests may wait at once before further ones are refused.
    """

    def __init__(self, device: str | None = None, waiting: int = 32) -> None:
        self._device = device
        self._places = BoundedSemaphore(waiting)
        self._lock = Lock()
        self._process: ProcessPoolExecutor | None = None

    def warm_up(self) -> None:
        """Start the process and let it import torch, without waiting for it."""
        self._submit("warm_up")

    def predict(self, version: ModelVersion, images: Sequence[Path]) -> list[Prediction | None]:
        """Predict images with a version.

        Args:
            version: the version that answers.
            images: paths of image files.

        Returns:
            One prediction for each image, in order; None where the file cannot be read as an image.

        Raises:
            Overloaded: if too many requests wait already.
        """
        paths = [str(path) for path in images]
        with self._place():
            answers: list[Prediction | None] = []
            for start in range(0, len(paths), _IMAGES_PER_CALL):
                chunk = paths[start : start + _IMAGES_PER_CALL]
                answers += self._call("predict", str(version.folder), chunk)
            return answers

    def overlay(self, version: ModelVersion, image: Path) -> bytes:
        """Draw where a version looks in an image.

        Returns:
            A JPEG of the image's proportions.

        Raises:
            Overloaded: if too many requests wait already.
            LookhereError: if the file cannot be read as an image.
        """
        with self._place():
            drawn: bytes = self._call("overlay", str(version.folder), str(image))
            return drawn

    def affected(self, version: ModelVersion, image: Path, clicks: Sequence[Click]) -> list[NDArray[Any]]:
        """Find the cells of the attention map that clicks affect.

        Returns:
            For each (h, w) bool on the classifier's grid: the disc of a "Look here", the segment under an "Ignore".

        Raises:
            Overloaded: if too many requests wait already.
            LookhereError: if the file cannot be read as an image.
        """
        with self._place():
            cells: list[NDArray[Any]] = self._call("affected", str(version.folder), str(image), list(clicks))
            return cells

    def close(self) -> None:
        """End the process."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Overloaded("Too many requests wait for predictions; ask again in a few seconds.")
        try:
            yield
        finally:
            self._places.release()

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return self._submit(name, *arguments).result()
        except BrokenProcessPool:
            # The process was killed, by the kernel for its memory or by a person: once more in a fresh one.
            self.close()
            return self._submit(name, *arguments).result()

    def _submit(self, name: str, *arguments: Any) -> Future[Any]:
        with self._lock:
            if self._process is None:
                self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            return self._process.submit(_in_process, name, self._device, arguments)


def _in_process(name: str, device: str | None, arguments: tuple[Any, ...]) -> Any:
    # Imported by name, in the child alone: this module must stay free of torch.
    inference = import_module("backend.inference")
    return getattr(inference.Inference.shared(device), name)(*arguments)
