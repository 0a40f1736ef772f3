"""What an engine that runs jobs offers."""

from __future__ import annotations

from typing import Protocol


class Engine(Protocol):
    """Takes queued jobs and runs them somewhere."""

    def start(self) -> None:
        """Begin to take jobs."""

    def wake(self) -> None:
        """Look for a job now."""

    def close(self) -> None:
        """Stop taking jobs; what runs is interrupted and taken up again later."""
