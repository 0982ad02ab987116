"""Chapter 4's choice of `process_share`: cross-validated R² within the book's training rows, share by share.

    python -m benchmarks.housing_shares      # needs data/prepared/ch04: dvc repro ch04_preprocess

The test rows take no part. Every repeat cuts the training rows anew into folds; networks and Gaussian process are
trained once a fold, as the stage trains them, and mixed with each share. The shares are compared on the same folds.
With `--without-groups` no rows share an effect, as with `process_groups: []`.
"""

import argparse
from collections.abc import Sequence
from inspect import signature

import numpy as np
import torch

from benchmarks.shared import tuned_chapter
from stages.ch04_housing.evaluate import fold_scores
from stages.ch04_housing.model import HousingModel, model_shape
from stages.ch04_housing.preprocess import held_out_folds
from stages.ch04_housing.train import HOUSING, fold_splits, train, train_in_parts
from stages.common.devices import set_up_torch

SHARES = [0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


def trained_on_folds(
    recipe: dict,
    names: Sequence[str],
    features: np.ndarray,
    prices: np.ndarray,
    splits: list,
    seed: int,
    processes: int,
) -> HousingModel:
    """Return the networks of a recipe, a run for each of `splits`, trained on its rows as the stage trains them."""
    own, options = (
        {name: recipe[name] for name in signature(function).parameters if name in recipe and name != "features"}
        for function in (HousingModel, train)
    )
    shape = model_shape(own, names, len(prices))
    groups = {"folds": [learnt for learnt, _ in splits]}
    features, prices = torch.from_numpy(features), torch.from_numpy(prices)
    return train_in_parts(features, prices, groups, seed, processes, shape, options)["folds"][0].eval()


@torch.no_grad()
def scores_on_folds(model: HousingModel, features: np.ndarray, prices: np.ndarray, splits: list) -> np.ndarray:
    """Return R² of each fold's networks on its held-out rows, (folds,)."""
    found = model(torch.from_numpy(features).float().expand(len(splits), -1, -1)).numpy()
    return fold_scores(prices, splits, found)


def scores_by_share(repeats: int, splits: int, seed: int, processes: int, without_groups: bool) -> np.ndarray:
    """Return R² on the held-out rows of every fold, (repeats, splits, shares)."""
    recipe = tuned_chapter("ch04")["tuned"]
    recipe["process_share"] = 1.0  # any but 0, which would leave the process out
    if without_groups:
        recipe["process_groups"] = []
    with np.load(HOUSING) as housing:
        names, rows = housing["names"], np.sort(housing["train_rows"])
        features, prices = housing["features"][rows], housing["prices"][rows]
    folds = fold_splits(held_out_folds(len(rows), splits, repeats, seed))
    model = trained_on_folds(recipe, names, features, prices, folds, seed, processes)
    scores = []
    for model.process_share in SHARES:
        scores.append(scores_on_folds(model, features, prices, folds))
    return np.array(scores).T.reshape(repeats, splits, len(SHARES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--without-groups", action="store_true")
    arguments = parser.parse_args()
    if arguments.repeats < 2:
        parser.error("a standard error needs --repeats of 2 or more")
    set_up_torch(arguments.seed, num_threads=1)
    scores = scores_by_share(**vars(arguments)).mean(axis=1)  # (repeats, shares)
    best = scores.mean(axis=0).argmax()
    print("share of the process, R², and how much less than the best share, with the standard error over the repeats")
    for share, own in zip(SHARES, scores.T, strict=True):
        less = scores[:, best] - own
        print(f"{share:.1f}  {own.mean():.4f}  {less.mean():.4f} ± {less.std(ddof=1) / len(less) ** 0.5:.4f}")


if __name__ == "__main__":
    main()
