"""The number of cores, and of threads that a user has set, change no result: num_threads in params.yaml counts."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from stages.ch08_graphs import evaluate, tasks
from tests.conftest import ROOT

# Large enough that the libraries share the work among threads.
PROGRAM = """
import hashlib

import numpy as np
from threadpoolctl import threadpool_info

from stages.ch09_translation.cooccurrence import cooccurrence_vectors
from stages.common.devices import set_up_torch

set_up_torch(0, 2)
assert {library["num_threads"] for library in threadpool_info()} == {2}
generator = np.random.default_rng(0)
src, tgt = ([generator.integers(1000, size=12).tolist() for _ in range(3000)] for _ in range(2))
vectors = cooccurrence_vectors(src, tgt, 1000, 1000, 128, 0)
print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in vectors))
"""


@pytest.fixture(scope="module")
def expected() -> str:
    return hashes(2)


def hashes(threads: int) -> str:
    """Return what PROGRAM prints where a user has told all libraries to take so many threads."""
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment = {**inherited, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_a_users_own_change_no_byte(expected, threads):
    assert hashes(threads) == expected


class Estimator:
    """Stands in for scikit-learn's, and keeps how many threads their loops would have, whatever n_jobs says."""

    def __init__(self, *_, **__):
        pass

    def fit_transform(self, values: np.ndarray) -> np.ndarray:
        seen.append({library["num_threads"] for library in threadpool_info() if library["user_api"] == "openmp"})
        return values[:, :2]

    def fit_predict(self, values: np.ndarray) -> np.ndarray:
        return self.fit_transform(values)[:, 0]


seen: list[set[int]] = []


def test_what_adds_up_by_chance_with_three_threads_has_one(monkeypatch):
    seen.clear()
    monkeypatch.setattr(evaluate, "TSNE", Estimator)
    monkeypatch.setattr(tasks, "KMeans", Estimator)
    values = np.arange(20.0).reshape(5, 4)

    def measure() -> None:
        with threadpool_limits(4):
            evaluate.embed(values, 0)
            tasks.cluster_agreement(values, np.arange(5), 0)

    # Beside the main thread, as in the evaluation: a thread has a number of its own.
    ThreadPoolExecutor(1).submit(measure).result()
    assert seen == [{1}, {1}]
