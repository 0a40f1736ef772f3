"""Runs to tables and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from backend.bench.data import Masked
from backend.bench.methods import METHODS
from backend.domain import Prediction
from backend.guidance.data import load_image
from backend.guidance.overlay import attention_overlay

Summary = list[dict[str, Any]]
"""A row for each way (a method, or a strategy) and number of clicked images: ``clicked``, ``seeds``, and each figure as
``spread`` gives it over the seeds."""

_FIGURES = (
    ("accuracy", "accuracy", 100, 1),
    ("worst_group", "worst group", 100, 1),
    ("mean_group", "mean group", 100, 1),
    ("consistent", "usual background", 100, 1),
    ("flips", "flips", 100, 1),
    ("epg", "energy pointing", 1, 2),
    ("pointing", "pointing", 1, 2),
    ("seconds", "seconds", 1, 0),
)


def summarise(runs: Iterable[dict[str, Any]], way: str = "method") -> Summary:
    """Mean, half of the 95 % interval and standard deviation over the seeds.

    Args:
        runs: each with what ``way`` names, ``clicked``, and the figures.
        way: ``method`` or ``strategy``, what is compared.
    """
    together: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in runs:
        together.setdefault((run[way], run["clicked"]), []).append(run)
    summary: Summary = []
    for (name, clicked), same in together.items():
        row: dict[str, Any] = {way: name, "clicked": clicked, "seeds": len(same)}
        for figure, *_ in _FIGURES:
            row[figure] = spread([run[figure] for run in same])
        summary.append(row)
    return summary


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """``mean``, ``half_interval`` (95 %, Student's t) and ``deviation`` of values; None where one alone tells none."""
    several = len(values) > 1
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if several else None
    return {
        "mean": float(np.mean(values)),
        "half_interval": float(half) if half is not None else None,
        "deviation": float(np.std(values, ddof=1)) if several else None,
    }


def table(name: str, summary: Summary) -> str:
    """A Markdown table of a data set's summary, with a legend of its methods."""
    seeds = max((row["seeds"] for row in summary), default=0)
    lines = [
        f"Test images of {name}; mean ± half of the 95 % interval over {seeds} seeds. Accuracies and flips in percent.",
        "",
        f"| method | clicked | {' | '.join(title for _, title, *_ in _FIGURES)} |",
        "|---" * (2 + len(_FIGURES)) + "|",
    ]
    for row in summary:
        cells = [spread_text(row[figure], scale, digits) for figure, _, scale, digits in _FIGURES]
        lines.append(f"| {row['method']} | {row['clicked']} | {' | '.join(cells)} |")
    lines.append("")
    lines += [f"- **{method}**: {METHODS[method].about}" for method in dict.fromkeys(row["method"] for row in summary)]
    return "\n".join(lines) + "\n"


def write_json(path: Path, protocol: Any, data: str, **found: Any) -> None:
    """Write what a benchmark ran and found; of data and weights the names alone, not where they lie.

    Args:
        path: of the file.
        protocol: a dataclass with ``weights``, a path or None.
        data: name of the data set.
        found: JSON values.
    """
    weights = protocol.weights.name if protocol.weights else None
    told = {**asdict(protocol), "data": data, "weights": weights}
    path.write_text(json.dumps({"protocol": told, **found}, indent=1))


def plot(name: str, summary: Summary, path: Path, way: str = "method", bounds: Sequence[str] = ()) -> None:
    """Worst group and energy pointing game against clicked images, with intervals.

    Args:
        name: of the data set.
        summary: its rows.
        path: of the picture.
        way: ``method`` or ``strategy``, what is compared.
        bounds: those of them that are lines from side to side, beside those without clicks.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    colours = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for number, which in enumerate(dict.fromkeys(row[way] for row in summary)):
        rows = sorted((row for row in summary if row[way] == which), key=lambda row: int(row["clicked"]))
        # The dark colours first: each of them is followed by its own light shade.
        style = {"color": colours[2 * number % 20 + number // 10], "label": which}
        for panel, key, scale in zip(panels, ("worst_group", "epg"), (100, 1), strict=True):
            means = [scale * row[key]["mean"] for row in rows]
            halves = [scale * (row[key]["half_interval"] or 0) for row in rows]
            if rows[-1]["clicked"] == 0 or which in bounds:
                panel.axhline(means[0], linestyle="--", linewidth=1.2, **style)
            else:
                # A little apart, so that the intervals of one number do not hide each other.
                places = [row["clicked"] * (1 + 0.012 * (number - 4)) for row in rows]
                panel.errorbar(places, means, halves, marker="o", markersize=4, capsize=3, linewidth=1.5, **style)
    for panel, title in zip(panels, ("worst-group accuracy, %", "energy pointing game"), strict=True):
        panel.set(xlabel="clicked images", title=title)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle(f"{name}, test images")
    figure.savefig(path, dpi=130)


def heat_maps(shown: Sequence[tuple[Masked, Sequence[tuple[str, Prediction]]]], path: Path) -> None:
    """Images beside where several classifiers look, and what they say."""
    columns = 1 + max(len(said) for _, said in shown)
    figure = Figure(figsize=(1.9 * columns, 2.15 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for row, (one, said) in zip(grid, shown, strict=True):
        picture = load_image(one.image)
        row[0].imshow(picture)
        row[0].set_title(one.group, fontsize=8)
        for panel, (name, prediction) in zip(row[1:], said, strict=False):
            panel.imshow(attention_overlay(picture, prediction.attention))
            right = "" if prediction.label == one.label else " (wrong)"
            panel.set_title(f"{name}\n{prediction.label}{right}", fontsize=7)
        for panel in row:
            panel.axis("off")
    figure.savefig(path, dpi=120)


def spread_text(figure: Mapping[str, float | None], scale: float, digits: int) -> str:
    """What ``spread`` gave, as ``mean ± half_interval``."""
    mean = scale * (figure["mean"] or 0.0)
    half = figure["half_interval"]
    return f"{mean:.{digits}f}" if half is None else f"{mean:.{digits}f} ± {scale * half:.{digits}f}"
