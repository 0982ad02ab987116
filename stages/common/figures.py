"""Figures: one look for all chapters, and PNG files that are the same bytes from run to run."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.rcdefaults()  # else a user's own style would give other bytes
matplotlib.use("Agg")  # before pyplot: a pipeline draws to files, and many machines have no screen

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from stages.common.files import file_hash, placed, write_json

BLUE, RED, GREEN, GREY = "#1f6fb4", "#d1442e", "#2f8f5b", "#7a7a7a"


def new_figure(rows: int = 1, columns: int = 1, width: float = 5.5, height: float = 4.0, **options):
    """Return (figure, axes) of rows × columns panels, each `width` × `height` inches."""
    plt.rcParams.update(
        {"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    )
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), layout="constrained", **options)


def curve_marker(points: int) -> str | None:
    """Return the marker of a curve: one of a single point has no line to be seen by."""
    return "." if points == 1 else None


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write `figure` as PNG and close it."""
    with placed(path) as temporary:
        # Without the version of matplotlib in it, the file depends on what is drawn alone.
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    plt.close(figure)


def write_recorded(path: str | Path, figures: Iterable[Path]) -> None:
    """Write the figures' names and SHA-256, once MLflow has them.

    It is the one output of a stage that git doesn't hold. DVC skips a stage whose outputs are all there, as those of a
    fresh clone are; and its figures, and the metrics that go with them, would never come into that machine's MLflow.
    """
    write_json(path, {figure.name: file_hash(figure, "sha256") for figure in sorted(figures)})
