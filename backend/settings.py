"""Every setting, once. Read from the environment (prefix ``LOOKHERE_``) and from ``.env``."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

log = logging.getLogger(__name__)

_SHORTEST_SECRET = 16


Strategy = Literal[
    "representative",
    "combined",
    "placed",
    "random",
    "entropy",
    "margin",
    "confidence",
    "confident",
    "mixture",
    "kcentre",
    "kmeans++",
    "typiclust",
    "learned",
]
"""How the next images are chosen; `docs/benchmarks.md` compares them."""


class Server(BaseModel):
    """A Label Studio server beside the first one.

    Attributes:
        url: its address as this backend reaches it.
        api_key: a token of a user there. It is sent to this server alone.
        public_url: its address as browsers see it, where that is another one.
        backend_url: address of this backend as that server reaches it. Default: as the first one does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str
    api_key: SecretStr | None = None
    public_url: str | None = None
    backend_url: str | None = None

    @field_validator("url", "public_url", "backend_url")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        return _address(value)

    @field_validator("api_key")
    @classmethod
    def _none_where_blank(cls, value: SecretStr | None) -> SecretStr | None:
        return _secret(value)


class OwnSettings(BaseModel):
    """What one project may have otherwise than the others; None is what the backend is set to."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    backbone: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]{0,39}$")
    image_size: int | None = Field(None, ge=32, le=1024)
    train_after: int | None = Field(None, ge=1, le=1_000_000)
    strategy: Strategy | None = None
    time_budget_s: float | None = Field(None, gt=0, allow_inf_nan=False)

    @classmethod
    def read(cls, values: Mapping[str, Any], *, texts: bool = False) -> Self:
        """Read settings that somebody gives.

        Args:
            values: by name; None for what the backend is set to.
            texts: whether they come as texts, from a command line.

        Raises:
            ValueError: if one is unknown or not possible; says which, and what is.
        """
        # None is no text, and a name that is unknown is refused whatever its value.
        given = {
            name: "" if value is None else value
            for name, value in values.items()
            if value is not None or name not in cls.model_fields
        }
        try:
            return cls.model_validate_strings(given) if texts else cls.model_validate(values, strict=True)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise ValueError(f"Expected any of the settings {', '.join(cls.model_fields)}, got {faults}.") from error


class Settings(BaseSettings):
    """Settings of the backend. Each can be set as ``LOOKHERE_<NAME>`` in the environment or in ``.env``."""

    model_config = SettingsConfigDict(
        env_prefix="LOOKHERE_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    label_studio_url: str = Field(
        "http://localhost:8080", description="Address of Label Studio as this backend reaches it, sub-path included."
    )
    label_studio_api_key: SecretStr | None = Field(
        None, description="A personal access token or a legacy token of a Label Studio user who may see the projects."
    )
    label_studio_public_url: str | None = Field(
        None, description="Address of Label Studio as browsers see it, where that is another one; for CORS."
    )
    label_studio_servers: tuple[Server, ...] = Field(
        (),
        description="Further Label Studio servers, as a JSON list of objects with `url`, `api_key` and, where they "
        "differ, `public_url` and `backend_url`.",
    )
    public_url: str = Field(
        "http://localhost:9090",
        description="Address of this backend as the annotators' browsers reach it; heat-map links start with it.",
    )
    backend_url: str | None = Field(
        None, description="Address of this backend as Label Studio reaches it. Default: the public address."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9090, ge=1, le=65535, description="Port to listen on.")
    threads: int = Field(16, ge=2, description="Requests answered at once.")
    secret: SecretStr | None = Field(
        None,
        description="The bearer token of people and scripts, of at least 16 characters; what Label Studio shows, and "
        "the heat-map links, derive from it. Default: made at first start, kept in the data folder as `secret`, and "
        "the server listens on loopback alone.",
    )

    data_dir: Path = Field(Path(".lookhere"), description="Folder of the database, the versions and the caches.")
    database_url: str | None = Field(
        None,
        description="SQLAlchemy address of the database, as `postgresql+psycopg://user@host/name` "
        "(`pip install lookhere[postgresql]`; a password belongs into `~/.pgpass`). Default: SQLite in the data "
        "folder.",
    )

    backbone: str = Field(
        "resnet18",
        description="A torchvision backbone with a pooled linear head, or `small` for the built-in network.",
    )
    weights: Path | None = Field(
        None, description="State dict or version folder to start from. Default: torchvision's ImageNet weights."
    )
    image_size: int | None = Field(
        None, ge=32, le=1024, description="Side in pixels to which images are resized. Default: the backbone's own."
    )
    device: str | None = Field(None, description="Torch device. Default: `cuda` where there is one, else `cpu`.")
    train_after: int = Field(16, ge=1, description="New annotations that start a training.")
    keep_versions: int = Field(
        20, ge=2, description="Versions of a project that are kept; the active one and the one before it always are."
    )
    strategy: Strategy = Field("representative", description="How the next images are chosen.")
    time_budget_s: float = Field(600.0, gt=0, description="Longest time in seconds that one fit may take.")
    jobs_at_once: int = Field(2, ge=1, le=64, description="Projects that are read, trained or scored at the same time.")
    seed: int = Field(0, description="Seed of initialisation, shuffling and augmentation.")

    image_timeout_s: float = Field(20.0, gt=0, description="Longest time in seconds to fetch one image.")
    image_max_bytes: int = Field(50_000_000, gt=0, description="Largest image file in bytes.")
    image_max_pixels: int = Field(100_000_000, gt=0, description="Largest image in pixels (decompression bombs).")
    image_cache_bytes: int = Field(
        10 * 2**30, gt=0, description="Largest size of the image cache in bytes; a project's images should fit."
    )
    image_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts beside Label Studio from which images may be fetched, as a JSON list; `*.example.org` for "
        "all below one, `*` for all. Only their public addresses are asked.",
    )
    image_networks: tuple[IPvAnyNetwork, ...] = Field(
        (), description="Networks like `10.1.0.0/16` in which these hosts may have private addresses, as a JSON list."
    )
    image_folders: tuple[Path, ...] = Field(
        (), description="Local folders from which `file://` images may be read, as a JSON list."
    )
    largest_body: int = Field(256 * 2**20, gt=0, description="Largest body of a request in bytes.")
    most_tasks: int = Field(10_000, gt=0, description="Most tasks that one request may ask predictions of.")
    log_level: str = Field("INFO", description="Level of the log.")

    @field_validator("label_studio_url", "label_studio_public_url", "public_url", "backend_url")
    @classmethod
    def _no_trailing_slash(cls, value: str | None) -> str | None:
        return _address(value)

    @field_validator("label_studio_api_key", "secret")
    @classmethod
    def _none_where_blank(cls, value: SecretStr | None) -> SecretStr | None:
        return _secret(value)

    @field_validator("secret")
    @classmethod
    def _not_guessable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _SHORTEST_SECRET:
            raise ValueError(
                f"a secret of at least {_SHORTEST_SECRET} characters is needed, like `openssl rand -hex 32`"
            )
        return value

    @property
    def database(self) -> str:
        """SQLAlchemy address of the database."""
        return self.database_url or f"sqlite:///{self.data_dir / 'lookhere.sqlite3'}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Addresses of all Label Studio servers, the first one first."""
        return (self.label_studio_url, *(server.url for server in self.label_studio_servers))

    def at(self, host: str, own: Mapping[str, Any] | None = None) -> Self:
        """The settings that hold for a project: of its Label Studio server, and its own.

        Args:
            host: address of its server. The credentials of other servers are not among what is returned.
            own: what the project has otherwise, by name.
        """
        server = next((one for one in self.label_studio_servers if one.url == host), None)
        if server is not None:
            theirs: dict[str, Any] = {
                "label_studio_api_key": server.api_key,
                "label_studio_public_url": server.public_url,
                "backend_url": server.backend_url or self.backend_url,
            }
        elif host == self.label_studio_url:
            theirs = {}
        else:
            # Known from before: no credential that is set may be sent there.
            theirs = {"label_studio_api_key": None, "label_studio_public_url": None}
        return self.model_copy(update={"label_studio_url": host, "label_studio_servers": (), **theirs, **(own or {})})

    @property
    def url_for_label_studio(self) -> str:
        """Address under which Label Studio reaches this backend."""
        return self.backend_url or self.public_url


