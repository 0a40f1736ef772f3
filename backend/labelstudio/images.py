"""References to images, as they stand in task data, to files on this machine.

A reference is text that any annotator or importer may write. So an address is followed only where it leads outside or
to a place that the settings allow, and Label Studio's credential goes to Label Studio alone.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hashlib
import http.client
import io
import ipaddress
import os
import re
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
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
_PART = ".part-"
# Of the cache: how much may come between two sweeps of a process.
_SWEPT_SHARE = 0.01
# No download takes as long: what is still unfinished then was left by a process that was killed.
_UNFINISHED_S = 3600.0
_REDIRECT_CODES = {301, 302, 303, 307, 308}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CLOUD_SCHEMES = {"s3", "gs", "azure-blob", "azure"}
_IPV6_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Azure gives its machines their keys and settings here: in public space, and reachable from within alone.
_AZURE_WIRE = ipaddress.ip_address("168.63.129.16")


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
        self._lock = threading.Lock()
        # Full, so that the first image of a process looks at what others left.
        self._unswept = float(settings.image_cache_bytes)

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
        # Label Studio says who may see what of a cloud storage by the task: what one may see is not another's.
        of_task = task if parts.scheme in _CLOUD_SCHEMES else None
        name = f"{self._settings.label_studio_url} {of_task} {reference}"
        cached = self._folder / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        # Another process may drop it at any time, to bound the cache.
        with contextlib.suppress(FileNotFoundError):
            os.utime(cached)
            return cached
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(dir=self._folder, prefix=_PART)
        part = Path(unfinished)
        try:
            with os.fdopen(descriptor, "wb") as file:
                size = 0
                for chunk in self._content(reference, parts, task):
                    size += len(chunk)
                    self._need_size(size, reference)
                    file.write(chunk)
            self._check(part, reference)
            part.replace(cached)
        finally:
            part.unlink(missing_ok=True)
        self._bound(size, cached)
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
        sent = False
        try:
            for _ in range(_REDIRECTS + 1):
                request = _prepared(url)
                with self._answer(request, sent, deadline) as response:
                    if response.status_code in _REDIRECT_CODES and "Location" in response.headers:
                        # Label Studio sends on to the cloud storages that its owner named.
                        sent = self._is_label_studio(_split(request.url or url))
                        url = urljoin(request.url or url, response.headers["Location"])
                        continue
                    self._need_ok(response)
                    # What has come is taken at once: a trickle that has to fill a chunk would outlast the deadline.
                    while chunk := response.raw.read1(_CHUNK, decode_content=True):
                        _need_time(deadline)
                        yield chunk
                    return
        except (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise ImageError(
                f"Expected the image at {_short(url)} within {self._settings.image_timeout_s} s, got a part of it or "
                "nothing. LOOKHERE_IMAGE_TIMEOUT_S sets the limit."
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise ImageError(f"Expected an image at {_short(url)}, got no answer: {type(error).__name__}.") from error
        raise ImageError(f"Expected an image after at most {_REDIRECTS} redirects, got another one to {_short(url)}.")

    def _answer(self, request: requests.PreparedRequest, sent: bool, deadline: float) -> requests.Response:
        parts = _split(request.url or "")
        with requests.Session() as session:
            # Neither a proxy's nor a .netrc's credentials belong into a request to a stranger's address.
            session.trust_env = False
            adapter = _Timed(deadline)
            if self._is_label_studio(parts):
                request.headers.update(self._authorization())
            else:
                adapter = _Pinned(self._address(parts, sent), deadline)
            session.mount(f"{parts.scheme}://", adapter)
            return session.send(request, stream=True, allow_redirects=False, timeout=_need_time(deadline))

    def _is_label_studio(self, parts: SplitResult) -> bool:
        # Under a sub-path others share its origin, and a server may take %2e%2e for the way up to them.
        path = unquote(parts.path).replace("\\", "/")
        below = f"{path}/".startswith(f"{self._label_studio.path}/") and ".." not in path.split("/")
        return below and _origin(parts) == _origin(self._label_studio)

    def _address(self, parts: SplitResult, sent: bool) -> str:
        """The address of an allowed host; ``sent`` where Label Studio itself led there."""
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in _DEFAULT_PORTS or not host:
            raise ImageError(f"Expected an http or https address of an image, got {_short(parts.geturl())}.")
        if not sent and not any(_names(allowed, host) for allowed in self._settings.image_hosts):
            raise ImageError(
                f"Expected an image from Label Studio or from a host that LOOKHERE_IMAGE_HOSTS names, got one from "
                f"{host!r:.80}."
            )
        try:
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, parts.port, proto=socket.IPPROTO_TCP)]
        except (OSError, UnicodeError) as error:
            raise ImageError(f"Expected the host of an image, got {host!r:.80}, which has no address.") from error
        for address in found:
            if not _is_public(address) and not self._is_in_named_network(address):
                raise ImageError(
                    f"Expected an image at a public address, got the host {host!r:.80}, whose address {address} is "
                    "private. Networks that are meant are named in LOOKHERE_IMAGE_NETWORKS."
                )
        return found[0]

    def _is_in_named_network(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        return any(ip in network for network in self._settings.image_networks)

    def _need_ok(self, response: requests.Response) -> None:
        if response.status_code == requests.codes.ok:
            return
        refused = response.status_code in (401, 403) and self._is_label_studio(_split(response.url))
        raise ImageError(
            f"Expected an image at {_short(response.url)}, got HTTP status {response.status_code}."
            + (" LOOKHERE_LABEL_STUDIO_API_KEY must be a token of a user who may see it." if refused else "")
        )

    def _local(self, parts: SplitResult) -> Path:
        try:
            path = Path(unquote(parts.path)).resolve()
            allowed = any(path.is_relative_to(folder.resolve()) for folder in self._settings.image_folders)
            # Only of an allowed path it is said whether it is there.
            size = path.stat().st_size if allowed and path.is_file() else None
        except (OSError, ValueError) as error:
            raise ImageError(f"Expected the path of an image file, got {_short(parts.geturl())} ({error}).") from error
        if not allowed:
            raise ImageError(
                f"Expected a file in a folder that LOOKHERE_IMAGE_FOLDERS names, got {_short(parts.geturl())}."
            )
        if size is None:
            raise ImageError(f"Expected an image file, found none at {_short(parts.geturl())}.")
        self._need_size(size, parts.geturl())
        self._check(path, parts.geturl())
        return path

    def _need_size(self, size: int, reference: str) -> None:
        if size > self._settings.image_max_bytes:
            raise ImageError(
                f"Expected an image of at most {self._settings.image_max_bytes} bytes, got a larger one: "
                f"{_short(reference)}. LOOKHERE_IMAGE_MAX_BYTES sets the limit."
            )

    def _check(self, path: Path, reference: str) -> None:
        try:
            with warnings.catch_warnings():
                # Our own limit decides, not the library's.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path, formats=_FORMATS) as image:
                    width, height = image.size
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"Expected an image of at most {self._settings.image_max_pixels} pixels, got a bomb of far more: "
                f"{_short(reference)}."
            ) from error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            raise ImageError(
                f"Expected an image ({', '.join(_FORMATS)}), got something else: {_short(reference)}."
            ) from error
        if width * height > self._settings.image_max_pixels:
            raise ImageError(
                f"Expected an image of at most {self._settings.image_max_pixels} pixels, got {width} × {height}: "
                f"{_short(reference)}. LOOKHERE_IMAGE_MAX_PIXELS sets the limit."
            )

    def _bound(self, size: int, newest: Path) -> None:
        """Drop what was used longest ago, but never the image that is about to be read."""
        bound = self._settings.image_cache_bytes
        with self._lock:
            self._unswept += size
            if self._unswept <= _SWEPT_SHARE * bound:
                return
            self._unswept = 0.0
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            # Another process may sweep at the same time.
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if not path.name.startswith(_PART):
                    files.append((state.st_mtime, state.st_size, path))
                elif state.st_mtime < time.time() - _UNFINISHED_S:
                    path.unlink()
        excess = sum(size for _, size, _ in files) - bound
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                excess -= size


class _Timed(HTTPAdapter):
    """Ends an answer at the deadline, its head too; the time limit of a socket begins anew with each byte.

    Args:
        deadline: in seconds of the monotonic clock.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        super().__init__()

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *rest: Any, **more: Any
    ) -> urllib3.HTTPConnectionPool:
        return self._timed(
            cast(urllib3.HTTPConnectionPool, super().get_connection_with_tls_context(request, *rest, **more))
        )

    def _timed(self, pool: urllib3.HTTPConnectionPool) -> urllib3.HTTPConnectionPool:
        answer = staticmethod(functools.partial(_TimedResponse, deadline=self._deadline))
        pool.ConnectionCls = type("_TimedConnection", (pool.ConnectionCls,), {"response_class": answer})
        return pool


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *rest: Any, deadline: float, **more: Any) -> None:
        super().__init__(sock, *rest, **more)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, deadline))


