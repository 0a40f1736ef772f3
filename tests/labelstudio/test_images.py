"""References to files: what is followed, what is refused, and who is told the credential."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.labelstudio import images
from backend.labelstudio.images import ImageError, ImageStore, upright_size
from backend.settings import Settings
from tests.sites import Site, bomb, picture

TOKEN = "Token of-the-tests"
LOOPBACK: dict[str, Any] = {"image_hosts": ("127.0.0.1",), "image_networks": ("127.0.0.0/8",)}
"""Lets a site of the tests be asked, as a private server of pictures is."""


@pytest.fixture
def label_studio(sites: Callable[[], Site]) -> Site:
    site = sites()
    site.serve("/data/upload/1/a.png", picture())
    return site


@pytest.fixture
def stranger(sites: Callable[[], Site]) -> Site:
    site = sites()
    site.serve("/b.png", picture())
    return site


@pytest.fixture
def store(label_studio: Site, tmp_path: Path) -> Callable[..., ImageStore]:
    def make(**changed: Any) -> ImageStore:
        given: dict[str, Any] = {"label_studio_url": label_studio.url, "data_dir": tmp_path / "data"}
        given |= {"image_hosts": ("*",)} | changed
        return ImageStore(Settings(_env_file=None, **given), lambda: {"Authorization": TOKEN})

    return make


def test_an_upload_comes_with_the_credential_and_is_kept(store: Any, label_studio: Site, tmp_path: Path) -> None:
    path = store().fetch("/data/upload/1/a.png")
    assert path.read_bytes() == picture()
    name = hashlib.sha256(f"{label_studio.url} None /data/upload/1/a.png".encode()).hexdigest()
    assert path == tmp_path / "data" / "images" / name
    assert store().fetch("/data/upload/1/a.png") == path
    assert label_studio.came == [("/data/upload/1/a.png", TOKEN, f"127.0.0.1:{label_studio.port}")]


def test_absolute_addresses_of_label_studio(store: Any, label_studio: Site) -> None:
    store().fetch(f"{label_studio.url}/data/upload/1/a.png")
    assert label_studio.credentials() == {TOKEN}


@pytest.mark.parametrize("reference", ["/data/upload/1/a.png", "data/upload/1/a.png", "/sub/data/upload/1/a.png"])
def test_a_label_studio_under_a_path(store: Any, label_studio: Site, reference: str) -> None:
    label_studio.serve("/sub/data/upload/1/a.png", picture())
    store(label_studio_url=f"{label_studio.url}/sub").fetch(reference)
    assert label_studio.paths == ["/sub/data/upload/1/a.png"]


def test_local_files_keep_their_query(store: Any, label_studio: Site) -> None:
    label_studio.serve("/data/local-files/?d=photos/a.png", picture())
    store().fetch("/data/local-files/?d=photos/a.png")
    assert label_studio.paths == ["/data/local-files/?d=photos/a.png"]


def test_cloud_storage_goes_through_label_studio(store: Any, label_studio: Site) -> None:
    uri = "s3://bucket/photos/a?.png"
    encoded = base64.urlsafe_b64encode(uri.encode()).decode()
    label_studio.serve(f"/tasks/7/resolve/?fileuri={encoded}", picture())
    store().fetch(uri, 7)
    assert label_studio.credentials() == {TOKEN}
    with pytest.raises(ImageError, match="task"):
        store().fetch("s3://bucket/other.png")


def test_named_hosts_are_asked_without_the_credential(store: Any, stranger: Site) -> None:
    store(**LOOPBACK).fetch(f"{stranger.url}/b.png")
    assert stranger.credentials() == {None}


def test_the_credential_does_not_follow_a_redirect_elsewhere(store: Any, label_studio: Site, stranger: Site) -> None:
    label_studio.redirect("/data/upload/1/gone.png", f"{stranger.url}/b.png")
    store(**LOOPBACK).fetch("/data/upload/1/gone.png")
    assert label_studio.credentials() == {TOKEN}
    assert stranger.credentials() == {None}


def test_the_credential_follows_a_redirect_within_label_studio(store: Any, label_studio: Site) -> None:
    label_studio.redirect("/here", "data/upload/1/a.png", 307)
    store().fetch("/here")
    assert label_studio.came[1][:2] == ("/data/upload/1/a.png", TOKEN)


def test_an_address_that_parsers_read_differently_gets_no_credential(
    store: Any, label_studio: Site, stranger: Site
) -> None:
    """To some parsers the host stands before the backslash, to others behind the @."""
    address = f"http://127.0.0.1:{stranger.port}\\@127.0.0.1:{label_studio.port}/../b.png"
    store(**LOOPBACK).fetch(address)
    assert stranger.credentials() == {None}
    assert label_studio.came == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",  # noqa: S104 - an address to be refused, not to listen on
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "user:pw@127.0.0.1",
        "127.0.0.1\\@example.org",
    ],
)
def test_private_addresses_are_refused(store: Any, stranger: Site, host: str) -> None:
    with pytest.raises(ImageError, match=r"private|no address|no answer"):
        store().fetch(f"http://{host}:{stranger.port}/b.png")
    assert stranger.came == []


@pytest.mark.parametrize(
    "address",
    [
        "224.0.0.1",
        "168.63.129.16",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "::7f00:1",
        "fec0::1",
        "ff02::1",
    ],
)
def test_addresses_that_only_look_public_are_refused(store: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multicast, a cloud's own, and IPv6 that carries a private IPv4 address."""
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ImageError, match="private"):
        store().fetch("http://pictures.example/b.png")


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_addresses_are_asked(store: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 80))]
    asked = []

    def connect(where: Any, *_: Any, **__: Any) -> socket.socket:
        asked.append(where[0])
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with pytest.raises(ImageError, match="no answer"):
        store().fetch("http://pictures.example/b.png")
    assert asked == [address]


