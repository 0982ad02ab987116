"""What a stage depends on, and what counts as a change of it while it runs."""

from pathlib import Path

import pytest

from stages.common import dependencies
from stages.common.dependencies import own_dependencies, parameters_behind, refuse_if_changed


def test_parameters_are_those_of_the_stage_and_of_all_before_it(open_workspace):
    with open_workspace({"ch06.tuned.window": 9}):
        behind = parameters_behind("ch06_train")
        assert behind["window"] == 9
        assert {"hidden_size", "noise_level", "instructions"} < behind.keys()
        assert "compared_noise_levels" not in behind
        assert {"motif_nodes", "hidden_size", "features", "source"} < parameters_behind("ch08_tasks").keys()


def test_what_counts_as_a_change(open_workspace, monkeypatch):
    with open_workspace({}) as workspace:
        began = own_dependencies("ch06_train")
        assert {"seed", "ch06.recipe", "ch06.tuned.epochs", "stages/ch06_timeseries/train.py"} <= began.keys()
        monkeypatch.setattr(dependencies, "own_at_start", {"ch06_train": began})
        workspace.set_parameters({"ch06.tuned.window": 9, "ch07.tuned.epochs": 1})  # not its own
        refuse_if_changed("ch06_train")
        refuse_if_changed("ch06_plot")  # which nothing is known of
        workspace.set_parameters({"ch06.recipe": "book"})
        with pytest.raises(SystemExit, match="ch06.recipe was tuned when ch06_train began and is book now"):
            refuse_if_changed("ch06_train")
        workspace.set_parameters({})
        whole = Path("params.yaml").read_text(encoding="utf-8")
        Path("params.yaml").write_text(whole.replace("    learning_rate:", "    rate:"), encoding="utf-8")
        with pytest.raises(SystemExit, match="ch06.tuned.learning_rate has gone since ch06_train began"):
            refuse_if_changed("ch06_train")
        Path("params.yaml").write_text("seed: [")
        with pytest.raises(SystemExit, match="params.yaml: not valid YAML"):
            refuse_if_changed("ch06_train")
        workspace.set_parameters({})
        monkeypatch.setitem(began, "stages/ch06_timeseries/train.py", "another hash")
        with pytest.raises(SystemExit, match="stages/ch06_timeseries/train.py has changed since ch06_train began"):
            refuse_if_changed("ch06_train")
        monkeypatch.setattr(dependencies, "own_at_start", {"ch06_train": {"stages/ch06_timeseries/no.py": "hash"}})
        with pytest.raises(SystemExit, match="stages/ch06_timeseries/no.py has gone since ch06_train began"):
            refuse_if_changed("ch06_train")
