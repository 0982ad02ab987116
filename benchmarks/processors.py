"""Whether the stages give the same bytes on the processors of other makers: `python -m benchmarks.processors`.

QEMU plays the processors (Debian's package qemu-user of version 10, since 7.2 crashes in recurrent cells and in
convolutions; only on Linux and x86-64). It tells the libraries another maker and other instructions, by which they
choose their ways, and computes exactly; where a real processor only makes a first guess, of a reciprocal or of a root,
QEMU's guess is another one, too. It is a hundred times slower, so that the stages run with small settings, on part of
their data, which `dvc repro` has left: a quarter of an hour for a processor. Left out are downloads, plots,
ch01_benchmark, ch05_evaluate, ch06_noise, ch07_preprocess and ch09_evaluate.

Printed, for each stage and processor: the files that differ from those of this processor, if any. What a stage reads
comes from this processor. Exit status 1 if a file differs.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from stages.common.arrays import save_arrays
from stages.common.files import file_hash
from stages.common.params import PARAMS_FILE, read_yaml

PROCESSORS = ["Haswell-noTSX", "EPYC-Rome"]
SMALL = {
    "ch03": {"tuned": {"xor_steps": 20, "optimizer_steps": 20, "multilayer_steps": 10}},
    "ch04": {"runs": 2, "cv_splits": 2, "cv_repeats": 1, "tuned": {"members": 1, "epochs": 10, "process_steps": 3}},
    "ch05": {"tuned": {"lengths": [5], "runs": 2, "steps": 3, "mode_steps": 4}},
    "ch06": {"tuned": {"length": 400, "epochs": 1}},
    "ch07": {
        "num_threads": 1,
        "tuned": {"validation_images": 64, "epochs": 1, "batch_size": 32},
    },
    "ch08": {
        "runs": 2,
        "splits": 2,
        "best_runs": 2,
        "tuned": {"epochs": 5, "best_epochs": 5, "task_epochs": 3, "motif_graphs": 10},
    },
    "ch09": {"tuned": {"pairs": 400, "epochs": 1, "d_model": 32, "d_ff": 64}},
}
STAGES = [
    *("ch01_tensors.evaluate", "ch02_autograd.generate", "ch02_autograd.train", "ch02_autograd.evaluate"),
    *("ch03_perceptrons.generate", "ch03_perceptrons.train", "ch03_perceptrons.evaluate"),
    *("ch04_housing.preprocess", "ch04_housing.train", "ch04_housing.evaluate"),
    "ch05_recurrent_cells.train",
    *("ch06_timeseries.generate", "ch06_timeseries.preprocess"),
    *(f"ch06_timeseries.{step} {cell}" for step in ("train", "evaluate") for cell in ("rnn", "lstm")),
    *("ch07_mnist.train", "ch07_mnist.evaluate"),
    "ch08_graphs.preprocess",
    *(f"ch08_graphs.train {layer}" for layer in ("mlp", "dense", "gcn", "sage", "gat", "gin", "cheb", "best")),
    *("ch08_graphs.evaluate", "ch08_graphs.tasks"),
    *("ch09_translation.tokenize", "ch09_translation.train"),
]
OUTPUTS = ("data", "metrics")
IMAGES = 256  # of MNIST's training images, and of its test images: 8 steps, and the average follows every fifth


def changed(values: dict, changes: dict) -> dict:
    """Return `values` with `changes`, both of them nested."""
    inner = {key: changed(values[key], value) for key, value in changes.items() if isinstance(value, dict)}
    return {**values, **changes, **inner}


def in_small(parameters: dict) -> dict:
    """Return the parameters with the tuned recipes, and these small."""
    chapters = [name for name, section in parameters.items() if isinstance(section, dict) and "recipe" in section]
    return changed(changed(parameters, {name: {"recipe": "tuned"} for name in chapters}), SMALL)


def prepare(folder: Path) -> None:
    """Put the stages, small parameters and data into the folder."""
    shutil.copytree("stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    parameters = in_small(read_yaml(PARAMS_FILE))
    (folder / PARAMS_FILE).write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
    shutil.copy("dvc.yaml", folder)
    shutil.copytree("data/raw", folder / "data/raw")
    with np.load("data/prepared/ch07/mnist.npz") as arrays:
        few = {name: array[: 64 if "val" in name else IMAGES] for name, array in arrays.items()}
    (folder / "data/prepared/ch07").mkdir(parents=True)
    save_arrays(folder / "data/prepared/ch07/mnist.npz", **few)


def outputs(folder: Path) -> dict[str, str]:
    """Return path to hash of all that the stages made in the folder, but times."""
    files = [path for output in OUTPUTS for path in (folder / output).rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): file_hash(path, "sha256") for path in files if "timings" not in path.parts
    }


def run(folder: Path, stage: str, emulator: Sequence[str] = ()) -> str:
    """Run a stage in the folder, on this processor or on one that QEMU plays; return what it failed with, if so."""
    command = [*emulator, sys.executable, "-m", *f"stages.{stage}".split()]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    environment = {**own, "PYTHONPATH": str(folder)}  # nothing of this goes to a server that a class records on
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    # A group of its own, so that the stage's own processes end with this program, too.
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes) as process:
        try:
            _, errors = process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return (errors.splitlines() or [f"exit status {process.returncode}"])[-1] if process.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulator", default="qemu-x86_64", help="its program")
    parser.add_argument("--processors", nargs="*", default=PROCESSORS, metavar="NAME", help="as of -cpu help")
    parser.add_argument(
        "--stages", nargs="+", default=[], metavar="TEXT", help="only those whose name has one of these"
    )
    options = parser.parse_args()
    stages = [stage for stage in STAGES if any(map(stage.__contains__, options.stages or [""]))]
    if not stages:
        parser.error(f"no stage has one of {', '.join(options.stages)} in its name")
    if shutil.which(options.emulator) is None:
        raise SystemExit(f"{options.emulator} isn't installed")
    status = 0
    with tempfile.TemporaryDirectory() as base:
        here = Path(base, "here")
        prepare(here)
        for number, stage in enumerate(STAGES):
            chapter = stage.split("_")[0]
            if not any(other in stages and other.startswith(chapter) for other in STAGES[number:]):
                continue  # none of those asked for needs it
            folders = {processor: Path(base, processor) for processor in options.processors if stage in stages}
            for folder in folders.values():  # with what the stage reads: no stage changes a file, but MLflow its own
                shutil.copytree(
                    here, folder, copy_function=os.link, ignore=shutil.ignore_patterns("mlflow*", "mlartifacts", ".*")
                )
            if error := run(here, stage):
                raise SystemExit(f"{stage} on this processor: {error}")
            made = outputs(here)
            for processor, folder in folders.items():
                started = time.perf_counter()
                error = run(folder, stage, [options.emulator, "-cpu", processor])
                found = outputs(folder)
                result = [error] if error else sorted(path for path in made if found.get(path) != made[path])
                status = status or bool(result)
                seconds = time.perf_counter() - started
                print(f"{stage:34}{processor:28}{seconds:6.0f} s", *result or ["same"], flush=True)
                shutil.rmtree(folder)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
