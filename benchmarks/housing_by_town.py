"""Chapter 4's R² for groups of districts of which no row was trained on, beside that for rows held out at random.

    python -m benchmarks.housing_by_town      # needs data/raw/ch04: dvc repro ch04_download

The groups are those of the default recipe's `process_groups`: rows alike in columns that are of a whole town, or of a
part of it. Both recipes and their peers are fitted to the same folds. Of the 506 rows 404 are those that the default
recipe was chosen on.
"""

import argparse

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

from benchmarks.housing_shares import scores_on_folds, trained_on_folds
from stages.ch04_housing.evaluate import fold_scores, peer_predictions
from stages.ch04_housing.preprocess import TABLE, TARGET, held_out_folds, transformed
from stages.ch04_housing.train import fold_splits
from stages.common.devices import set_up_torch
from stages.common.params import PARAMS_FILE, read_yaml


def recipe_scores(table: pd.DataFrame, recipe: dict, splits: list, seed: int, processes: int) -> np.ndarray:
    """Return R² of a recipe's networks on the held-out rows of each fold, (folds,)."""
    features, prices = transformed(table.drop(columns=TARGET), recipe["features"]), table[TARGET].to_numpy(copy=True)
    values = features.to_numpy()
    model = trained_on_folds(recipe, list(features), values, prices, splits, seed, processes)
    return scores_on_folds(model, values, prices, splits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    set_up_torch(arguments.seed, num_threads=1)
    table = pd.read_csv(TABLE, skiprows=1)
    chapter = read_yaml(PARAMS_FILE)["ch04"]
    groups = table.groupby(chapter["tuned"]["process_groups"]).ngroup().to_numpy()
    folding = (len(table), arguments.splits, arguments.repeats, arguments.seed)
    ways = {
        "rows at random": held_out_folds(*folding),
        "whole groups": held_out_folds(*folding, groups),
    }
    peers = {
        "gradient boosting": GradientBoostingRegressor(random_state=arguments.seed),
        "random forest": RandomForestRegressor(random_state=arguments.seed),
    }
    print(f"R² of {arguments.repeats * arguments.splits} folds, mean ± standard deviation; {groups.max() + 1} groups")
    for way, folds in ways.items():
        splits = fold_splits(folds)
        scores = {
            f"recipe {name}": recipe_scores(table, chapter[name], splits, arguments.seed, arguments.processes)
            for name in ("book", "tuned")
        }
        features, prices = table.drop(columns=TARGET).to_numpy(dtype=float), table[TARGET].to_numpy()
        found = peer_predictions(peers, features, prices, [rows for rows, _ in splits], arguments.processes)
        scores |= {name: fold_scores(prices, splits, predictions) for name, predictions in found.items()}
        for name, own in scores.items():
            print(f"{way:15s} {name:18s} {own.mean():.3f} ± {own.std(ddof=1):.3f}", flush=True)


if __name__ == "__main__":
    main()
