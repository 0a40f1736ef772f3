"""Hostile inputs, each with the exact refusal.

Four ways lead in: references to images, which any annotator or importer may write; requests to the server; label
configs; and files of weights. Where the reference is concerned the settings are the most generous ones, every host
allowed, so that the refusal is not that of an unnamed host.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import shutil
import socket
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.domain import LookhereError, Task
from backend.guidance.classifier import create
from backend.labelstudio.access import WEBHOOK_HEADER, basic_auth, webhook_headers
from backend.labelstudio.images import ImageError, ImageStore
from backend.labelstudio.labelconfig import LabelConfigError, read_roles
from backend.labelstudio.links import sign
from backend.settings import Settings
from tests.sites import Site, bomb, picture, serving
from tests.web.conftest import LARGEST_BODY, SECRET, Running

TOKEN = "Token that-nobody-else-may-see"
HOST = "http://labels.example"

# References to images.


def private(host: str, address: str) -> str:
    return (
        f"Expected an image at a public address, got the host {host!r}, whose address {address} is private. Networks "
        "that are meant are named in LOOKHERE_IMAGE_NETWORKS."
    )


def no_address(host: str) -> str:
    return f"Expected the host of an image, got {host!r}, which has no address."


def no_answer(url: str, why: str = "InvalidURL") -> str:
    return f"Expected an image at {url!r}, got no answer: {why}."


def no_scheme(reference: str) -> str:
    return f"Expected an image that is uploaded, served by Label Studio, or at an http address, got {reference!r}."


def no_web(url: str) -> str:
    return f"Expected an http or https address of an image, got {url!r}."


def no_folder(reference: str) -> str:
    return f"Expected a file in a folder that LOOKHERE_IMAGE_FOLDERS names, got {reference!r}."


def no_file(reference: str) -> str:
    return f"Expected an image file, found none at {reference!r}."


def no_image(reference: str) -> str:
    return f"Expected an image (PNG, JPEG, GIF, BMP, WEBP, TIFF), got something else: {reference!r}."


def no_more_bytes(reference: str) -> str:
    return (
        f"Expected an image of at most 20000 bytes, got a larger one: {reference!r}. LOOKHERE_IMAGE_MAX_BYTES sets "
        "the limit."
    )


def no_more_pixels(reference: str, came: str) -> str:
    return (
        f"Expected an image of at most 30000 pixels, got {came}: {reference!r}. LOOKHERE_IMAGE_MAX_PIXELS sets the "
        "limit."
    )


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def short(reference: str) -> str:
    return f"{reference[:77]}…"


_CONTROL = "http://127.0.0.1\r\nHost: labels.example/"
_LONG = "file://" + "a" * 5000
_PACKED_CHUNK = zlib.compress(bytes(10_000_000), 9)
_PIXELS = data(bomb(200, 200))
_BYTES = data(bytes(30_000))

# In a reference and its refusal: PORT that of a site on loopback, STUDIO Label Studio's address, PHOTOS the
# folder whose files may be read.
REFERENCES: dict[str, tuple[str, str]] = {
    # Server-side request forgery: this machine by its many names.
    "loopback": ("http://127.0.0.1:PORT/b.png", private("127.0.0.1", "127.0.0.1")),
    "loopback by name": ("http://localhost:PORT/b.png", private("localhost", "127.0.0.1")),
    "loopback by name with a dot": ("http://localhost.:PORT/b.png", private("localhost", "127.0.0.1")),
    "loopback in decimal": ("http://2130706433:PORT/b.png", private("2130706433", "127.0.0.1")),
    "loopback in hexadecimal": ("http://0x7f000001:PORT/b.png", private("0x7f000001", "127.0.0.1")),
    "loopback in octal": ("http://0177.0.0.1:PORT/b.png", private("0177.0.0.1", "127.0.0.1")),
    "loopback cut short": ("http://127.1:PORT/b.png", private("127.1", "127.0.0.1")),
    "this host": ("http://0.0.0.0:PORT/b.png", private("0.0.0.0", "0.0.0.0")),  # noqa: S104 - refused, not bound
    "this host cut short": ("http://0:PORT/b.png", private("0", "0.0.0.0")),  # noqa: S104 - refused, not bound
    "loopback encrypted": ("https://127.0.0.1:PORT/b.png", private("127.0.0.1", "127.0.0.1")),
    "loopback of IPv6": ("http://[::1]:PORT/b.png", private("::1", "::1")),
    "loopback mapped into IPv6": ("http://[::ffff:7f00:1]:PORT/b.png", private("::ffff:7f00:1", "::ffff:127.0.0.1")),
    "loopback within IPv6": ("http://[::127.0.0.1]:PORT/b.png", private("::127.0.0.1", "::127.0.0.1")),
    "loopback through NAT64": ("http://[64:ff9b::7f00:1]:PORT/", private("64:ff9b::7f00:1", "64:ff9b::7f00:1")),
    "loopback through 6to4": ("http://[2002:7f00:1::]:PORT/", private("2002:7f00:1::", "2002:7f00:1::")),
    "loopback in wide digits": ("http://①②⑦.⓪.⓪.①:PORT/b.png", no_answer("http://①②⑦.⓪.⓪.①:PORT/b.png")),
    "loopback with wide dots": ("http://127。0。0。1:PORT/b.png", no_answer("http://127。0。0。1:PORT/b.png")),
    # Networks that only this machine reaches.
    "private ten": ("http://10.0.0.1/", private("10.0.0.1", "10.0.0.1")),
    "private 172": ("http://172.16.0.1/", private("172.16.0.1", "172.16.0.1")),
    "private 192": ("http://192.168.1.1/", private("192.168.1.1", "192.168.1.1")),
    "carrier's": ("http://100.64.0.1/", private("100.64.0.1", "100.64.0.1")),
    "multicast": ("http://224.0.0.1/", private("224.0.0.1", "224.0.0.1")),
    "broadcast": ("http://255.255.255.255/", private("255.255.255.255", "255.255.255.255")),
    "link-local of IPv6": ("http://[fe80::1]/", private("fe80::1", "fe80::1")),
    "link-local with a zone": ("http://[fe80::1%25lo]/", no_address("fe80::1%25lo")),
    "site-local of IPv6": ("http://[fec0::1]/", private("fec0::1", "fec0::1")),
    "metadata": ("http://169.254.169.254/latest/meta-data/", private("169.254.169.254", "169.254.169.254")),
    "metadata of IPv6": ("http://[fd00:ec2::254]/latest/", private("fd00:ec2::254", "fd00:ec2::254")),
    "metadata of Azure": ("http://168.63.129.16/machine", private("168.63.129.16", "168.63.129.16")),
    # Names that lead there.
    "a name of metadata": ("http://metadata.example/", private("metadata.example", "169.254.169.254")),
    "a name of the inside": ("http://inside.example/", private("inside.example", "10.0.0.7")),
    "a name of NAT64": ("http://nat64.example/", private("nat64.example", "64:ff9b::a00:1")),
    "a name of both": ("http://mixed.example/", private("mixed.example", "192.168.0.1")),
    "a name that turns": (
        "http://turning.example:PORT/b.png",
        no_answer("http://turning.example:PORT/b.png", "ConnectionError"),
    ),
    # Addresses that are read in two ways.
    "user that looks like a host": ("http://labels.example@127.0.0.1:PORT/b.png", private("127.0.0.1", "127.0.0.1")),
    "backslash before the host": ("http://labels.example\\@127.0.0.1:PORT/b.png", no_address("labels.example")),
    "backslash behind the host": ("http://127.0.0.1:PORT\\@labels.example/b.png", private("127.0.0.1", "127.0.0.1")),
    "fragment with a host": ("http://127.0.0.1:PORT#@labels.example/", private("127.0.0.1", "127.0.0.1")),
    "query with a host": ("http://127.0.0.1:PORT?@labels.example/", private("127.0.0.1", "127.0.0.1")),
    "backslashes for slashes": ("http:\\\\127.0.0.1:PORT\\b.png", no_answer("http:\\\\127.0.0.1:PORT\\b.png")),
    "three slashes": ("http:///127.0.0.1:PORT/b.png", no_answer("http:///127.0.0.1:PORT/b.png")),
    "no scheme": ("//127.0.0.1:PORT/b.png", no_scheme("//127.0.0.1:PORT/b.png")),
    "a null byte in the host": ("http://127.0.0.1%00.example/", no_answer("http://127.0.0.1%00.example/")),
    "a leading space": (" http://127.0.0.1:PORT/b.png", private("127.0.0.1", "127.0.0.1")),
    "a line break in the scheme": ("ht\ntp://127.0.0.1:PORT/b.png", private("127.0.0.1", "127.0.0.1")),
    "a header in the host": (
        _CONTROL,
        f"Expected the address of an image, got {_CONTROL!r} (Port could not be cast to integer value as "
        "' labels.example').",
    ),
    "half a surrogate": ("http://\ud800/", no_answer("http://\ud800/")),
    "port too high": (
        "http://labels.example:99999/",
        "Expected the address of an image, got 'http://labels.example:99999/' (Port out of range 0-65535).",
    ),
    "port below zero": (
        "http://labels.example:-1/",
        "Expected the address of an image, got 'http://labels.example:-1/' (Port could not be cast to integer value "
        "as '-1').",
    ),
    "half an IPv6 address": (
        "http://[::1/",
        "Expected the address of an image, got 'http://[::1/' (Invalid IPv6 URL).",
    ),
    # Other schemes.
    "ftp": ("ftp://127.0.0.1/a", no_scheme("ftp://127.0.0.1/a")),
    "gopher": ("gopher://127.0.0.1:70/_", no_scheme("gopher://127.0.0.1:70/_")),
    "dict": ("dict://127.0.0.1:11211/stats", no_scheme("dict://127.0.0.1:11211/stats")),
    "ldap": ("ldap://127.0.0.1/", no_scheme("ldap://127.0.0.1/")),
    "jar": ("jar:http://127.0.0.1!/", no_scheme("jar:http://127.0.0.1!/")),
    "javascript": ("javascript:alert(1)", no_scheme("javascript:alert(1)")),
    "a socket": ("unix:///var/run/docker.sock", no_scheme("unix:///var/run/docker.sock")),
    "a storage without a task": (
        "s3://bucket/a.png",
        "Expected a task to read 's3://bucket/a.png' for, got none; Label Studio resolves it by task.",
    ),
    # Redirects, from Label Studio itself.
    "redirect to loopback": ("/to-loopback", private("127.0.0.1", "127.0.0.1")),
    "redirect to metadata": ("/to-metadata", private("169.254.169.254", "169.254.169.254")),
    "redirect to a name of the inside": ("/to-inside", private("inside.example", "10.0.0.7")),
    "redirect to a file": ("/to-file", no_web("file:///etc/passwd")),
    "redirect to gopher": ("/to-gopher", no_web("gopher://127.0.0.1/")),
    "redirect without end": ("/loop", "Expected an image after at most 5 redirects, got another one to 'STUDIO/loop'."),
    # Traversal.
    "any file": ("file:///etc/passwd", no_folder("file:///etc/passwd")),
    "any file in capitals": ("FILE:///etc/passwd", no_folder("file:///etc/passwd")),
    "any file without slashes": ("file:/etc/passwd", no_folder("file:///etc/passwd")),
    "any file of a host": ("file://localhost/etc/passwd", no_folder("file://localhost/etc/passwd")),
    "the environment": ("file:///proc/self/environ", no_folder("file:///proc/self/environ")),
    "a device": ("file:///dev/zero", no_folder("file:///dev/zero")),
    "up": ("file://PHOTOS/../secret.png", no_folder("file://PHOTOS/../secret.png")),
    "up, encoded": ("file://PHOTOS/%2e%2e/secret.png", no_folder("file://PHOTOS/%2e%2e/secret.png")),
    "up, slash encoded": ("file://PHOTOS/..%2fsecret.png", no_folder("file://PHOTOS/..%2fsecret.png")),
    "up, encoded twice": ("file://PHOTOS/%252e%252e/secret.png", no_file("file://PHOTOS/%252e%252e/secret.png")),
    "up, by backslash": ("file://PHOTOS/..\\secret.png", no_file("file://PHOTOS/..\\secret.png")),
    "a link out": ("file://PHOTOS/link.png", no_folder("file://PHOTOS/link.png")),
    "a folder beside": ("file://PHOTOS-beside/a.png", no_folder("file://PHOTOS-beside/a.png")),
    "a null byte": (
        "file://PHOTOS/a%00.png",
        "Expected the path of an image file, got 'file://PHOTOS/a%00.png' (embedded null byte).",
    ),
    "a path without end": (_LONG, no_folder(short(_LONG))),
    "a pipe": ("file://PHOTOS/pipe.png", no_file("file://PHOTOS/pipe.png")),
    "a folder": ("file://PHOTOS/folder.png", no_file("file://PHOTOS/folder.png")),
    "a text": ("file://PHOTOS/text.png", no_image("file://PHOTOS/text.png")),
    "up on Label Studio": (
        "../../etc/passwd",
        "Expected an image at 'STUDIO/etc/passwd', got HTTP status 404.",
    ),
    "up on Label Studio, encoded": ("/data/upload/..%2f..%2fapi/users", private("127.0.0.1", "127.0.0.1")),
    # Bombs, and what only calls itself an image.
    "many bytes": ("/large.png", no_more_bytes("/large.png")),
    "many bytes in deflate": ("/deflate", no_more_bytes("/deflate")),
    "many bytes in gzip": ("/gzip", no_more_bytes("/gzip")),
    "many bytes in gzip in gzip": ("/gzip-gzip", no_more_bytes("/gzip-gzip")),
    "many bytes in a data URI": (_BYTES, no_more_bytes(short(_BYTES))),
    "many pixels": ("/pixels.png", no_more_pixels("/pixels.png", "200 × 200")),
    "many pixels in a data URI": (_PIXELS, no_more_pixels(short(_PIXELS), "200 × 200")),
    "very many pixels": (
        "/bomb.png",
        "Expected an image of at most 30000 pixels, got a bomb of far more: '/bomb.png'.",
    ),
    "a bomb in the colour profile": ("/profile.png", no_image("/profile.png")),
    "a bomb in a text": ("/comment.png", no_image("/comment.png")),
    "SVG": ("/a.svg", no_image("/a.svg")),
    "PostScript": ("/a.eps", no_image("/a.eps")),
    "a page": ("/a.html", no_image("/a.html")),
    "nothing": ("/empty", no_image("/empty")),
    "half an image": ("/half.png", no_answer("STUDIO/half.png", "ProtocolError")),
    "a trickle": (
        "/slow.png",
        "Expected the image at 'STUDIO/slow.png' within 1.0 s, got a part of it or nothing. LOOKHERE_IMAGE_TIMEOUT_S "
        "sets the limit.",
    ),
    "a data URI of a page": (
        "data:text/html,<b>",
        "Expected an image as data:image/…;base64,…, got 'data:text/html,<b>'.",
    ),
    "a data URI of nonsense": (
        "data:image/png;base64,????",
        "Expected base64 in 'data:image/png;base64,', got something else.",
    ),
}

NAMES = {
    "inside.example": ["10.0.0.7"],
    "metadata.example": ["169.254.169.254"],
    "nat64.example": ["64:ff9b::a00:1"],
    "mixed.example": ["93.184.216.34", "192.168.0.1"],
}


@dataclass
class World:
    """Everything around the store of images."""

    store: ImageStore
    studio: Site
    site: Site
    folder: Path

    def filled(self, text: str) -> str:
        filled = text.replace("PORT", str(self.site.port)).replace("STUDIO", self.studio.url)
        return filled.replace("PHOTOS", str(self.folder))


@pytest.fixture(scope="module")
def surroundings() -> Iterator[tuple[Site, Site, Path]]:
    """Label Studio, a site on loopback that nobody may reach, and a folder of images."""
    # A short path, so that no refusal cuts it.
    outside = Path(tempfile.mkdtemp())
    folder = outside / "p"
    (folder / "folder.png").mkdir(parents=True)
    (folder / "text.png").write_text("a text")
    (outside / "secret.png").write_bytes(picture())
    (folder / "link.png").symlink_to(outside / "secret.png")
    os.mkfifo(folder / "pipe.png")
    with serving() as start:
        studio, site = start(), start()
        site.serve("/b.png", picture())
        studio.redirect("/to-loopback", f"{site.url}/b.png")
        studio.redirect("/to-metadata", "http://169.254.169.254/latest/meta-data/")
        studio.redirect("/to-inside", "http://inside.example/")
        studio.redirect("/to-file", "file:///etc/passwd")
        studio.redirect("/to-gopher", "gopher://127.0.0.1/")
        studio.redirect("/loop", "/loop")
        studio.serve("/large.png", picture() + bytes(30_000))
        studio.serve("/deflate", zlib.compress(bytes(10**6)), Content_Encoding="deflate")
        studio.serve("/gzip", gzip.compress(bytes(10**6)), Content_Encoding="gzip")
        studio.serve("/gzip-gzip", gzip.compress(gzip.compress(bytes(10**7))), Content_Encoding="gzip, gzip")
        studio.serve("/pixels.png", bomb(200, 200))
        studio.serve("/bomb.png", bomb(60_000, 60_000))
        studio.serve("/profile.png", with_chunk(b"iCCP", b"profile\0\0" + _PACKED_CHUNK))
        studio.serve("/comment.png", with_chunk(b"zTXt", b"comment\0\0" + _PACKED_CHUNK))
        studio.serve("/a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", Content_Type="image/png")
        studio.serve("/a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", Content_Type="image/png")
        studio.serve("/a.html", b"<html></html>", Content_Type="image/png")
        studio.serve("/empty", b"", Content_Type="image/png")
        studio.serve("/half.png", picture()[:40], Content_Length=str(len(picture())))
        studio.answers["/slow.png"] = trickle
        yield studio, site, folder
    shutil.rmtree(outside)


@pytest.fixture
def world(surroundings: tuple[Site, Site, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    studio, site, folder = surroundings
    site.came.clear()
    resolve_names(monkeypatch)
    generous = Settings(
        _env_file=None,
        label_studio_url=studio.url,
        data_dir=tmp_path / "data",
        image_hosts=("*",),
        image_folders=(folder,),
        image_max_bytes=20_000,
        image_max_pixels=30_000,
        image_timeout_s=1.0,
    )
    return World(ImageStore(generous, lambda: {"Authorization": TOKEN}), studio, site, folder)


def with_chunk(name: bytes, content: bytes) -> bytes:
    """A PNG with a further chunk before its pixels."""
    image = picture()
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return image[:33] + chunk + image[33:]


def trickle(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        return


def resolve_names(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = socket.getaddrinfo, []

    def look_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "turning.example":
            # Public when it is checked, this machine from then on.
            asked.append(host)
            return real("127.0.0.1" if asked[1:] else "203.0.114.1", *rest, **more)
        if host in NAMES:
            return [found for address in NAMES[host] for found in real(address, *rest, **more)]
        if isinstance(host, str) and host.endswith(".example"):
            raise socket.gaierror("no such host")
        return real(host, *rest, **more)

    def nobody_outside(self: socket.socket, address: Any) -> None:
        if address[0] == "203.0.114.1":
            raise OSError("nobody answers")
        connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", nobody_outside)


@pytest.mark.parametrize(("reference", "refusal"), REFERENCES.values(), ids=REFERENCES)
def test_a_reference_is_refused(world: World, tmp_path: Path, reference: str, refusal: str) -> None:
    with pytest.raises(ImageError) as caught:
        world.store.fetch(world.filled(reference))
    assert str(caught.value) == world.filled(refusal)
    assert world.site.came == [], "nobody was asked"
    kept = tmp_path / "data" / "images"
    assert not kept.exists() or list(kept.iterdir()) == [], "nothing was kept"


# Requests.

UNKNOWN = (
    "Expected a credential of this backend, got none or a wrong one; `lookhere connect` gives Label Studio its own, "
    "people and scripts send `Authorization: Bearer <LOOKHERE_SECRET>`."
)
UNSIGNED = "This link is not signed for this project; `lookhere connect` writes a good one."
NOT_MINE = "This credential opens project 1 alone, not project {}."
NO_SUCH = (
    "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try "
    "again."
)


def basic(user: str | bytes, password: str | bytes) -> str:
    both = b":".join(part if isinstance(part, bytes) else part.encode() for part in (user, password))
    return f"Basic {base64.b64encode(both).decode()}"


def no_json(why: str) -> str:
    return f"Expected JSON as the body of the request, got none: {why}."


def not_for(role: str, path: str) -> str:
    return f"This credential is one of a {role}, which may not call {path}."


def no_number(value: str) -> str:
    return f"Expected 'project' to be Label Studio's '<id>.<created>', got {value}."


@dataclass
class Ask:
    """A request; what is left out is as an owner would send it."""

    path: str
    body: Any = None
    authorization: str | None = f"Bearer {SECRET.decode()}"
    webhook: str | None = None
    method: str = "POST"
    kind: str | None = "application/json"
    encoding: str | None = None


LABEL_STUDIOS = basic_auth(SECRET, 1)
PASSWORD = LABEL_STUDIOS.password.get_secret_value()
AS_LABEL_STUDIO = basic(LABEL_STUDIOS.user, PASSWORD)
WEBHOOKS = webhook_headers(SECRET, 1)[WEBHOOK_HEADER]
OTHERS = webhook_headers(SECRET, 2)[WEBHOOK_HEADER]
OWNER = SECRET.decode()
SETUP = {"project": "1.17", "schema": "<View/>"}
EVENT = {"action": "ANNOTATION_CREATED", "project": {"id": 1}}


def told(who: str | None, event: Any = EVENT) -> Ask:
    return Ask("/webhook", event, authorization=None, webhook=who)


def shown(authorization: str | None, path: str = "/setup") -> Ask:
    return Ask(path, SETUP, authorization=authorization)


REQUESTS: dict[str, tuple[Ask, int, str]] = {
    # Wrong credentials.
    "none": (shown(None), 401, UNKNOWN),
    "empty": (shown(""), 401, UNKNOWN),
    "a scheme alone": (shown("Basic"), 401, UNKNOWN),
    "an empty bearer": (shown("Bearer "), 401, UNKNOWN),
    "a wrong bearer": (shown("Bearer 0123456789abcdef"), 401, UNKNOWN),
    "most of the secret": (shown(f"Bearer {OWNER[:-1]}"), 401, UNKNOWN),
    "more than the secret": (shown(f"Bearer {OWNER}x"), 401, UNKNOWN),
    "the secret in capitals": (shown(f"Bearer {OWNER.upper()}"), 401, UNKNOWN),
    "the secret twice": (shown(f"Bearer {OWNER}, Bearer {OWNER}"), 401, UNKNOWN),
    "the secret without a scheme": (shown(OWNER), 401, UNKNOWN),
    "the secret as Label Studio's token": (shown(f"Token {OWNER}"), 401, UNKNOWN),
    "the secret as a name": (shown(basic(OWNER, "")), 401, UNKNOWN),
    "a digest": (shown('Digest username="project-1", response="0"'), 401, UNKNOWN),
    "basic of nonsense": (shown("Basic ????"), 401, UNKNOWN),
    "basic without padding": (shown("Basic cHJvamVjdC0xOg"), 401, UNKNOWN),
    "basic without a colon": (shown(f"Basic {base64.b64encode(b'project-1').decode()}"), 401, UNKNOWN),
    "basic without a password": (shown(basic("project-1", "")), 401, UNKNOWN),
    "basic of another project's name": (shown(basic("project-2", PASSWORD)), 401, UNKNOWN),
    "basic of a project that never was": (shown(basic("project-" + "9" * 30, PASSWORD)), 401, UNKNOWN),
    "basic of a project below zero": (shown(basic("project--1", PASSWORD)), 401, UNKNOWN),
    "basic of no text": (shown(basic(b"\xff\xfe\x00", b"\x80")), 401, UNKNOWN),
    "a password by bearer": (shown(f"Bearer {PASSWORD}"), 401, UNKNOWN),
    "a webhook's key by bearer": (shown(f"Bearer {WEBHOOKS}"), 401, UNKNOWN),
    "a webhook's key by basic": (shown(basic("project-1", WEBHOOKS.partition(".")[2])), 401, UNKNOWN),
    "every byte": (shown("Bearer " + bytes({*range(1, 256)} - {10, 13}).decode("latin-1")), 401, UNKNOWN),
    "a very long one": (shown("Bearer " + "x" * 100_000), 401, UNKNOWN),
    "none, to what does not exist": (Ask("/admin", authorization=None, method="GET"), 401, UNKNOWN),
    "none, to the root": (Ask("/", authorization=None, method="GET"), 401, UNKNOWN),
    "none, to the versions": (Ask("/versions", authorization=None, method="GET"), 401, UNKNOWN),
    "none, by another method": (Ask("/setup", authorization=None, method="DELETE"), 401, UNKNOWN),
    "none, with two slashes": (Ask("//setup", authorization=None), 401, UNKNOWN),
    "none, past the open door": (Ask("/health/../versions", authorization=None, method="GET"), 401, UNKNOWN),
    # Right credentials in the wrong place.
    "the owner, up the path": (Ask("/heat/../../etc/passwd", method="GET"), 404, NO_SUCH),
    "Label Studio's, elsewhere": (Ask("/setup", {"project": "2.17"}, AS_LABEL_STUDIO), 403, NOT_MINE.format(2)),
    "Label Studio's, for predictions elsewhere": (
        Ask("/predict", {"project": "2.17", "tasks": []}, AS_LABEL_STUDIO),
        403,
        NOT_MINE.format(2),
    ),
    "Label Studio's, for tasks elsewhere": (
        Ask("/predict", {"tasks": [{"id": 1, "project": 2}]}, AS_LABEL_STUDIO),
        403,
        NOT_MINE.format(2),
    ),
    "Label Studio's, for events elsewhere": (
        Ask("/webhook", {"action": "START_TRAINING", "project": {"id": 2}}, AS_LABEL_STUDIO),
        403,
        NOT_MINE.format(2),
    ),
    "a webhook's, for predictions": (
        Ask("/predict", {}, None, WEBHOOKS),
        403,
        not_for("webhook", "/predict"),
    ),
    "a webhook's, for a config": (Ask("/setup", SETUP, None, WEBHOOKS), 403, not_for("webhook", "/setup")),
    "a webhook's, for versions": (
        Ask("/versions", None, None, WEBHOOKS, "GET"),
        403,
        not_for("webhook", "/versions"),
    ),
    # Forged events.
    "an event of nobody": (told(None), 401, UNKNOWN),
    "an event with an empty key": (told(""), 401, UNKNOWN),
    "an event with a wrong key": (told(f"1.{'0' * 64}"), 401, UNKNOWN),
    "an event with most of the key": (told(WEBHOOKS[:-1]), 401, UNKNOWN),
    "an event with the key in capitals": (told(WEBHOOKS.upper()), 401, UNKNOWN),
    "an event with the key of another project's number": (told(f"2{WEBHOOKS[1:]}"), 401, UNKNOWN),
    "an event with a zero before the key": (told(f"0{WEBHOOKS}"), 401, UNKNOWN),
    "an event with a key of no text": (told("1.\xff\xfe"), 401, UNKNOWN),
    "an event with a key beside a wrong bearer": (Ask("/webhook", EVENT, "Bearer no", WEBHOOKS), 401, UNKNOWN),
    "an event of another project": (told(OTHERS), 403, "This credential opens project 2 alone, not project 1."),
    "an event of another project by number": (
        told(WEBHOOKS, {"action": "START_TRAINING", "project": 2}),
        403,
        NOT_MINE.format(2),
    ),
    "an event of no project": (told(WEBHOOKS, {"action": "START_TRAINING"}), 403, NOT_MINE.format(None)),
    "an event of a project in words": (
        told(WEBHOOKS, {"action": "START_TRAINING", "project": {"id": "1"}}),
        403,
        NOT_MINE.format(None),
    ),
    "an event without an action": (
        told(WEBHOOKS, {"project": {"id": 1}}),
        400,
        "Expected a webhook event with the text field 'action', got None.",
    ),
    "an event with an action of no text": (
        told(WEBHOOKS, {"action": ["x" * 200], "project": {"id": 1}}),
        400,
        f"Expected a webhook event with the text field 'action', got {str(['x' * 200])[:80]}.",
    ),
    "an event of a project beyond 64 bits": (
        Ask("/webhook", {"action": "START_TRAINING", "project": {"id": 10**30}}),
        400,
        "Expected values that a database can hold, got: Python int too large to convert to SQLite INTEGER. Nothing was "
        "written.",
    ),
    # Heat maps.
    "a heat map unsigned": (Ask("/heat/1/?src=a", method="GET"), 404, NO_SUCH),
    "a heat map with a wrong signature": (Ask(f"/heat/1/{'0' * 32}?src=a", None, None, method="GET"), 403, UNSIGNED),
    "a heat map with another project's signature": (
        Ask(f"/heat/1/{sign(SECRET, 2)}?src=a", None, None, method="GET"),
        403,
        UNSIGNED,
    ),
    "a heat map with a signature of no text": (Ask("/heat/1/%ff%fe%00?src=a", None, None, method="GET"), 403, UNSIGNED),
    "a heat map beyond 64 bits": (Ask(f"/heat/{10**30}/{'0' * 32}", None, None, method="GET"), 401, UNKNOWN),
    "a signed heat map beyond 64 bits": (
        Ask(f"/heat/{10**30}/{sign(SECRET, 10**30)}", None, None, method="GET"),
        401,
        UNKNOWN,
    ),
    "a heat map of another project's image": (
        Ask(f"/heat/1/{sign(SECRET, 1)}?src=/data/upload/2/a.png", None, None, method="GET"),
        404,
        "This image belongs to no task of the project.",
    ),
    "a heat map of any file": (
        Ask(f"/heat/1/{sign(SECRET, 1)}?src=file:///etc/passwd", None, None, method="GET"),
        404,
        "This image belongs to no task of the project.",
    ),
    "a heat map of half a surrogate": (
        Ask(f"/heat/1/{sign(SECRET, 1)}?src=%ed%a0%80", None, None, method="GET"),
        404,
        "This image belongs to no task of the project.",
    ),
    # Bodies.
    "no body": (Ask("/setup", ""), 400, no_json("Expecting value: line 1 column 1 (char 0)")),
    "half a body": (
        Ask("/setup", '{"project": '),
        400,
        no_json("Expecting value: line 1 column 13 (char 12)"),
    ),
    "a list": (Ask("/setup", "[]"), 400, "Expected a JSON object as the body of the request, got list."),
    "a body of no text": (Ask("/setup", b'{"project": "\xff"}'), 400, no_json("it is no UTF-8")),
    "half a surrogate in a body": (Ask("/setup", '{"project": "\\ud800"}'), 400, no_json("it is no UTF-8")),
    "nested without end": (Ask("/webhook", "[" * 100_000), 400, no_json("it is nested too deeply")),
    "nested objects without end": (Ask("/webhook", '{"a":' * 100_000), 400, no_json("it is nested too deeply")),
    "no number": (Ask("/predict", '{"project": NaN}'), 400, no_json("NaN is no number")),
    "a number of many digits": (
        Ask("/predict", f'{{"project": {"9" * 5000}}}'),
        400,
        no_json(
            "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use "
            "sys.set_int_max_str_digits() to increase the limit"
        ),
    ),
    "too large a body": (
        Ask("/webhook", b" " * (LARGEST_BODY + 1)),
        413,
        "The data value transmitted exceeds the capacity limit.",
    ),
    "a body in gzip": (
        Ask("/webhook", gzip.compress(b" " * 10**6), encoding="gzip"),
        415,
        "Expected a body as it is, got one encoded as 'gzip'.",
    ),
    "a body as a form": (
        Ask("/setup", "project=1", kind="application/x-www-form-urlencoded"),
        415,
        "Expected a body of type application/json, got 'application/x-www-form-urlencoded'.",
    ),
    "a body as a stranger's page sends it": (
        Ask("/setup", json.dumps(SETUP), kind="text/plain"),
        415,
        "Expected a body of type application/json, got 'text/plain'.",
    ),
    "a body of no type": (
        Ask("/setup", json.dumps(SETUP), kind=None),
        415,
        "Expected a body of type application/json, got ''.",
    ),
    "too many tasks": (
        Ask("/predict", {"project": "1.17", "tasks": [{}] * 10_001}),
        413,
        "Expected at most 10000 tasks at once, got 10001; select fewer in Label Studio, or leave it to `lookhere "
        "score`. LOOKHERE_MOST_TASKS sets the limit.",
    ),
    "tasks that are none": (
        Ask("/predict", {"project": "1.17", "tasks": {"id": 1}}),
        400,
        "Expected 'tasks' to be a list of tasks, got dict.",
    ),
    "a path for a project": (Ask("/setup", {"project": "../../etc"}), 400, no_number("'../../etc'")),
    "a path behind a project": (Ask("/setup", {"project": "1/../2"}), 400, no_number("'1/../2'")),
    "a truth for a project": (Ask("/setup", {"project": True}), 400, no_number("True")),
    "wide digits for a project": (Ask("/setup", {"project": "１"}), 400, no_number("'１'")),
    "a project beyond 64 bits": (Ask("/setup", {"project": 10**30}), 400, no_number(str(10**30))),
    "a project below zero": (Ask("/setup", {"project": -1}), 400, no_number("-1")),
    "a project without end": (Ask("/setup", {"project": "9" * 10**5}), 400, no_number(f"'{'9' * 79}")),
    "SQL for a project": (Ask("/setup", {"project": "1; DROP TABLE tasks"}), 400, no_number("'1; DROP TABLE tasks'")),
}


@pytest.mark.parametrize(("ask", "status", "refusal"), REQUESTS.values(), ids=REQUESTS)
def test_a_request_is_refused(running: Running, ask: Ask, status: int, refusal: str) -> None:
    for number in (1, 2):
        project = running.store.projects.ensure(HOST, number)
        assert project.key == number
    running.store.annotations.put_tasks(2, [Task(1, "/data/upload/2/a.png")])
    before = state(running)
    given = {"Authorization": ask.authorization, WEBHOOK_HEADER: ask.webhook, "Content-Encoding": ask.encoding}
    answer = running.client.open(
        ask.path,
        method=ask.method,
        data=ask.body if isinstance(ask.body, str | bytes) else json.dumps(ask.body) if ask.body is not None else None,
        content_type=ask.kind,
        headers={name: value for name, value in given.items() if value is not None},
    )
    said = answer.get_json()["error"] if answer.is_json else answer.text
    assert (answer.status_code, said) == (status, refusal)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert state(running) == before, "nothing was kept"


def state(running: Running) -> Any:
    """Everything that a request may change."""
    projects = running.store.projects.all()
    tasks = [running.store.annotations.tasks(project.key) for project in projects]
    return projects, tasks, running.store.events.counts(), running.store.jobs.list()


# Label configs.

_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
REFUSED = "it holds a DOCTYPE or entities, which are refused."
CONFIGS: dict[str, tuple[str, str]] = {
    "a file": ('<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><View>&f;</View>', REFUSED),
    "an address": ('<!DOCTYPE a [<!ENTITY f SYSTEM "http://169.254.169.254/">]><View>&f;</View>', REFUSED),
    "an outer DTD": ('<!DOCTYPE a SYSTEM "http://labels.example/a.dtd"><View/>', REFUSED),
    "a parameter entity": ('<!DOCTYPE a [<!ENTITY % f SYSTEM "file:///etc/passwd"> %f;]><View/>', REFUSED),
    "a billion laughs": (f'<!DOCTYPE a [<!ENTITY l0 "ha">{_LAUGHS}]><View>&l9;</View>', REFUSED),
    "an entity blown up": (f'<!DOCTYPE a [<!ENTITY a "{"a" * 10_000}">]><View>{"&a;" * 1000}</View>', REFUSED),
    "an unknown entity": ("<View>&f;</View>", "it is no XML (undefined entity: line 1, column 6)."),
    "no XML": ("\0", "it is no XML (unclosed token: line 1, column 0)."),
    "half a surrogate": (
        "<View>\ud800</View>",
        "it is no XML ('utf-8' codec can't encode character '\\ud800' in position 6: surrogates not allowed).",
    ),
    "an unknown role": (
        '<View lookhere="root"/>',
        'lookhere="root" is no role; the roles are look, ignore, class, attention, image, heat.',
    ),
}


@pytest.mark.parametrize(("xml", "refusal"), CONFIGS.values(), ids=CONFIGS)
def test_a_label_config_is_refused(xml: str, refusal: str) -> None:
    with pytest.raises(LabelConfigError) as caught:
        read_roles(xml)
    assert str(caught.value).partition(" One that works:")[0] == f"The label config cannot work: {refusal}"


# Weights.


class Exploit:
    """What a pickle runs when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "zip of torch", "safetensors"])
def test_weights_are_never_unpickled(tmp_path: Path, kind: str) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind.endswith("torch"):
        torch.save({"fc.weight": Exploit(trace)}, path, _use_new_zipfile_serialization=kind.startswith("zip"))
    else:
        path.write_bytes(pickle.dumps(Exploit(trace)))
    with pytest.raises(LookhereError) as caught:
        create("resnet18", ("cat", "dog"), weights=path)
    assert str(caught.value).startswith(
        f"Expected a file of weights (a state dict, or safetensors), got {path.name!r}: "
    )
    assert not trace.exists()


def test_there_are_enough() -> None:
    assert len(REFERENCES) + len(REQUESTS) + len(CONFIGS) > 60
