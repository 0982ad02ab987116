"""Settings of chapter 8's best network compared by validation papers: `python -m benchmarks.graph_best_choice`.

Needs data/prepared/ch08: dvc repro ch08_preprocess. Each of SETTINGS, which replace parameters of the tuned recipe,
trains --runs networks on the public split and one on each of as many random splits. The highest mean validation
accuracy on the public split wins; only then are the test papers looked at, with networks from other seeds than those
that took part in the choice. The random splits have no say: most of the public test papers are validation papers in
one of them. They show which settings now and then fail.
"""

import argparse
import time
from functools import partial

import numpy as np
import torch

from benchmarks.shared import tuned_chapter
from stages.ch08_graphs.evaluate import group_weights
from stages.ch08_graphs.layers import build_graph
from stages.ch08_graphs.networks import accuracies_at, predictor
from stages.ch08_graphs.preprocess import GRAPH
from stages.ch08_graphs.train import GROUPS, parts_of, train_group
from stages.common.devices import in_processes, set_up_torch
from stages.common.memory import keep_freed_memory

CHOICE_SEED, TEST_SEED = 1, 2
SETTINGS: dict[str, dict[str, float]] = {
    "as in params.yaml": {},
    "warm-up 100": {"warm_up": 100},
    "consistency 2": {"consistency": 2.0},
    "consistency 1.5": {"consistency": 1.5},
    "restart 0.2": {"restart": 0.2},
}


def accuracies_of(group: str, runs: int, recipe: dict, seed: int, part: str) -> np.ndarray:
    """Train `runs` networks of a group; return the accuracy of each at its nodes of a part, (runs,)."""
    keep_freed_memory()
    of_training = ("weight_decay", "decayed", "chosen_by", "validate_every")
    dropouts = ("input_dropout", "dropout", "node_dropout")
    of_losses = (*dropouts, "samples", "restart", "hops", "temperature", "consistency", "warm_up")
    losses = {name: recipe[name] for name in of_losses}
    training = {
        **{name: recipe[name] for name in of_training},
        "epochs": recipe["best_epochs"],
        "learning_rate": recipe["best_learning_rate"],
        "average_decay": recipe["best_average_decay"],
    }
    shape = {"hidden_size": recipe["best_hidden_size"], **{name: recipe[name] for name in ("heads", "initial_weights")}}
    options = {**shape, "losses": losses, "training": training, "batch_nodes": 0, "fan_out": 0}
    arrays, _ = train_group(group, "best", seed, {group: runs}, **options)
    weights = group_weights({name: torch.from_numpy(value) for name, value in arrays.items()}, group)
    with np.load(GRAPH) as loaded:
        arrays = dict(loaded)
    logits = predictor("best", recipe["restart"], recipe["hops"])(build_graph(arrays), weights)
    return accuracies_at(logits, torch.from_numpy(arrays["labels"]), parts_of(arrays, group, runs)[part]).numpy()


def measure(runs: int, recipe: dict, seed: int, part: str) -> list[np.ndarray]:
    """Return `accuracies_of` both groups, the public split first."""
    job = partial(accuracies_of, runs=runs, recipe=recipe, seed=seed, part=part)
    return list(in_processes(job, GROUPS, len(GROUPS)))


def shown(accuracies: list[np.ndarray]) -> str:
    return ", ".join(
        f"{group} {own.mean():.4f} ± {own.std(ddof=1):.4f}, at least {own.min():.3f}"
        for group, own in zip(GROUPS, accuracies, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="networks of each group")
    runs = parser.parse_args().runs
    parameters = tuned_chapter("ch08")
    if not 2 <= runs <= parameters["splits"]:
        parser.error(f"--runs {runs}: must be from 2, for a spread, to ch08.splits, {parameters['splits']}")
    set_up_torch(0, 1)
    tuned = parameters["tuned"]
    found = {}
    for name, changed in SETTINGS.items():
        started = time.perf_counter()
        accuracies = measure(runs, {**tuned, **changed}, CHOICE_SEED, "val")
        found[name] = accuracies[0].mean()
        seconds = time.perf_counter() - started
        print(f"{name:18} validation: {shown(accuracies)} ({seconds:.0f} s)", flush=True)
    chosen = max(found, key=found.get)
    accuracies = measure(runs, {**tuned, **SETTINGS[chosen]}, TEST_SEED, "test")
    print(f"chosen: {chosen}; test, {runs} other runs each: {shown(accuracies)}")


if __name__ == "__main__":
    main()
