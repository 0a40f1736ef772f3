"""What the hostile inputs are thrown at."""

from __future__ import annotations

from tests.web.conftest import running, settings

__all__ = ["running", "settings"]
