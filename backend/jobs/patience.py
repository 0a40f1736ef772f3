"""Waits for a Label Studio that does not answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from backend.jobs.context import Report
from backend.labelstudio.client import LabelStudioError

log = logging.getLogger(__name__)

_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)

_T = TypeVar("_T")


def patiently(ask: Callable[[], _T], report: Report) -> _T:
    """Ask Label Studio, and again after growing pauses while it does not answer.

    Args:
        ask: asks it.
        report: told of each pause.

    Raises:
        LabelStudioError: it refuses, or does not answer to the last attempt either.
    """
    for pause in _PAUSES_S:
        try:
            return ask()
        except LabelStudioError as error:
            if not error.passing:
                raise
            log.warning("%s Asking again in %.0f s.", error, pause)
            report(0.0, f"Label Studio does not answer; asking again in {pause:.0f} s")
            time.sleep(pause)
    return ask()
