"""dvc.yaml says what the code does; dvc.lock and metrics/ are those of the code; a change reruns what it should.

What a stage imports and which parameters it reads are derived from the code by its syntax tree. Where the code gets too
clever for that, the test fails rather than guesses.
"""

import ast
import contextlib
import copy
import functools
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from stages.ch06_timeseries import generate
from stages.common.files import file_hash
from stages.common.params import UndeclaredParameterError, declared_parameters, resolve
from stages.packages import locked_versions, names_in_pipeline
from stages.params_schema import first_problem
from tests.conftest import IN_GIT

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PACKAGE = ROOT / "stages/__init__.py"  # of which each module is
PARAMS_MODULE = ROOT / "stages/common/params.py"
TRACKING_MODULE = ROOT / "stages/common/tracking.py"

needs_git = pytest.mark.skipif(not IN_GIT, reason="not a git checkout, or no git")


def step_file(stage: str) -> Path:
    """Return the file of the module that the stage's command runs."""
    command = STAGES[stage]["cmd"].replace("${ch09.launcher}", "python -m")
    module = re.fullmatch(r"python -m (stages(?:\.\w+)+)(?: \$\{item\.\w+\})*", command)[1]
    return ROOT / f"{module.replace('.', '/')}.py"


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# Local modules


def local_imports(tree: ast.AST) -> set[Path]:
    """Return the local files that `tree` imports anywhere in it, packages' __init__.py left out."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    return {file for file in files if file.is_file()}


def closure(path: Path, read: Callable[[Path], ast.Module] = parsed) -> set[Path]:
    """Return `path` and every local file that it imports, directly or through another, in what `read` has of it."""
    found, waiting = set(), [path, PACKAGE]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += local_imports(read(file))
    return found


def test_packages_are_empty_but_one():
    assert [path for path in (ROOT / "stages").rglob("__init__.py") if path.read_bytes()] == [PACKAGE]


@pytest.mark.parametrize("stage", STAGES)
def test_modules_imported_are_those_declared(stage):
    files = closure(step_file(stage))
    declared = [name for name in STAGES[stage]["deps"] if name.endswith(".py")]
    assert sorted(declared) == sorted(file.relative_to(ROOT).as_posix() for file in files)
    # These load the schemas and the recorder by name, on purpose: no output is made of either.
    for file in files - {PARAMS_MODULE, TRACKING_MODULE}:
        assert not re.search(r"importlib|__import__|runpy", file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("stage", [stage for stage in STAGES if TRACKING_MODULE in closure(step_file(stage))])
def test_what_is_recorded_is_recorded_on_a_fresh_clone(stage):
    """A stage whose outputs are all in git would be skipped there: nothing of it would come into MLflow."""
    written = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
    options = [next(iter(entry.values())) if isinstance(entry, dict) else {} for entry in written]
    of_another_machine = all(not option.get("meta", {}).get("deterministic", True) for option in options)
    assert of_another_machine or any(option.get("cache", True) for option in options)


def imports_at_once(path: Path) -> ast.Module:
    """Return of a file the imports alone that are carried out when it is loaded."""
    return ast.Module([node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)], [])


def packages(path: Path, read: Callable[[Path], ast.Module]) -> set[str]:
    """Return the packages that `path` and what it imports take, in what `read` has of each file."""
    names = set()
    for node in (node for file in closure(path, read) for node in ast.walk(read(file))):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.partition(".")[0] for name in names}


def imported_packages(program: Path, read: Callable[[Path], ast.Module] = imports_at_once) -> set[str]:
    """Return the packages, none of Python's own and ours, that a program takes, by default as it is loaded."""
    return packages(program, read) - sys.stdlib_module_names - {"stages"}


distributions_of_modules = functools.cache(packages_distributions)

# They take part in how a stage runs, not in what comes of it.
NO_PART_IN_RESULTS = {"psutil", "pyyaml", "threadpoolctl", "tqdm"}
# What a package leaves parts of the result to: the layout, contours and encoding of figures, numerical algorithms, and
# how tables are written.
LEAVES_PARTS_TO = {
    "datasets": {"pyarrow"},
    "matplotlib": {"contourpy", "kiwisolver", "pillow"},
    "scikit-learn": {"scipy"},
}


def packages_behind(stage: str) -> set[str]:
    """Return the packages whose versions the results of a stage depend on, by the names of the lock file."""
    distributions, modules = distributions_of_modules(), imported_packages(step_file(stage), parsed)
    found = {canonicalize_name(name) for module in modules for name in distributions[module]} - NO_PART_IN_RESULTS
    return found.union(*(LEAVES_PARTS_TO.get(name, ()) for name in found))


@pytest.mark.parametrize("stage", STAGES)
def test_packages_used_are_those_declared(stage):
    declared = {name for name in STAGES[stage]["deps"] if name.startswith("packages/")}
    # What a download brings, or what it holds, has a hash of its own.
    used = set() if stage.endswith("_download") else packages_behind(stage)
    assert declared == {f"packages/{name}.txt" for name in used}


def test_versions_of_packages_are_those_of_the_lock_file():
    written = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "packages").glob("*.txt")}
    assert len(written) > 10 and written == {name: locked_versions(name) for name in names_in_pipeline()}


