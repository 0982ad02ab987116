"""Progress: a bar on a terminal, a line now and then elsewhere."""

import io
import os
import sys

import pytest

from stages.common import progress as module
from stages.common.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list of one number."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_now_and_then(clock, capsys):
    done = []
    for item in progress("abcdef", "letters", status=lambda: f"last {done[-1:]}"):
        done.append(item)
        clock[0] += 3.0
    assert done == list("abcdef")
    lines = ["letters: 2/6 last ['b']", "letters: 4/6 last ['d']", "letters: 6/6 last ['f']"]
    assert capsys.readouterr().err.splitlines() == lines


def test_what_is_quick_says_nothing(clock, capsys):
    assert list(progress(iter(range(1000)), "numbers", total=1000)) == list(range(1000))
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif("TQDM_DISABLE" in os.environ, reason="tqdm is told to draw nothing")
def test_a_bar_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress([1, 2, 3], "numbers", status=lambda: "loss 0.5")) == [1, 2, 3]
    shown = terminal.getvalue()
    assert "numbers" in shown and "3/3" in shown and "loss 0.5" in shown