def test_a_redirect_to_a_private_address_is_refused(store: Any, label_studio: Site, stranger: Site) -> None:
    label_studio.redirect("/here", f"{stranger.url}/b.png")
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_NETWORKS"):
        store().fetch("/here")
    assert stranger.came == []


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://example.org/a.png", "data:image/png;base64,AAAA", "//"])
def test_a_redirect_to_no_web_address_is_refused(store: Any, label_studio: Site, to: str) -> None:
    label_studio.redirect("/here", to)
    with pytest.raises(ImageError):
        store().fetch("/here")


def test_redirects_end(store: Any, label_studio: Site) -> None:
    label_studio.redirect("/here", "/here")
    with pytest.raises(ImageError, match="redirects"):
        store().fetch("/here")
    assert len(label_studio.came) == 6


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host name to the addresses it has, one for each time it is asked, the last one for ever."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host in known:
            host = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def test_a_public_host_is_asked_at_the_address_that_was_checked(
    store: Any, stranger: Site, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name turns to a private address between the check and the connection."""
    names["pictures.example"] = ["93.184.216.34", "127.0.0.1"]
    reached = []
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        reached.append(address[0])
        # Nobody is at the public address here; the site stands in for it.
        real(self, ("127.0.0.1", address[1]))

    monkeypatch.setattr(socket.socket, "connect", connect)
    path = store().fetch(f"http://pictures.example:{stranger.port}/b.png")
    assert path.read_bytes() == picture()
    assert reached == ["93.184.216.34"]
    assert stranger.came == [("/b.png", None, f"pictures.example:{stranger.port}")]


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    store: Any, stranger: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(ImageError, match=r"10\.0\.0\.1"):
        store().fetch(f"http://pictures.example:{stranger.port}/b.png")


def test_too_many_bytes(store: Any, label_studio: Site) -> None:
    label_studio.serve("/large.png", picture() + bytes(5000))
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_MAX_BYTES"):
        store(image_max_bytes=5000).fetch("/large.png")


def test_bytes_are_counted_unpacked(store: Any, label_studio: Site) -> None:
    label_studio.serve("/large.png", zlib.compress(picture() + bytes(10**6)), Content_Encoding="deflate")
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_MAX_BYTES"):
        store(image_max_bytes=10**5).fetch("/large.png")


def test_packed_content_is_unpacked(store: Any, label_studio: Site) -> None:
    label_studio.serve("/packed.png", zlib.compress(picture()), Content_Encoding="deflate")
    assert store().fetch("/packed.png").read_bytes() == picture()


def test_chunked_content(store: Any, label_studio: Site) -> None:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        content = picture()
        for start in range(0, len(content), 10):
            part = content[start : start + 10]
            handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    label_studio.answers["/chunked.png"] = send
    assert store().fetch("/chunked.png").read_bytes() == picture()


@pytest.mark.parametrize("size", [(200, 200), (30_000, 30_000)])
def test_too_many_pixels(store: Any, label_studio: Site, size: tuple[int, int]) -> None:
    label_studio.serve("/bomb.png", bomb(*size))
    with pytest.raises(ImageError):
        store(image_max_pixels=30_000).fetch("/bomb.png")


def test_a_trickle_ends_at_the_time_limit(store: Any, label_studio: Site) -> None:
    """Each byte comes in time, the whole never would."""
    stop = threading.Event()

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.02):
            try:
                handler.wfile.write(b"x")
            except OSError:
                return

    label_studio.answers["/slow.png"] = send
    try:
        with pytest.raises(ImageError, match="LOOKHERE_IMAGE_TIMEOUT_S"):
            store(image_timeout_s=0.3).fetch("/slow.png")
    finally:
        stop.set()


def test_a_head_that_trickles_ends_at_the_time_limit(store: Any, label_studio: Site) -> None:
    """The limit is one of the whole answer: nobody stays to hear the end of its head."""
    heard: list[bool] = []
    ended = threading.Event()

    def send(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _ in range(40):
                time.sleep(0.05)
                handler.wfile.write(b"x")
            heard.append(True)
        except OSError:
            heard.append(False)
        ended.set()

    label_studio.answers["/slow-head.png"] = send
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_TIMEOUT_S"):
        store(image_timeout_s=0.3).fetch("/slow-head.png")
    ended.wait()
    assert heard == [False]


@pytest.mark.parametrize("begun", [False, True])
def test_silence_ends_at_the_time_limit(store: Any, label_studio: Site, begun: bool) -> None:
    stop = threading.Event()

    def send(handler: BaseHTTPRequestHandler) -> None:
        if begun:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(picture()[:20])
        stop.wait()

    label_studio.answers["/silent.png"] = send
    try:
        with pytest.raises(ImageError, match="LOOKHERE_IMAGE_TIMEOUT_S"):
            store(image_timeout_s=0.2).fetch("/silent.png")
    finally:
        stop.set()


def test_half_an_image_is_not_kept(store: Any, label_studio: Site, tmp_path: Path) -> None:
    label_studio.serve("/half.png", picture()[:40], Content_Length=str(len(picture())))
    with pytest.raises(ImageError):
        store().fetch("/half.png")
    assert list((tmp_path / "data" / "images").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS\n"])
def test_what_is_no_image_is_refused_and_not_kept(
    store: Any, label_studio: Site, tmp_path: Path, content: bytes
) -> None:
    label_studio.serve("/page", content, Content_Type="image/png")
    with pytest.raises(ImageError, match="Expected an image"):
        store().fetch("/page")
    assert list((tmp_path / "data" / "images").iterdir()) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_kinds_of_images(store: Any, label_studio: Site, kind: str) -> None:
    label_studio.serve("/image", picture(kind=kind))
    assert upright_size(store().fetch("/image")) == (8, 6)


@pytest.mark.parametrize(("status", "advice"), [(401, True), (403, True), (404, False), (500, False)])
def test_a_refusal_of_label_studio_names_the_setting(store: Any, label_studio: Site, status: int, advice: bool) -> None:
    label_studio.serve("/a", picture(), status)
    with pytest.raises(ImageError, match=str(status)) as caught:
        store().fetch("/a")
    assert ("LOOKHERE_LABEL_STUDIO_API_KEY" in str(caught.value)) == advice


def test_errors_hold_no_secrets(store: Any, stranger: Site) -> None:
    address = f"http://someone:password@127.0.0.1:{stranger.port}/gone.png?signature=sesame"
    for allowed in ({}, LOOPBACK):
        with pytest.raises(ImageError) as caught:
            store(**allowed).fetch(address)
        assert "password" not in str(caught.value)
        assert "sesame" not in str(caught.value)


def test_nobody_answers(store: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ImageError, match="no answer"):
            store(label_studio_url=url).fetch("/a.png")


def test_data_uris(store: Any) -> None:
    encoded = base64.b64encode(picture()).decode()
    assert store().fetch(f"data:image/png;base64,{encoded}").read_bytes() == picture()
    for broken in ("data:image/png,abc", "data:image/png;base64,????", "data:", "data:image/png;base64,"):
        with pytest.raises(ImageError):
            store().fetch(broken)
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_MAX_BYTES"):
        store(image_max_bytes=10).fetch(f"data:image/png;base64,{base64.b64encode(picture((9, 9))).decode()}")


def test_files_only_in_named_folders(store: Any, tmp_path: Path) -> None:
    photos, secret = tmp_path / "photos", tmp_path / "secret"
    for folder in (photos, secret):
        folder.mkdir()
        (folder / "a b.png").write_bytes(picture())
    (photos / "link.png").symlink_to(secret / "a b.png")
    (photos / "text.png").write_text("text")
    ours = store(image_folders=(photos,))
    assert ours.fetch(f"file://{photos}/a%20b.png") == photos / "a b.png"
    for path in (f"{secret}/a b.png", f"{photos}/../secret/a b.png", f"{photos}/%2e%2e/secret/a b.png"):
        with pytest.raises(ImageError, match="LOOKHERE_IMAGE_FOLDERS"):
            ours.fetch(f"file://{path}")
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_FOLDERS"):
        ours.fetch(f"file://{photos}/link.png")
    for path in ("none.png", "text.png", "%00", "", "a" * 5000):
        with pytest.raises(ImageError):
            ours.fetch(f"file://{photos}/{path}")
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_FOLDERS"):
        store().fetch(f"file://{photos}/a b.png")
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_MAX_BYTES"):
        store(image_folders=(photos,), image_max_bytes=10).fetch(f"file://{photos}/a b.png")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    st.text(st.characters())
    | st.builds("{}{}".format, st.sampled_from(["file://", "http://", "//", "data:", "s3://", "http://["]), st.text())
)
@example("file:///%00")
@example("http://\ud800/")
@example("http://[::1")
@example("http://example.org:99999/")
@example("\x00")
@example("")
def test_any_reference_is_fetched_or_refused(store: Any, monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    def nowhere(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(ImageError):
        store().fetch(reference, 1)


def test_one_image_asked_for_at_once(store: Any, tmp_path: Path) -> None:
    ours = store()
    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(lambda _: ours.fetch("/data/upload/1/a.png"), range(40)))
    assert [path.read_bytes() for path in paths] == [picture()]
    assert [path.name for path in (tmp_path / "data" / "images").iterdir()] == [next(iter(paths)).name]


def test_the_cache_is_swept_by_what_came_and_by_the_first_image_of_a_process(store: Any, label_studio: Site) -> None:
    size = len(picture((64, 64)))
    bound = 20 * size
    for number in range(60):
        label_studio.serve(f"/{number}.png", picture((64, 64)))
    ours = store(image_cache_bytes=bound)
    for number in range(60):
        folder = ours.fetch(f"/{number}.png").parent
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.01 * bound
    left, recent = folder / ".part-left", folder / ".part-recent"
    for part in (left, recent):
        part.write_bytes(b"half an image")
    os.utime(left, (0, 0))
    store(image_cache_bytes=size).fetch("/data/upload/1/a.png")
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [recent.name]
    assert len(list(folder.iterdir())) == 2, "the image that was asked for stays, the other is being written"


def test_an_image_larger_than_the_cache_is_had(store: Any) -> None:
    assert store(image_cache_bytes=1).fetch("/data/upload/1/a.png").read_bytes() == picture()


def test_what_one_task_may_see_in_a_cloud_storage_is_not_anothers(store: Any, label_studio: Site) -> None:
    uri = "gs://bucket/a.png"
    encoded = base64.urlsafe_b64encode(uri.encode()).decode()
    label_studio.serve(f"/tasks/7/resolve/?fileuri={encoded}", picture())
    label_studio.serve(f"/tasks/8/resolve/?fileuri={encoded}", b"", 403)
    store().fetch(uri, 7)
    with pytest.raises(ImageError, match="403"):
        store().fetch(uri, 8)


def test_one_servers_image_is_not_anothers(store: Any, sites: Callable[[], Site]) -> None:
    other = sites()
    other.serve("/data/upload/1/a.png", picture((3, 3)))
    store().fetch("/data/upload/1/a.png")
    assert store(label_studio_url=other.url).fetch("/data/upload/1/a.png").read_bytes() == picture((3, 3))


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        ((), "pictures.example", False),
        (("pictures.example",), "pictures.example", True),
        (("Pictures.Example",), "PICTURES.example.", True),
        (("pictures.example",), "other.example", False),
        (("pictures.example",), "pictures.example.evil.example", False),
        (("pictures.example",), "evilpictures.example", False),
        (("*.example",), "a.b.example", True),
        (("*.example",), "example", False),
        (("*",), "anything.example", True),
    ],
)
def test_only_named_hosts_are_asked(
    store: Any, monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...], host: str, allowed: bool
) -> None:
    looked_up: list[Any] = []

    def look_up(name: str, *_: Any, **__: Any) -> Any:
        looked_up.append(name)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(ImageError, match="no address" if allowed else "LOOKHERE_IMAGE_HOSTS"):
        store(image_hosts=hosts).fetch(f"http://{host}/b.png")
    assert bool(looked_up) == allowed


def test_label_studio_may_send_on_to_a_storage_that_no_setting_names(
    store: Any, label_studio: Site, stranger: Site
) -> None:
    """To a public one; here its network stands for that. And the storage itself sends nobody on."""
    label_studio.redirect("/data/stored.png", f"{stranger.url}/b.png")
    label_studio.redirect("/data/sent-twice.png", f"{stranger.url}/on")
    stranger.redirect("/on", f"{stranger.url}/b.png")
    ours = store(image_hosts=(), image_networks=("127.0.0.0/8",))
    assert ours.fetch("/data/stored.png").read_bytes() == picture()
    assert stranger.credentials() == {None}
    with pytest.raises(ImageError, match="LOOKHERE_IMAGE_HOSTS"):
        ours.fetch("/data/sent-twice.png")


@pytest.mark.parametrize("path", ["/other/a.png", "/subway/a.png", "/sub/%2e%2e/other/a.png", "/sub/..%5cother/a.png"])
def test_who_shares_the_origin_with_a_label_studio_under_a_path_gets_no_credential(
    store: Any, label_studio: Site, path: str
) -> None:
    with pytest.raises(ImageError):
        store(label_studio_url=f"{label_studio.url}/sub", **LOOPBACK).fetch(label_studio.url + path)
    assert label_studio.credentials() == {None}


def test_the_cache_is_bounded_and_keeps_what_was_used_last(
    store: Any, label_studio: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_SWEPT_SHARE", 0)
    ours = store(image_cache_bytes=3 * len(picture()))
    long_ago = time.time() - 1000
    for number in range(3):
        label_studio.serve(f"/{number}.png", picture())
        path = ours.fetch(f"/{number}.png")
        os.utime(path, (long_ago + number, long_ago + number))
    ours.fetch("/0.png")
    label_studio.serve("/new.png", picture())
    ours.fetch("/new.png")
    label_studio.came.clear()
    for number in (0, 2, 1):
        ours.fetch(f"/{number}.png")
    assert label_studio.paths == ["/1.png"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_the_upright_one(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(kind="JPEG", exif=exif))
    assert upright_size(path) == ((6, 8) if orientation >= 5 else (8, 6))


def test_the_size_of_an_image_with_broken_exif(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(kind="JPEG", exif=b"Exif\0\0nonsense"))
    assert upright_size(path) == (8, 6)