def missing_from(requirements: str, program: Path) -> list[str]:
    """Return which packages of `imported_packages` an environment with nothing but these requirements lacks."""
    installed, waiting = set(), [Requirement(line) for line in requirements.splitlines() if line.strip()]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name not in installed:
            installed.add(name)
            needed = map(Requirement, requires(name) or [])
            waiting += [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    distributions = distributions_of_modules()
    return [
        name
        for name in imported_packages(program)
        if not installed & {canonicalize_name(distribution) for distribution in distributions[name]}
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_starts_light(stage):
    assert "mlflow" not in packages(step_file(stage), imports_at_once)
    heavy = {"torch", "torchmetrics", "torchvision", "torch_geometric"}
    if stage.endswith("_download"):  # one of the sources needs PyTorch Geometric to be read
        assert not heavy & packages(step_file(stage), imports_at_once)
    if stage.endswith("_plot"):
        assert not heavy & packages(step_file(stage), parsed)  # nor in a function
    lighter = {"ch07_evaluate": {"torchvision"}, "ch09_tokenize": heavy}
    assert not lighter.get(stage, set()) & packages(step_file(stage), parsed)


def test_chapters_import_themselves_and_common_only():
    for file in (ROOT / "stages").glob("*/*.py"):
        allowed = {file.parent.name, "common"}
        assert {imported.parent.name for imported in local_imports(parsed(file))} <= allowed, file


# Parameters


class CannotFollow(Exception):
    """The code uses its parameters in a way that ParameterReads doesn't understand."""


class ParameterReads(ast.NodeVisitor):
    """Collects in `reads` the names of the parameters that the code it visits reads, as dvc.yaml writes them."""

    def __init__(self):
        self.sections: dict[str, tuple[str, ...]] = {}  # local variable → keys that lead to its section
        self.reads: set[str] = set()

    def keys_of(self, node: ast.AST) -> tuple[str, ...] | None:
        """Return the keys that lead to the section or parameter that `node` stands for; None for anything else."""
        match node:
            case ast.Call(func=ast.Name(id="declared_parameters")):
                return ()
            case ast.Name(id=name):
                return self.sections.get(name)
            case ast.Attribute(value=value, attr=key):
                keys = self.keys_of(value)
                if keys is None or not self.is_section(keys, node):
                    return None
                if key == "active" and len(keys) == 1:
                    self.reads.add(f"{keys[0]}.recipe")
                    key = f"${{{keys[0]}.recipe}}"
                return (*keys, key)

    def is_section(self, keys: tuple[str, ...], node: ast.AST) -> bool:
        values = PARAMS
        for key in (resolve(key, PARAMS) for key in keys):
            if key not in values:
                raise CannotFollow(f"line {node.lineno}: there is no parameter {'.'.join(keys)}")
            values = values[key]
        return isinstance(values, dict)

    def read(self, keys: tuple[str, ...], node: ast.AST) -> None:
        if self.is_section(keys, node):
            raise CannotFollow(f"line {node.lineno}: {ast.unparse(node)}")
        self.reads.add(".".join(keys))

    def visit_Assign(self, node: ast.Assign) -> None:
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(
                values
            ):
                pairs = list(zip(targets, values, strict=True))
            case _:
                pairs = [(target, node.value) for target in node.targets]
        for target, value in pairs:
            keys = self.keys_of(value)
            is_new_name = isinstance(target, ast.Name) and target.id not in self.sections
            if is_new_name and keys is not None and self.is_section(keys, value):
                self.sections[target.id] = keys
            else:
                self.visit(value)
                self.visit(target)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(func=ast.Name(id="declared_parameters")):
                self.read((), node)
            case ast.Call(func=ast.Attribute(value=section, attr="select"), args=names, keywords=[]) if (
                keys := self.keys_of(section)
            ) is not None and self.is_section(keys, section):
                for name in names:
                    if not isinstance(name, ast.Constant):
                        raise CannotFollow(f"line {node.lineno}: {ast.unparse(node)}")
                    self.read((*keys, name.value), name)
            case ast.Call(func=ast.Attribute(value=section, attr="fingerprint"), args=[], keywords=[]) if (
                self.keys_of(section) == ()
            ):
                pass
            case _:
                self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        keys = self.keys_of(node)
        if keys is None:
            self.generic_visit(node)
        elif isinstance(node.ctx, ast.Load):
            self.read(keys, node)
        else:
            raise CannotFollow(f"line {node.lineno}: {ast.unparse(node)} is changed")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.sections:  # by itself: passed on, bound anew, looked into by other means
            raise CannotFollow(f"line {node.lineno}: {node.id}")

    def visit_arg(self, node: ast.arg) -> None:
        if node.arg in self.sections:
            raise CannotFollow(f"line {node.lineno}: an argument hides {node.arg}")


def parameter_reads(tree: ast.Module) -> tuple[str, set[str]] | None:
    """Return (stage, parameters read) of a step's file, or None if it asks for no parameters."""
    is_ask = lambda node: isinstance(node, ast.Call) and ast.unparse(node.func).endswith("declared_parameters")  # noqa: E731
    asks = [node for node in ast.walk(tree) if is_ask(node)]
    if not asks:
        return None
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and any(map(is_ask, ast.walk(node)))]
    match asks, functions:
        case [ast.Call(func=ast.Name(), args=[ast.Constant(value=stage)], keywords=[])], [function]:
            reads = ParameterReads()
            for statement in function.body:
                reads.visit(statement)
            return stage, reads.reads
    raise CannotFollow("declared_parameters must be called once, in a function, with the stage's name")


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_read_are_those_declared(stage):
    name, reads = parameter_reads(parsed(step_file(stage))) or (stage, set())
    assert name == stage
    # Its package reads this one, which matters wherever something is computed.
    of_package = set() if stage.endswith("_download") else {"instructions"}
    assert sorted(STAGES[stage].get("params", [])) == sorted(reads | of_package)


def test_parameters_are_read_in_no_other_way():
    steps = {step_file(stage) for stage in STAGES}
    for file in {file for step in steps for file in closure(step)} - {PARAMS_MODULE}:
        text = file.read_text(encoding="utf-8")
        asks = text.count("declared_parameters")
        assert asks == 0 or (file in steps and asks == 2), file  # 2: its import and its call
        assert not re.search(r"import yaml|from yaml|read_yaml|checked_parameters|value_at|\bSection\b", text), file


MAIN = """
def main():
    parameters = declared_parameters("chNN_step")
    {}
"""

FOLLOWED = {
    "recipe = parameters.ch06.active; use(recipe.window)": "ch06.recipe ch06.${ch06.recipe}.window",
    "a, b = parameters.ch04, parameters.ch04.active; use(a.runs)": "ch04.recipe ch04.runs",
    "a, b = parameters.ch04, parameters.seed; use(a.runs, b)": "ch04.runs seed",
    "use(parameters.ch07.active.widths[0], parameters.ch07.active.widths.index(1))": (
        "ch07.recipe ch07.${ch07.recipe}.widths"
    ),
    "use(**parameters.select('seed', 'device'))": "seed device",
    "use(x for x in parameters.ch06.compared_noise_levels)": "ch06.compared_noise_levels",
    "use(parameters.fingerprint(), lambda: parameters.seed)": "seed",
    "a = b = parameters.ch06.active; use(a.window, b.epochs)": (
        "ch06.recipe ch06.${ch06.recipe}.window ch06.${ch06.recipe}.epochs"
    ),
    "ch06 = parameters.ch06; use(ch06.tuned.select('epochs'))": "ch06.tuned.epochs",
    "use(other.active.select(name), options.seed, seed=1)": "",
}


@pytest.mark.parametrize("body, reads", FOLLOWED.items())
def test_reads_that_are_followed(body, reads):
    tree = ast.parse(MAIN.format(body))
    assert parameter_reads(tree) == ("chNN_step", set(reads.split()))


@pytest.mark.parametrize(
    "body",
    [
        "use(parameters)",
        "use(parameters.ch06)",
        "use(section=parameters.ch06.active)",
        "use(**parameters.ch06.active)",
        "use([parameters.ch06])",
        "return parameters",
        "getattr(parameters, 'seed')",
        "parameters.ch06['window']",
        "parameters.ch06.active.select(*names)",
        "parameters.ch06.active.select(name)",
        "parameters.ch06.select('tuned')",
        "parameters._values",
        "parameters.active",
        "parameters.ch06.active.active",
        "parameters.ch06.active.windw",
        "parameters.ch06.fingerprint()",
        "fingerprint = parameters.fingerprint",
        "parameters.seed = 1",
        "parameters = 1",
        "for parameters in (): pass",
        "use(lambda parameters: parameters.seed)",
        "recipe = parameters.ch06.tuned; recipe = parameters.ch06.book",
        "(a, b), c = parameters.ch06, 1",
        "use(recipe := parameters.ch06.active)",
        "use(declared_parameters('other_step').seed)",
    ],
)
def test_reads_that_cannot_be_followed(body):
    tree = ast.parse(MAIN.format(body))
    with pytest.raises(CannotFollow):
        parameter_reads(tree)


@pytest.fixture
def undeclare(tmp_path, monkeypatch):
    """Work in a folder with the real params.yaml and dvc.yaml; the function given takes a parameter from a stage."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def remove(stage: str, parameter: str) -> None:
        pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
        pipeline["stages"][stage]["params"].remove(parameter)
        Path("dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")

    return remove


@pytest.mark.parametrize(
    "parameter, read",
    [
        ("noise_level", "noise_level"),
        ("ch06.recipe", "ch06.recipe"),
        ("ch06.${ch06.recipe}.duration", "ch06.tuned.duration"),
    ],
)
def test_a_stage_that_reads_what_it_does_not_declare_fails(undeclare, parameter, read):
    undeclare("ch06_generate", parameter)
    with pytest.raises(UndeclaredParameterError) as error:
        generate.main()
    assert str(error.value) == f"ch06_generate reads {read}, which dvc.yaml does not declare for it"
    assert not Path("data").exists()


def test_only_declared_parameters_are_seen(undeclare):
    parameters = declared_parameters("ch06_generate")
    assert parameters.ch06.active.select("length", "duration") == {
        key: PARAMS["ch06"]["tuned"][key] for key in ("length", "duration")
    }
    for read, name in {
        lambda: parameters.device: "device",
        lambda: parameters.ch04: "ch04",
        lambda: parameters.ch06.book: "ch06.book",
        lambda: parameters.ch06.compared_noise_levels: "ch06.compared_noise_levels",
        lambda: parameters.ch06.active.select("length", "window"): "ch06.tuned.window",
        lambda: parameters.ch06.active.no_such_key: "ch06.tuned.no_such_key",
    }.items():
        with pytest.raises(UndeclaredParameterError) as error:
            read()
        assert str(error.value) == f"ch06_generate reads {name}, which dvc.yaml does not declare for it"


# dvc.lock and metrics/


def variants(stage: str) -> dict[str, dict[str, str]]:
    """Return the names that DVC gives to `stage`, one for each cell of its matrix, with the values of ${item}."""
    matrix = STAGES[stage].get("matrix")
    if not matrix:
        return {stage: {}}
    rows = [dict(zip(matrix, row, strict=True)) for row in itertools.product(*matrix.values())]
    return {f"{stage}@{'-'.join(row.values())}": row for row in rows}


NAMES = {name: (stage, item) for stage in STAGES for name, item in variants(stage).items()}


def results(name: str) -> set[str]:
    """Return the files in metrics/ of a stage (a variant's name), all of them kept in git and not in DVC's cache."""
    stage, item = NAMES[name]
    tables = [out for out in STAGES[stage].get("outs", []) if isinstance(out, dict)]
    entries = [*STAGES[stage].get("metrics", []), *STAGES[stage].get("plots", []), *tables]
    assert all(options["cache"] is False for entry in entries for options in entry.values())
    return {resolve(path, {**PARAMS, "item": item}) for entry in entries for path in entry}


@functools.cache
def locked() -> dict:
    return yaml.safe_load((ROOT / "dvc.lock").read_text(encoding="utf-8"))["stages"]


def not_reproduced(status: dict) -> list[str]:
    """Return what `dvc status` complains about, except that data is not there: on a fresh clone it never is."""
    problems = []
    for stage, changes in status.items():
        for change in changes:
            if isinstance(change, str):  # "changed command"
                problems.append(f"{stage}: {change}")
                continue
            for files in change.values():
                for file, state in files.items():
                    names = state if isinstance(state, dict) else {file: state}  # of params.yaml: key by key
                    problems += [
                        f"{stage}: {name} {state}"
                        for name, state in names.items()
                        if not (name.startswith("data/") and state in ("deleted", "not in cache"))
                    ]
    return problems


def test_missing_data_is_no_problem_and_all_else_is():
    status = {
        "a": [
            {"changed deps": {"data/raw/x": "deleted", "stages/a.py": "modified", "params.yaml": {"seed": "new"}}},
            {"changed outs": {"data/y": "not in cache", "data/z": "modified", "metrics/a.json": "deleted"}},
        ],
        "b": ["changed command", {"changed deps": {"data/raw/x": "update available"}}],
    }
    assert not_reproduced(status) == [
        "a: stages/a.py modified",
        "a: seed new",
        "a: data/z modified",
        "a: metrics/a.json deleted",
        "b: changed command",
        "b: data/raw/x update available",
    ]


def drawn_columns() -> list[tuple[str, str, list[str]]]:
    """Return of every table that `dvc plots show` draws its path, the column along the axis, and those drawn."""
    found = []
    for stage, item in NAMES.values():
        for path, options in declared_outputs(stage).items():
            if path.endswith(".csv") and "y" in options:
                found.append((resolve(path, {**PARAMS, "item": item}), options["x"], [options["y"]]))
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]:
        ((name, options),) = entry.items()
        drawn = options["y"] if isinstance(options["y"], dict) else {name: options["y"]}
        for path, columns in drawn.items():
            found.append((path, options["x"], [columns] if isinstance(columns, str) else columns))
    return found


def test_plots_are_of_every_history_and_of_columns_that_there_are():
    drawn = drawn_columns()
    outputs = [
        resolve(path, {**PARAMS, "item": item}) for stage, item in NAMES.values() for path in declared_outputs(stage)
    ]
    histories = [path for path in outputs if path.startswith("metrics/history/")]
    assert len(histories) > 10 and {path for path, _, _ in drawn} == set(histories)
    for path, x, columns in drawn:
        first, *others = (ROOT / path).read_text(encoding="utf-8").splitlines()[0].split(",")
        assert x == first and set(columns) <= set(others), path


def declared_outputs(stage: str) -> dict[str, dict]:
    """Return every output that dvc.yaml declares for `stage`, with its options."""
    outputs = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in STAGES[stage].get(kind, []):
            outputs |= entry if isinstance(entry, dict) else {entry: {}}
    return outputs


def test_no_stage_depends_on_what_differs_from_run_to_run():
    differing = {
        path
        for stage in STAGES
        for path, options in declared_outputs(stage).items()
        if options.get("meta", {}).get("deterministic") is False
    }
    assert differing == {"metrics/timings/ch01.json", "metrics/plots/ch01/timings.png"}
    assert [(stage, path) for stage in STAGES for path in STAGES[stage]["deps"] if path in differing] == []


def test_every_stage_comes_from_the_run_cache_but_that_of_times():
    """DVC keeps no run of a stage that has an output outside its cache, unless that is a metric or a plot."""
    kept_out = {
        stage
        for stage in STAGES
        for out in STAGES[stage].get("outs", [])
        if isinstance(out, dict) and not all(options.get("cache", True) for options in out.values())
    }
    assert kept_out == {"ch01_benchmark"}  # another machine's times would be of no use here


@needs_git
def test_lock_is_of_the_code():
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    problems = not_reproduced(json.loads(run.stdout))
    assert not problems, "\n".join(["run `dvc repro`, then commit dvc.lock and metrics/:", *problems])


@pytest.mark.parametrize("lock", ["dvc.lock", "metrics/book/lock.yaml"])
def test_stages_read_what_others_wrote(lock):
    """`dvc status` compares data only where they lie: on a fresh clone a stage may be behind another unnoticed."""
    stages = yaml.safe_load((ROOT / lock).read_text(encoding="utf-8"))["stages"]
    written = {out["path"]: out["md5"] for entry in stages.values() for out in entry["outs"]}
    read = {
        (name, dep["path"]): dep["md5"]
        for name, entry in stages.items()
        for dep in entry["deps"]
        if dep["path"].startswith(("data/", "metrics/"))
    }
    assert len(read) > 30 and read == {(name, path): written[path] for name, path in read}


def test_lock_has_every_stage_and_no_other():
    assert sorted(locked()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_and_plots_are_those_of_the_lock(name):
    outs = {out["path"]: out["md5"] for out in locked()[name]["outs"] if out["path"].startswith("metrics/")}
    assert set(outs) == results(name)
    assert outs == {path: file_hash(ROOT / path, "md5") if (ROOT / path).exists() else "missing" for path in outs}


# What a change reruns: for each parameter, another valid value and the stages that read it. What lies downstream of
# them runs again only if what they write has changed. "train@*" is the stage with all its variants.

SHARED = {
    "seed": (
        1,
        "ch01_benchmark ch01_evaluate "
        "ch02_train ch02_evaluate "
        "ch03_generate ch03_train ch03_evaluate "
        "ch04_preprocess ch04_train ch04_evaluate "
        "ch05_train ch05_evaluate "
        "ch06_generate ch06_train@* ch06_evaluate@* ch06_noise "
        "ch07_preprocess ch07_train ch07_evaluate "
        "ch08_preprocess ch08_train@* ch08_evaluate ch08_tasks "
        "ch09_train ch09_evaluate",
    ),
    "device": ("auto", "ch01_evaluate ch07_train ch07_evaluate ch09_train ch09_evaluate"),
    "noise_level": (0.3, "ch06_generate ch06_evaluate@* ch06_plot"),
    "instructions": (
        "native",
        " ".join(
            f"{stage}@*" if "matrix" in entry else stage
            for stage, entry in STAGES.items()
            if not stage.endswith("_download")
        ),
    ),
}

CHAPTERS = {
    "ch01": {
        "recipe": ("book", "benchmark evaluate plot"),
        "num_threads": (3, "benchmark evaluate"),
    },
    "ch02": {
        "recipe": ("book", "generate train evaluate plot"),
        "num_threads": (3, "train evaluate"),
    },
    "ch03": {
        "recipe": ("book", "generate train evaluate plot"),
        "num_threads": (3, "train evaluate"),
    },
    "ch04": {
        "recipe": ("book", "preprocess train evaluate plot"),
        "num_threads": (3, "train evaluate"),
        "runs": (7, "train evaluate"),
        "cv_splits": (7, "preprocess"),
        "cv_repeats": (7, "preprocess"),
    },
    "ch05": {
        "recipe": ("book", "train evaluate plot"),
        "num_threads": (3, "train"),
    },
    "ch06": {
        "recipe": ("book", "preprocess generate train@* evaluate@* noise"),
        "num_threads": (3, "train@* evaluate@* noise"),
        "compared_noise_levels": ([0.123], "noise"),
    },
    "ch07": {
        "recipe": ("book", "preprocess train evaluate plot"),
        "num_threads": (3, "train evaluate"),
    },
    "ch08": {
        "recipe": ("book", "preprocess train@* evaluate tasks plot"),
        "num_threads": (3, "train@* evaluate tasks"),
        "runs": (7, "train@* evaluate"),
        "splits": (7, "preprocess train@*"),
        "best_runs": (7, "train@*"),
        "source": ("planetoid", "download"),
        "batch_nodes": (7, "train@*"),
        "fan_out": (7, "train@*"),
    },
    "ch09": {
        "recipe": ("book", "tokenize train evaluate plot"),
        "corpus": ("opus_books", "download tokenize"),
        "num_threads": (3, "train evaluate"),
        "launcher": ("torchrun --nproc_per_node 2 -m", ""),  # no parameter of a stage, but part of a command
        "split_seed": (1, "tokenize"),
        "val_share": (0.123, "tokenize"),
        "test_share": (0.123, "tokenize"),
    },
}

RECIPES = {  # of the recipe `tuned`, which is the active one; the other recipe's parameters rerun nothing
    "ch01": {
        "matrices": ("ones", "benchmark evaluate plot"),
        "sizes": ([7, 9], "benchmark evaluate"),
        "loops_up_to": (8, "benchmark"),
        "repeats": (11, "benchmark"),
        "warm_ups": (3, "benchmark"),
        "synchronize": (False, "benchmark"),
        "rounding_rows": (3, "evaluate"),
    },
    "ch02": {
        "points": (7, "generate"),
        "slope": (1.23, "generate"),
        "initial_weight": (2.34, "train evaluate"),
        "gradient": ("sum", "train plot"),
        "learning_rate": (0.0123, "train"),
        "numpy_iterations": (11, "train"),
        "autograd_iterations": (11, "train"),
        "difference_step": (0.123, "evaluate plot"),
    },
    "ch03": {
        "activation_points": (77, "evaluate plot"),
        "target_noise": (0.2, "generate"),
        "neuron_rate": (0.123, "train plot"),
        "neuron_steps": (11, "train"),
        "layer_rate": (0.0123, "train"),
        "layer_epochs": (3, "train"),
        "layer_loss": ("sum", "train plot"),
        "xor_hidden": (7, "train"),
        "xor_rate": (0.123, "train"),
        "xor_steps": (11, "train"),
        "xor_runs": (11, "train"),
        "output": ("relu", "train evaluate"),
        "multilayer_rate": (0.123, "train"),
        "multilayer_steps": (11, "train"),
        "multilayer_runs": (3, "train evaluate"),
        "softmax_dim": ("implicit", "evaluate plot"),
        "optimizer_steps": (11, "train"),
        "sgd_rate": (0.0123, "train plot"),
        "adam_rate": (0.0123, "train plot"),
        "adagrad_rate": (0.0123, "train plot"),
    },
    "ch04": {
        "features": ("raw", "preprocess"),
        "target": ("raw", "train evaluate plot"),
        "scaled_on": ("all", "train"),
        "members": (5, "train evaluate"),
        "frequencies": (7, "train evaluate"),
        "frequency_scale": (0.123, "train evaluate"),
        "embedding_size": (3, "train evaluate"),
        "hidden_sizes": ([31], "train evaluate"),
        "activation": ("silu", "train evaluate"),
        "process_share": (0.0, "train evaluate"),
        "process_groups": (["ZN"], "train evaluate"),
        "process_steps": (12, "train"),
        "process_learning_rate": (0.123, "train"),
        "optimizer": ("sgd", "train"),
        "schedule": ("constant", "train"),
        "epochs": (11, "train"),
        "learning_rate": (0.123, "train"),
        "weight_decay": (0.123, "train"),
    },
    "ch05": {
        "lengths": ([7, 9], "train evaluate plot"),
        "symbols": (7, "train evaluate plot"),
        "noise": (0.123, "train evaluate"),
        "runs": (5, "train evaluate"),
        "hidden_size": (7, "train evaluate"),
        "steps": (11, "train"),
        "mode_steps": (11, "train"),
        "batch_size": (31, "train"),
        "learning_rate": (0.123, "train"),
        "schedule": ("constant", "train"),
        "gradient_clip": (1.23, "train"),
        "recurrent_init": ("uniform", "train evaluate"),
        "memory_bias": (1.23, "train evaluate"),
    },
    "ch06": {
        "length": (1234, "generate evaluate@* noise"),
        "duration": (123.0, "generate noise"),
        "test_times": ("same", "generate noise"),
        "window": (77, "preprocess evaluate@* noise"),
        "steps_ahead": (3, "preprocess noise"),
        "windows": ("book", "preprocess noise"),
        "loss_steps": (11, "preprocess noise"),
        "hidden_size": (7, "train@* evaluate@* noise"),
        "num_layers": (3, "train@* evaluate@* noise"),
        "epochs": (11, "train@* noise"),
        "batch_size": (31, "train@* noise"),
        "learning_rate": (0.123, "train@* noise"),
        "schedule": ("constant", "train@* noise"),
        "gradient_clip": (1.23, "train@* noise"),
    },
    "ch07": {
        "validation_images": (1234, "preprocess"),
        "shuffle": (False, "train"),
        "network": ("book", "train evaluate"),
        "widths": ([7, 8, 9], "train evaluate"),
        "dropout": (0.123, "train evaluate"),
        "precision": ("bfloat16", "train"),
        "optimizer": ("adadelta", "train"),
        "schedule": ("constant", "train"),
        "warmup": (0.123, "train"),
        "epochs": (11, "train"),
        "batch_size": (31, "train"),
        "learning_rate": (0.123, "train"),
        "weight_decay": (0.123, "train"),
        "label_smoothing": (0.123, "train plot"),
        "average_decay": (0.123, "train"),
        "rotation": (1.23, "train plot"),
        "translation": (0.123, "train plot"),
        "scaling": (0.123, "train plot"),
        "shear": (1.23, "train plot"),
        "shifted_views": (False, "evaluate plot"),
    },
    "ch08": {
        "features": ("raw", "preprocess"),
        "dense_aggregation": ("sum", "train@* evaluate plot"),
        "hidden_size": (24, "train@*"),
        "heads": (2, "train@*"),
        "initial_weights": ("library", "train@*"),
        "epochs": (15, "train@*"),
        "learning_rate": (0.123, "train@*"),
        "weight_decay": (0.123, "train@*"),
        "decayed": ("all", "train@*"),
        "input_dropout": (0.123, "train@*"),
        "dropout": (0.123, "train@*"),
        "chosen_by": ("last", "train@*"),
        "validate_every": (1, "train@* plot"),
        "propagation_restart": (0.123, "evaluate"),
        "propagation_steps": (11, "evaluate"),
        "best_hidden_size": (24, "train@*"),
        "best_epochs": (15, "train@*"),
        "best_learning_rate": (0.123, "train@*"),
        "best_average_decay": (0.123, "train@*"),
        "samples": (3, "train@*"),
        "restart": (0.123, "train@* evaluate"),
        "hops": (7, "train@* evaluate"),
        "node_dropout": (0.123, "train@*"),
        "temperature": (0.123, "train@*"),
        "consistency": (1.23, "train@*"),
        "warm_up": (11, "train@*"),
        "held_out_links": (0.123, "tasks"),
        "motif_graphs": (77, "tasks"),
        "motif_nodes": (7, "tasks"),
        "link_channels": (7, "tasks"),
        "task_hidden_size": (7, "tasks"),
        "task_learning_rate": (0.123, "tasks"),
        "task_epochs": (11, "tasks"),
    },
    "ch09": {
        "pairs": (77, "tokenize"),
        "tokenizer": ("wordlevel", "tokenize"),
        "vocabulary": (777, "tokenize"),
        "min_frequency": (7, "tokenize"),
        "longest": (77, "tokenize train"),
        "d_model": (64, "train"),
        "layers": (7, "train"),
        "heads": (2, "train"),
        "d_ff": (77, "train"),
        "dropout": (0.123, "train"),
        "tied": (False, "train"),
        "cooccurrence": (False, "train"),
        "epochs": (11, "train"),
        "batch_pairs": (7, "train"),
        "batch_tokens": (0, "train"),
        "learning_rate": (0.123, "train"),
        "schedule": ("constant", "train"),
        "warmup": (0.123, "train"),
        "label_smoothing": (0.123, "train plot"),
        "clip_norm": (1.23, "train"),
        "beta2": (0.97, "train"),
        "averaged_epochs": (2, "train"),
        "precision": ("bfloat16", "train evaluate"),
        "memory_pairs": (7, "evaluate plot"),
        "memory_nearest": (7, "evaluate plot"),
        "memory_temperature": (1.23, "evaluate plot"),
        "memory_reach": (1.23, "evaluate plot"),
        "beams": (7, "evaluate plot"),
        "length_penalty": (0.5, "evaluate plot"),
    },
}


def expanded(stages: str, chapter: str = "") -> set[str]:
    """Return the names behind a cell of the tables above."""
    wanted = {f"{chapter}_{stage}" if chapter else stage for stage in stages.split()}
    return {name for name, (stage, item) in NAMES.items() if (f"{stage}@*" if item else stage) in wanted}


def reruns() -> dict[str, tuple[object, set[str]]]:
    """Return the tables as one: a parameter's full name to another value of it, and the stages that read it."""
    rows = {key: (value, expanded(stages)) for key, (value, stages) in SHARED.items()}
    for chapter, table in CHAPTERS.items():
        rows |= {f"{chapter}.{key}": (value, expanded(stages, chapter)) for key, (value, stages) in table.items()}
        for key, (value, stages) in RECIPES[chapter].items():
            tuned, book = PARAMS[chapter]["tuned"][key], PARAMS[chapter]["book"][key]
            rows[f"{chapter}.tuned.{key}"] = (value, expanded(stages, chapter))
            rows[f"{chapter}.book.{key}"] = (tuned if tuned != book else value, set())
    return rows


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    """Return the parameters in nested `values`, dotted name to value."""
    found = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


class Pipeline:
    """The pipeline by itself, as if reproduced; parameters are changed there, and DVC is asked what it thinks."""

    def __init__(self, root: Path):
        from dvc.repo import Repo

        self.root = root
        shutil.copy(ROOT / "dvc.yaml", root)
        # A lock of the parameters as they are now: whether the real one is up to date, other tests say.
        stages = {}
        for name, (stage, item) in NAMES.items():
            read = [resolve(parameter, PARAMS) for parameter in STAGES[stage].get("params", [])]
            params = {"params.yaml": {parameter: leaves(PARAMS)[parameter] for parameter in read}}
            stages[name] = {"cmd": resolve(STAGES[stage]["cmd"], {**PARAMS, "item": item}), "params": params}
        lock = yaml.safe_dump({"schema": "2.0", "stages": stages})
        (root / "dvc.lock").write_text(lock, encoding="utf-8")
        with contextlib.chdir(root):
            Repo.init(no_scm=True).close()

    def readers(self, changes: dict[str, object]) -> dict[str, set[str]]:
        """Change parameters; return those that `dvc status` then calls changed, each with the stages it says so of."""
        from dvc.repo import Repo

        values = copy.deepcopy(PARAMS)
        for name, value in changes.items():
            *path, key = name.split(".")
            section = values
            for part in path:
                section = section[part]
            assert section[key] != value, f"{name} is {value} already: write another value into its row"
            section[key] = value
        assert first_problem(values) is None
        (self.root / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        readers: dict[str, set[str]] = {}
        with contextlib.chdir(self.root), Repo(".") as repo:
            self.edges = {(stage.addressing, dependency.addressing) for stage, dependency in repo.index.graph.edges}
            for stage, entries in repo.status().items():
                for entry in entries:
                    if entry == "changed command":
                        readers.setdefault("changed command", set()).add(stage)
                        continue
                    for parameter in dict(entry).get("changed deps", {}).get("params.yaml", {}):
                        readers.setdefault(parameter, set()).add(stage)
        return readers

    def downstream(self, stages: set[str]) -> set[str]:
        """Return `stages` and all that depend on what they write, by the graph of DVC's last answer."""
        found = set(stages)
        while more := {stage for stage, dependency in self.edges if dependency in found} - found:
            found |= more
        return found


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("site")))
        yield Pipeline(tmp_path_factory.mktemp("pipeline"))


def test_every_parameter_has_its_row():
    assert sorted(reruns()) == sorted(leaves(PARAMS))


def test_a_change_reruns_the_stages_that_read_it(pipeline):
    """All parameters at once, because DVC names for each stage the very keys that changed, and takes 1 s to do it."""
    rows = {name: row for name, row in reruns().items() if not name.endswith(".recipe")}
    readers = pipeline.readers({name: value for name, (value, _) in rows.items()})
    assert readers.pop("changed command") == expanded("ch09_train")
    assert readers == {name: stages for name, (_, stages) in rows.items() if stages}


def test_no_two_parameters_of_a_chapter_have_one_name():
    """MLflow has them by the last part of their name."""
    for stage in STAGES:
        chapter = stage.split("_")[0]
        names = {name for name in leaves(PARAMS) if name.split(".")[0] in (chapter, *SHARED)}
        own = [name.split(".")[-1] for name in names if ".book." not in name]
        assert sorted(own) == sorted(set(own))


def test_another_launcher_reruns_the_training_it_launches(pipeline):
    readers = pipeline.readers({"ch09.launcher": "torchrun --nproc_per_node 2 -m"})
    assert readers == {"changed command": expanded("ch09_train")}


def test_another_recipe_reruns_the_stages_that_read_one(pipeline):
    rows = {name: row for name, row in reruns().items() if name.endswith(".recipe")}
    readers = pipeline.readers({name: value for name, (value, _) in rows.items()})
    assert {name: readers[name] for name in rows} == {name: stages for name, (_, stages) in rows.items()}
    # The other changed keys are those of the recipes now active: no stage reads one of an inactive recipe.
    assert {name.split(".")[1] for name in set(readers) - set(rows)} == {"book"}


def test_noise_level_reruns_chapter_6_alone(pipeline):
    readers = pipeline.readers({"noise_level": 0.3})
    assert readers == {"noise_level": expanded("ch06_generate ch06_evaluate@* ch06_plot")}
    assert pipeline.downstream(readers["noise_level"]) == expanded(
        "ch06_generate ch06_preprocess ch06_train@* ch06_evaluate@* ch06_plot"
    )


def test_epochs_of_chapter_7_rerun_neither_download_nor_preprocess(pipeline):
    readers = pipeline.readers({"ch07.tuned.epochs": 11})
    assert readers == {"ch07.tuned.epochs": {"ch07_train"}}
    assert pipeline.downstream({"ch07_train"}) == {"ch07_train", "ch07_evaluate", "ch07_plot"}


def test_the_other_recipe_reruns_nothing(pipeline):
    assert pipeline.readers({"ch06.book.window": 77, "ch07.book.epochs": 11}) == {}


# What git holds


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.rstrip("\0").split("\0")


@needs_git
def test_git_tracks_no_data_and_no_store(tracked):
    kept_out = r"data/|mlflow\.db|\.mlflow\.lock|mlartifacts/|mlruns/|\.venv/|\.checkpoints/|\.dvc/(cache|tmp)/"
    assert [path for path in tracked if re.match(kept_out, path)] == []


@needs_git
def test_git_tracks_the_metrics_and_plots_and_no_other(tracked):
    kept = [path for path in tracked if path.startswith("metrics/") and not path.startswith("metrics/book/")]
    assert sorted(kept) == sorted(path for name in NAMES for path in results(name))


@needs_git
def test_no_package_index_and_no_path_of_a_machine(tracked):
    # Joined here, so that this file doesn't hold them.
    hosts = ["pypi" + ".org", "files.pythonhosted" + ".org", "registry.npmjs" + ".org", "registry.yarnpkg" + ".com"]
    forbidden = [text.encode() for text in [*hosts, "/work" + "/", "/root" + "/"]]
    found = [
        f"{path}: {text.decode()}"
        for path in tracked
        if (ROOT / path).is_file()
        for text in forbidden
        if text in (ROOT / path).read_bytes()
    ]
    assert found == []
