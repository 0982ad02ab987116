"""Figures: one look for all chapters, PNG files that are the same bytes from run to run, and their way into MLflow."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.rcdefaults()  # else a user's own style would give other bytes
matplotlib.use("Agg")  # before pyplot: a pipeline draws to files, and many machines have no screen

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from stages.common import tracking
from stages.common.files import file_hash, placed, write_json
from stages.common.params import stage_entry

# Okabe and Ito's colours, which people who see no difference of red and green can tell apart, too. As shades of grey
# they are alike: where curves lie close together, they also differ in line or marker.
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7a7a7a"
COLORS = (BLUE, RED, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "black", GREY)  # their yellow is faint on white


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


def record_figures(stage: str, *results: Mapping[str, object]) -> None:
    """Add the stage's figures, and what else there is to tell, to runs in MLflow; then write the figures' SHA-256.

    They are those that dvc.yaml declares: other pictures in their folder are a user's own.

    That file, data/recorded/<chapter>.json, is the one output of a stage that git doesn't hold. DVC skips a stage whose
    outputs are all there, as those of a fresh clone are; and its figures, and the metrics that go with them, would
    never come into that machine's MLflow.

    Args:
        results: for each run the arguments of tracking.record_results: `model_file`, and others; without `figures` a
            run gets all of them.
    """
    figures = sorted(Path(path) for entry in stage_entry(stage)["plots"] for path in entry)
    for result in results:
        tracking.record_results(stage, **{"figures": figures, **result})
    hashes = {figure.name: file_hash(figure, "sha256") for figure in figures}
    write_json(f"data/recorded/{stage.partition('_')[0]}.json", hashes)
