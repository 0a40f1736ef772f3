"""Every setting, once. Read from the environment (prefix ``LOOKHERE_``) and from ``.env``."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the backend. Each can be set as ``LOOKHERE_<NAME>`` in the environment or in ``.env``."""

    model_config = SettingsConfigDict(env_prefix="LOOKHERE_", env_file=".env", extra="ignore", frozen=True)

    label_studio_url: str = Field(
        "http://localhost:8080", description="Address of Label Studio as this backend reaches it, sub-path included."
    )
    label_studio_api_key: SecretStr | None = Field(
        None, description="A personal access token or a legacy token of a Label Studio user who may see the projects."
    )
    label_studio_public_url: str | None = Field(
        None, description="Address of Label Studio as browsers see it, where that is another one; for CORS."
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
        description="Signs the heat-map links. Default: made at first start and kept in the data folder.",
    )

    data_dir: Path = Field(Path(".lookhere"), description="Folder of the database, the versions and the caches.")
    database_url: str | None = Field(
        None, description="SQLAlchemy address of the database. Default: SQLite in the data folder."
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
    time_budget_s: float = Field(600.0, gt=0, description="Longest time in seconds that one fit may take.")
    seed: int = Field(0, description="Seed of initialisation, shuffling and augmentation.")

    image_timeout_s: float = Field(20.0, gt=0, description="Longest time in seconds to fetch one image.")
    image_max_bytes: int = Field(50_000_000, gt=0, description="Largest image file in bytes.")
    image_max_pixels: int = Field(100_000_000, gt=0, description="Largest image in pixels (decompression bombs).")
    image_hosts: tuple[str, ...] = Field(
        (), description="Hosts beside Label Studio from which images may be fetched, as a JSON list."
    )
    image_folders: tuple[Path, ...] = Field(
        (), description="Local folders from which `file://` images may be read, as a JSON list."
    )
    log_level: str = Field("INFO", description="Level of the log.")

    @field_validator("label_studio_url", "label_studio_public_url", "public_url", "backend_url")
    @classmethod
    def _no_trailing_slash(cls, value: str | None) -> str | None:
        return value.rstrip("/") if value else value

    @property
    def database(self) -> str:
        """SQLAlchemy address of the database."""
        return self.database_url or f"sqlite:///{self.data_dir / 'lookhere.sqlite3'}"

    @property
    def url_for_label_studio(self) -> str:
        """Address under which Label Studio reaches this backend."""
        return self.backend_url or self.public_url


def set_up_logging(settings: Settings) -> None:
    """Log to the terminal, in the commands, the server and the jobs alike."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # It tells every request, hundreds of them for a large project.
    logging.getLogger("httpx").setLevel(logging.WARNING)