class _TimedReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_need_time(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Pinned(_Timed):
    """Connects to the address that was checked, whatever the host's name may mean by then.

    Args:
        address: IP address to connect to.
        deadline: in seconds of the monotonic clock.
    """

    def __init__(self, address: str, deadline: float) -> None:
        self._address = address
        super().__init__(deadline)

    def add_headers(self, request: requests.PreparedRequest, **_: Any) -> None:
        request.headers["Host"] = _split(request.url or "").netloc.rpartition("@")[2]

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *_: Any, **__: Any
    ) -> urllib3.HTTPConnectionPool:
        parts = _split(request.url or "")
        # The certificate is still to be the name's.
        named = {"server_hostname": parts.hostname, "assert_hostname": parts.hostname}
        pool: urllib3.HTTPConnectionPool = self.poolmanager.connection_from_host(
            self._address, parts.port, parts.scheme, named if parts.scheme == "https" else None
        )
        return self._timed(pool)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of an image file as browsers show it, EXIF orientation applied."""
    with Image.open(path) as image:
        orientation = image.getexif().get(0x0112, 1)
        width, height = image.size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _prepared(url: str) -> requests.PreparedRequest:
    # Judged is what is sent. Parsers disagree on an address like http://a\\@b/, and the one that connects counts.
    return requests.Request("GET", url).prepare()


def _names(allowed: str, host: str) -> bool:
    """Whether an entry of the allowed hosts names a host: itself, all below it, or all."""
    allowed = allowed.lower()
    return allowed in ("*", host) or (allowed.startswith("*.") and host.endswith(allowed[1:]))


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip in _NAT64:
        # Networks without IPv4 reach its hosts so, the private ones too.
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    if isinstance(ip, ipaddress.IPv6Address):
        # 6to4 carries an IPv4 address, which may be any.
        return ip in _IPV6_UNICAST and ip.is_global and ip.sixtofour is None
    return ip.is_global and not ip.is_multicast and ip != _AZURE_WIRE


def _need_time(deadline: float) -> float:
    """The seconds that are left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


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
    """A reference for an error message: not too long, and without what may hold a password or a signature."""
    text = re.sub(r"//[^/]*@", "//", reference.partition("?")[0])
    return repr(text if len(text) <= 80 else f"{text[:77]}…")
