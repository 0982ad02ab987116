"""Chapter 8, step 1: Cora, 2,708 papers on machine learning, the words in each and who cites whom.

In: nothing but the network or `DATA_MIRROR`. Out: `data/raw/ch08/`, the papers (id, subject, 1,433 words as 0 or 1) and
the citations (citing and cited id) as Parquet files: the graph of the book's `Planetoid(name='Cora')` (fig. 85), which
`ch08.source: planetoid` takes from the very files that this class reads.

The wheel that the files come in is only downloaded; nothing of it is installed or run.
"""

import sys
from pathlib import Path

from stages.common.download import DataFile, PyPISource, run_step
from stages.common.params import declared_parameters

DESTINATION = Path("data/raw/ch08")
PACKAGE = "graphdatascience==2.2"

SHA256 = {
    "cora_nodes.parquet.gzip": "c54c0625af98570287dcb25e9f29e0b229948352a8de1dbf202fa39f36bfe591",
    "cora_rels.parquet.gzip": "e0059f81e607c0262e93fbe3c77950b06098dab167f0071cba97a82c9440ca01",
}

FILES = [
    DataFile(
        name=name.removesuffix(".gzip"),  # Parquet that is compressed inside; as a name .gzip says more than is true
        sha256=sha256,
        sources=(PyPISource(PACKAGE, member=f"graphdatascience/resources/cora/{name}"),),
    )
    for name, sha256 in SHA256.items()
]


def main() -> int:
    if declared_parameters("ch08_download").ch08.source == "planetoid":
        from stages.ch08_graphs import planetoid

        return planetoid.run(DESTINATION)
    return run_step(FILES, DESTINATION)


if __name__ == "__main__":
    sys.exit(main())