def _address(value: str | None) -> str | None:
    if value and urlsplit(value).username is not None:
        raise ValueError("an address with user or password is no place for them: it is shown and logged")
    return value.rstrip("/") if value else value


def _secret(value: SecretStr | None) -> SecretStr | None:
    stripped = value.get_secret_value().strip() if value is not None else ""
    return SecretStr(stripped) if stripped else None


def host_to_listen_on(settings: Settings) -> str:
    """The address to listen on: loopback unless a secret is set, and a line in the log that says so."""
    host = settings.host
    if settings.secret is not None:
        return host
    if _is_loopback(host):
        log.info("LOOKHERE_SECRET is not set: listening on loopback alone, with the secret in %s.", settings.data_dir)
        return host
    log.warning(
        "LOOKHERE_SECRET is not set: listening on 127.0.0.1 alone, not on %s. Set it, for the server and for "
        "`lookhere connect`, to let others in.",
        host,
    )
    return "127.0.0.1"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def set_up_logging(settings: Settings) -> None:
    """Log to the terminal, in the commands, the server and the jobs alike."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # These tell of every request, hundreds of them for a large project, with its signed address or even its headers.
    for name in ("httpx", "httpcore", "urllib3", "werkzeug", "label_studio_ml"):
        logging.getLogger(name).setLevel(logging.WARNING)
