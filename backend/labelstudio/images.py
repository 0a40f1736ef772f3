"""References to images, as they stand in task data, to files on this machine.

A reference is text that any annotator or importer may write. So an address is followed only where it leads outside or
to a place that the settings allow, and Label Studio's credential goes to Label Studio alone.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import ipaddress
import itertools
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests
import urllib3
from PIL import Image, UnidentifiedImageError
from requests.adapters import HTTPAdapter

from backend.domain import LookhereError
from backend.settings import Settings

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
_REDIRECTS = 5
_CHUNK = 2**16
_CACHE_BYTES = 10 * 2**30
_FETCHES_PER_SWEEP = 100
_REDIRECT_CODES = {301, 302, 303, 307, 308}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CLOUD_SCHEMES = {"s3", "gs", "azure-blob", "azure"}


class ImageError(LookhereError):
    """An image that cannot be had, or must not."""


class ImageStore:
    """Fetches images once and keeps them, within limits. Safe to share between threads and processes.

    Args:
        settings: addresses, limits, and the folder of the cache.
        authorization: gives the headers that authenticate at Label Studio; sent nowhere else.
    """

    def __init__(self, settings: Settings, authorization: Callable[[], Mapping[str, str]]) -> None:
        self._settings = settings
        self._authorization = authorization
        self._label_studio = urlsplit(settings.label_studio_url)
        self._folder = settings.data_dir / "images"
        self._fetched = itertools.count(1)

    def fetch(self, reference: str, task: int | None = None) -> Path:
        """The file of an image.

        Args:
            reference: an upload's path, a local-files path, an address, a ``data:`` or ``file:`` URI, or the URI of a
                cloud storage that Label Studio knows.
            task: Label Studio's id of the task that shows it; needed for cloud storage.

        Returns:
            The path of a readable image file, within the limits of the settings.

        Raises:
            ImageError: if it cannot be had, is not allowed, is too large, or is no image.
        """
        parts = _split(reference)
        if parts.scheme == "file":
            return self._local(parts)
        cached = self._folder / hashlib.sha256(reference.encode("utf-8", "surrogatepass")).hexdigest()
        # Another process may drop it at any time, to bound the cache.
        with contextlib.suppress(FileNotFoundError):
            os.utime(cached)
            return cached
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=".part-")
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                size = 0
                for chunk in self._content(reference, parts, task):
                    size += len(chunk)
                    if size > self._settings.image_max_bytes:
                        raise ImageError(
                            f"Expected an image of at most {self._settings.image_max_bytes} bytes, got a larger one: "
                            f"{_short(reference)}. LOOKHERE_IMAGE_MAX_BYTES sets the limit."
                        )
                    file.write(chunk)
            self._check(part, reference)
            part.replace(cached)
        finally:
            part.unlink(missing_ok=True)
        self._bound()
        return cached

    def _content(self, reference: str, parts: SplitResult, task: int | None) -> Iterator[bytes]:
        if parts.scheme == "data":
            return iter([_data(reference)])
        if parts.scheme in _CLOUD_SCHEMES:
            return self._download(self._resolved(reference, task))
        if parts.scheme in ("http", "https") or (not parts.scheme and not parts.netloc):
            return self._download(self._absolute(reference, parts))
        raise ImageError(
            f"Expected an image that is uploaded, served by Label Studio, or at an http address, got "
            f"{_short(reference)}."
        )

    def _absolute(self, reference: str, parts: SplitResult) -> str:
        if parts.scheme:
            return reference
        base = self._label_studio
        path = "/" + reference.lstrip("/")
        # Behind a sub-path Label Studio writes references with it in some versions, and without in others.
        prefix = "" if base.path and path.startswith(base.path + "/") else base.path
        return f"{base.scheme}://{base.netloc}{prefix}{path}"

    def _resolved(self, uri: str, task: int | None) -> str:
        if task is None:
            raise ImageError(f"Expected a task to read {_short(uri)} for, got none; Label Studio resolves it by task.")
        encoded = base64.urlsafe_b64encode(uri.encode()).decode()
        return f"{self._settings.label_studio_url}/tasks/{task}/resolve/?fileuri={encoded}"

    def _download(self, url: str) -> Iterator[bytes]:
        deadline = time.monotonic() + self._settings.image_timeout_s
        for _ in range(_REDIRECTS + 1):
            request = _prepared(url)
            with self._get(request, deadline) as response:
                if response.status_code in _REDIRECT_CODES and "Location" in response.headers:
                    url = urljoin(request.url, response.headers["Location"])
                    continue
                if response.status_code != requests.codes.ok:
                    raise ImageError(
                        f"Expected an image at {_short(url)}, got HTTP status {response.status_code}."
                        + self._advice(response.status_code, request)
                    )
                # What has arrived is taken at once: waiting for full chunks, a trickle would outlast every limit.
                while chunk := response.raw.read1(_CHUNK, decode_content=True):
                    if time.monotonic() > deadline:
                        raise TimeoutError
                    yield chunk
                return
        raise ImageError(f"Expected an image after at most {_REDIRECTS} redirects, got another one to {_short(url)}.")

    def _get(self, request: requests.PreparedRequest, deadline: float) -> requests.Response:
        parts = _split(request.url or "")
        session = requests.Session()
        # Neither a proxy's nor a .netrc's credentials belong into a request to a stranger's address.
        session.trust_env = False
        if self._is_label_studio(parts):
            request.headers.update(self._authorization())
        elif parts.hostname not in self._settings.image_hosts:
            pinned = _Pinned(_public_address(parts))
            session.mount("http://", pinned)
            session.mount("https://", pinned)
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return session.send(request, stream=True, allow_redirects=False, timeout=left)

    def _is_label_studio(self, parts: SplitResult) -> bool:
        return _origin(parts) == _origin(self._label_studio)

    def _advice(self, status: int, request: requests.PreparedRequest) -> str:
        if status in (401, 403) and self._is_label_studio(_split(request.url or "")):
            return " LOOKHERE_LABEL_STUDIO_API_KEY must be a token of a user who may see it."
        return ""

    def _local(self, parts: SplitResult) -> Path:
        path = Path(unquote(parts.path)).resolve()
        if not any(path.is_relative_to(folder.resolve()) for folder in self._settings.image_folders):
            raise ImageError(
                f"Expected a file in a folder that LOOKHERE_IMAGE_FOLDERS names, got {_short(parts.geturl())}."
            )
        if not path.is_file():
            raise ImageError(f"Expected an image file, found none at {_short(parts.geturl())}.")
        self._check(path, parts.geturl())
        return path

    def _check(self, path: Path, reference: str) -> None:
        try:
            with warnings.catch_warnings():
                # Our own limit decides, not the library's.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path, formats=_FORMATS) as image:
                    width, height = image.size
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
            raise ImageError(
                f"Expected an image ({', '.join(_FORMATS)}), got something else: {_short(reference)}."
            ) from error
        if width * height > self._settings.image_max_pixels:
            raise ImageError(
                f"Expected an image of at most {self._settings.image_max_pixels} pixels, got {width} × {height}: "
                f"{_short(reference)}. LOOKHERE_IMAGE_MAX_PIXELS sets the limit."
            )

    def _bound(self) -> None:
        if next(self._fetched) % _FETCHES_PER_SWEEP:
            return
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            # Another process may sweep at the same time.
            with contextlib.suppress(FileNotFoundError):
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        excess = sum(size for _, size, _ in files) - _CACHE_BYTES
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of an image file as browsers show it, EXIF orientation applied."""
    with Image.open(path) as image:
        orientation = image.getexif().get(0x0112, 1)
        width, height = image.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _split(reference: str) -> SplitResult:
    try:
        parts = urlsplit(reference)
        _ = parts.port
    except ValueError as error:
        raise ImageError(f"Expected the address of an image, got {_short(reference)} ({error}).") from error
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme)


def _data(reference: str) -> bytes:
    head, _, body = reference.partition(",")
    if not head.endswith(";base64"):
        raise ImageError(f"Expected an image as data:image/…;base64,…, got {_short(reference)}.")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"Expected base64 in {_short(reference)}, got something else.") from error


def _short(reference: str) -> str:
    """A reference for an error message: without query, which may hold a signature or a password, and not too long."""
    text = reference.partition("?")[0]
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
