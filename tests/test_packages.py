"""Packages of other versions than results depend on are refused; the files that name the versions are kept up."""

from importlib.metadata import version
from pathlib import Path

import pytest

from stages import packages
from stages.common.params import ParametersError, declared_parameters
from stages.packages import check_installed

TORCH = version("torch")
WAY_OUT = "python setup_environment.py installs, and python -m stages.packages writes down, what requirements.lock has"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Work in an empty folder, with a folder for the files; return the latter."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "packages").mkdir()
    return tmp_path / "packages"


def test_these_packages_are_those_wanted(open_workspace):
    with open_workspace({}, store=False):
        assert len(list(Path("packages").iterdir())) > 10
        check_installed()


@pytest.mark.parametrize(
    "text, problem",
    {
        f"torch=={TORCH}": None,
        "torch==1.2.3 ; python_full_version < '3'": None,
        f"torch==1.2.3 ; python_full_version < '3'\ntorch=={TORCH} ; python_full_version >= '3'": None,
        "torch==1.2.3": f"torch 1.2.3 is wanted and here it is {TORCH}: {WAY_OUT}",
        "no-such-package==1": f"no-such-package 1 is wanted and here it is missing: {WAY_OUT}",
    }.items(),
)
def test_what_is_refused(here, text, problem):
    (here / "torch.txt").write_text(f"{text}\n")
    if problem is None:
        check_installed()
        return
    with pytest.raises(ParametersError) as error:
        check_installed()
    assert (error.value.file, str(error.value)) == ("packages/torch.txt", problem)


@pytest.mark.parametrize("content", [b"<<<<<<< HEAD\n", "torch==1.2.3".encode("utf-16")])
def test_what_is_no_requirement_is_told_in_one_line(here, content):
    (here / "torch.txt").write_bytes(content)
    with pytest.raises(ParametersError) as error:
        check_installed()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("installed, refused", [("2.15.0+cpu", False), ("2.16.0.dev20261101+cpu", True)])
def test_a_build_for_another_processor_is_of_the_same_version(here, monkeypatch, installed, refused):
    monkeypatch.setattr(packages, "version", lambda name: installed)
    (here / "torch.txt").write_text("torch==2.15.0\n")
    if not refused:
        check_installed()
        return
    with pytest.raises(ParametersError, match=f"here it is {installed.replace('+', '.')}"):
        check_installed()


def test_every_stage_comes_by(open_workspace, capsys):
    with open_workspace({}, store=False):
        declared_parameters("ch06_generate")
        Path("packages/numpy.txt").write_text("numpy==1.2.3\n")
        with pytest.raises(SystemExit) as error:
            declared_parameters("ch06_generate")
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("packages/numpy.txt: numpy 1.2.3 is wanted")


def test_files_are_written_for_what_stages_name(here):
    wanted = "stages: {a: {deps: [packages/numpy.txt, data/x]}, b: {deps: [packages/torch.txt, packages/numpy.txt]}}"
    (here / "../dvc.yaml").write_text(wanted)
    (here / "numpy.txt").write_text("numpy==1.2.3\n")
    (here / "pandas.txt").write_text("pandas==1.2.3\n")
    assert packages.main() == 0
    written = {path.name: path.read_text() for path in here.iterdir()}
    assert set(written) == {"numpy.txt", "torch.txt"}
    assert f"torch=={TORCH.partition('+')[0]}\n" == written["torch.txt"]
    assert [line.split(" ; ")[0] for line in written["numpy.txt"].splitlines()].count(f"numpy=={version('numpy')}") == 1


def test_a_package_that_is_not_locked_is_refused(here):
    (here / "../dvc.yaml").write_text("stages: {a: {deps: [packages/no-such-package.txt]}}")
    with pytest.raises(SystemExit, match="requirements.lock has no no-such-package"):
        packages.main()


def test_a_pipeline_that_is_not_there_is_told_in_one_line(here, capsys):
    assert packages.main() == 2
    assert capsys.readouterr().err.startswith("dvc.yaml: there is no such file in ")
