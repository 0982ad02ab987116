"""Prepare Boston Housing: features, prices, the book's split, and folds for cross-validation (fig. 39).

In: data/raw/ch04/boston_house_prices.csv. Out: data/prepared/ch04/housing.npz with `names` (13,),
`features` (rows, 13), `prices` (rows,) in 1,000 dollars, `train_rows` and `test_rows` of the book's split, and `folds`
(repeats, rows): in which fold of a repeat a row is held out. Nothing is fitted here: means and deviations belong to the
rows that a network is trained on, and so to training.
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, train_test_split

from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters
from stages.common.seeds import seed_of

TABLE = "data/raw/ch04/boston_house_prices.csv"
HOUSING = "data/prepared/ch04/housing.npz"
TARGET = "MEDV"  # the book calls this column PRICES
TEST_SHARE, BOOK_RANDOM_STATE = 0.2, 99  # fig. 39: always the same 102 rows, so that results compare


def transformed(table: pd.DataFrame, features: str) -> pd.DataFrame:
    """Return the 13 feature columns "raw", or with the long-tailed ones on a "log" scale; each row by itself.

    B = 1000·(Bk − 0.63)² lies close to its upper end, 396.9, in most rows: the logarithm is of the distance to 400.
    """
    table = table.astype(float)
    if features == "raw":
        return table
    for name in ("CRIM", "DIS", "LSTAT"):
        table[name] = np.log(table[name])
    table["ZN"] = np.log1p(table["ZN"])  # zero in most rows
    table["B"] = np.log(400 - table["B"])
    return table


def held_out_folds(rows: int, splits: int, repeats: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return (repeats, rows): the number of the fold in which each row is held out, shuffled anew for each repeat.

    With `groups`, a number for each row, all rows of a group are held out together.
    """
    splitters = KFold if groups is None else GroupKFold
    folds = np.empty((repeats, rows), dtype=np.int64)
    for repeat in range(repeats):
        splitter = splitters(splits, shuffle=True, random_state=seed_of(seed, repeat) % 2**32)  # it takes 32 bits
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(rows), groups=groups)):
            folds[repeat, held_out] = fold
    return folds


def main() -> None:
    parameters = declared_parameters("ch04_preprocess")
    chapter = parameters.ch04
    table = pd.read_csv(TABLE, skiprows=1)  # the first line holds the counts
    features = transformed(table.drop(columns=TARGET), chapter.active.features)
    train_rows, test_rows = train_test_split(
        np.arange(len(table)), test_size=TEST_SHARE, random_state=BOOK_RANDOM_STATE
    )
    save_arrays(
        HOUSING,
        names=np.array(features.columns, dtype=np.str_),
        features=features.to_numpy(),
        prices=table[TARGET].to_numpy(),
        train_rows=train_rows,
        test_rows=test_rows,
        folds=held_out_folds(len(table), chapter.cv_splits, chapter.cv_repeats, parameters.seed),
    )


if __name__ == "__main__":
    main()
