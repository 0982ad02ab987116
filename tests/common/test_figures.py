"""Figures: the same bytes for everybody, and what is written down of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.common import tracking
from stages.common.figures import new_figure, record_figures, save_figure
from stages.common.files import file_hash, read_json
from tests.conftest import ROOT

PLOTS = Path("metrics/plots/ch99")
DRAW = """
import sys
from stages.common.figures import new_figure, save_figure

figure, axes = new_figure()
axes.plot([1, 3, 2])
axes.set_title("The same")
save_figure(figure, sys.argv[1])
"""
STYLE = "lines.linewidth: 9\ntext.usetex: True\nfigure.facecolor: black\nsavefig.bbox: tight\nfont.size: 30\n"


def test_a_users_style_changes_nothing(tmp_path):
    (tmp_path / "matplotlibrc").write_text(STYLE)
    for name, style in (("plain", os.devnull), ("own", str(tmp_path / "matplotlibrc"))):
        environment = {**os.environ, "MATPLOTLIBRC": style}
        command = [sys.executable, "-c", DRAW, str(tmp_path / f"{name}.png")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> list[tuple[str, dict]]:
    """Two figures of a chapter 99, and one of a user's own beside them; what goes to MLflow is in the list."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("loss", "accuracy")):
        figure, axes = new_figure()
        axes.plot([0, number])
        save_figure(figure, PLOTS / f"{name}.png")
    (PLOTS / "screenshot.png").touch()
    entry = {
        "cmd": "plot",
        "plots": [{f"{PLOTS.as_posix()}/{name}.png": {"cache": False}} for name in ("loss", "accuracy")],
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"ch99_plot": entry}}), encoding="utf-8")
    calls = []
    monkeypatch.setattr(tracking, "record_results", lambda stage, **options: calls.append((stage, options)))
    return calls


def test_figures_go_to_every_run_and_their_hashes_are_written_by_name(recorded):
    record_figures("ch99_plot", {"model_file": "a", "metrics": {"loss": 1.0}}, {"model_file": "b", "figures": []})
    both = [PLOTS / "accuracy.png", PLOTS / "loss.png"]
    assert recorded == [
        ("ch99_plot", {"model_file": "a", "metrics": {"loss": 1.0}, "figures": both}),
        ("ch99_plot", {"model_file": "b", "figures": []}),
    ]
    written = read_json("data/recorded/ch99.json")
    assert list(written.items()) == [(path.name, file_hash(path, "sha256")) for path in both]


def test_nothing_is_written_of_what_could_not_be_recorded(recorded, monkeypatch):
    def fail(*_, **__):
        raise tracking.RecordingError("no space left")

    monkeypatch.setattr(tracking, "record_results", fail)
    with pytest.raises(SystemExit, match="no space left"):
        record_figures("ch99_plot", {"model_file": "a"})
    assert not Path("data/recorded").exists()
