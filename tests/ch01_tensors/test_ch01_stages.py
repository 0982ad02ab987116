"""Chapter 1 as dvc.yaml runs it, small: what comes out, and the same bytes again but for the times."""

import json

import numpy as np
import pytest
import yaml

from tests.conftest import arrays, changed, curves, figures_of, recorded_runs

SMALL = {
    "ch01.tuned.sizes": [4, 8, 16],
    "ch01.tuned.loops_up_to": 8,
    "ch01.tuned.repeats": 2,
    "ch01.book.sizes": [12],
    "ch01.book.loops_up_to": 12,
}
TIMES = {"metrics/timings/ch01.json", "metrics/plots/ch01/timings.png"}


@pytest.fixture(scope="module", params=["tuned", "book"])
def chapter(open_workspace, request):
    """(workspace, recipe, outputs) after a whole run of the chapter."""
    with open_workspace({**SMALL, "ch01.recipe": request.param}) as workspace:
        yield workspace, request.param, workspace.run("ch01", tracked=request.param == "tuned")


def test_all_that_is_checked_holds(chapter):
    _, recipe, outputs = chapter
    metrics, facts = (json.loads(outputs[f"metrics/{name}ch01.json"]) for name in ("", "facts/"))
    assert metrics["operations_agreeing"] == metrics["operations"] == len(facts["operations"]) > 50
    assert metrics["statements_true"] == metrics["statements"] == len(facts["statements"]) > 20
    assert metrics["integer_functions_refused"] == len(facts["integers_refused_by"])
    errors = [metrics[f"rounding_error_{name}"] for name in ("loops", "rows", "mm")]
    if recipe == "book":  # ones: exact, and blind to a transposed operand
        assert [*errors, metrics["transposed_difference"]] == [0, 0, 0, 0]
    else:
        assert all(0 < error < 1e-6 for error in errors) and metrics["transposed_difference"] > 1
    measured = arrays(outputs, "data/evaluated/ch01/arrays.npz")
    assert [float(f"{measured[name][-1]:.4g}") for name in ("loops", "rows", "mm")] == errors


def test_times_are_of_the_sizes_asked_for(chapter):
    _, recipe, outputs = chapter
    timings = json.loads(outputs["metrics/timings/ch01.json"])
    expected = {"tuned": (["4", "8"], ["4", "8", "16"]), "book": (["12"], ["12"])}[recipe]
    assert (list(timings["products"]["loops"]), list(timings["products"]["mm"])) == expected
    assert timings["num_threads"] == 1


@pytest.mark.parametrize("chapter", ["tuned"], indirect=True)
def test_mlflow_has_the_times_and_the_results(chapter):
    workspace, _, outputs = chapter
    runs = recorded_runs(workspace, "ch01")
    (times,) = [run for run in runs if "mm_16_seconds" in run.data.metrics]
    (results,) = [run for run in runs if "operations" in run.data.metrics]
    timings = json.loads(outputs["metrics/timings/ch01.json"])["products"]
    assert times.data.metrics["rows_8_gflops"] == timings["rows"]["8"]["gflops"]
    assert {name: results.data.metrics[name] for name in ("statements", "rounding_error_mm")} == {
        name: json.loads(outputs["metrics/ch01.json"])[name] for name in ("statements", "rounding_error_mm")
    }
    assert [figures_of(run) for run in (times, results)] == [["timings.png"], ["rounding.png", "tensors.png"]]
    assert {run.data.params["instructions"] for run in runs} == {"avx2"}


def test_second_run_gives_the_same_bytes_but_for_the_times(chapter):
    workspace, _, outputs = chapter
    workspace.remove_outputs()
    again = workspace.run("ch01", tracked=False)
    assert set(changed(again, outputs)) <= TIMES


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"sizes": [8, 8]}, "ch01.tuned: sizes [8, 8] must rise"),
        ({"sizes": [8], "loops_up_to": 4}, "ch01.tuned: loops_up_to 4 must be at least the smallest of sizes [8]"),
        ({"repeats": 0}, "ch01.tuned.repeats = 0: input should be greater than or equal to 1"),
        ({"matrices": "zeros"}, "ch01.tuned.matrices = 'zeros': input should be 'normal' or 'ones'"),
    ],
)
def test_wrong_parameters_end_in_one_line(workspace, capsys, changes, problem):
    workspace.set_parameters({f"ch01.tuned.{name}": value for name, value in changes.items()})
    with pytest.raises(SystemExit) as end:
        workspace.step("stages.ch01_tensors.evaluate")
    assert end.value.code == 2
    assert capsys.readouterr().err.strip() == f"params.yaml: {problem}"
    assert yaml.safe_load((workspace.path / "params.yaml").read_text()) and workspace.outputs() == {}


def test_figures_show_what_was_measured(chapter):
    workspace, _, _ = chapter
    (axes,) = workspace.drawn("stages.ch01_tensors.plot")["rounding.png"].axes
    with np.load("data/evaluated/ch01/arrays.npz") as arrays:
        for label, name in {"two loops": "loops", "loop over rows": "rows", "torch.mm": "mm"}.items():
            assert curves(axes)[label] == list(zip(arrays["sizes"].tolist(), arrays[name].tolist(), strict=True))
