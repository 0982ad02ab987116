"""Figures: the same bytes for everybody, and what is written down of them."""

import os
import subprocess
import sys

from stages.common.figures import new_figure, save_figure, write_recorded
from stages.common.files import file_hash, read_json
from tests.conftest import ROOT

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


def test_what_was_recorded_is_written_by_name(tmp_path):
    paths = [tmp_path / "loss.png", tmp_path / "accuracy.png"]
    for number, path in enumerate(paths):
        figure, axes = new_figure()
        axes.plot([0, number])
        save_figure(figure, path)
    write_recorded(tmp_path / "ch99.json", paths)
    assert list(read_json(tmp_path / "ch99.json").items()) == [
        (name, file_hash(tmp_path / name, "sha256")) for name in ("accuracy.png", "loss.png")
    ]
