"""Read MNIST's files into arrays, and hold some training pictures out (fig. 76, first half).

In: data/raw/ch07/*, IDX files. Out: data/prepared/ch07/mnist.npz with `train_images`, `validation_images` and
`test_images` (pictures, 28, 28) as bytes, and `train_labels`, `validation_labels`, `test_labels` (pictures,). Bytes are
four times smaller than the floats that a network takes, which are one product away.
"""

from pathlib import Path

import numpy as np

from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters

RAW = Path("data/raw/ch07")
MNIST = "data/prepared/ch07/mnist.npz"
IMAGES_MAGIC, LABELS_MAGIC = 2051, 2049


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: a header of big-endian 32-bit numbers (magic, then each dimension), then the values.

    Raises:
        ValueError: if it is no such file, or not as long as its header says.
    """
    content = path.read_bytes()
    magic = int.from_bytes(content[:4], "big")
    if magic not in (IMAGES_MAGIC, LABELS_MAGIC):
        raise ValueError(f"{path} is no IDX file of bytes: it begins with {magic}")
    dimensions = magic & 0xFF
    shape = tuple(np.frombuffer(content, ">i4", dimensions, offset=4))
    values = np.frombuffer(content, np.uint8, offset=4 * (1 + dimensions))
    if values.size != np.prod(shape):
        raise ValueError(f"{path} holds {values.size} values where its header says {shape}")
    return values.reshape(shape)


def hold_out(pictures: int, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on, in their order, and `validation` rows drawn at random to be held out."""
    held_out = np.sort(np.random.default_rng(seed).permutation(pictures)[:validation])
    return np.setdiff1d(np.arange(pictures), held_out), held_out


def main() -> None:
    parameters = declared_parameters("ch07_preprocess")
    images, labels = read_idx(RAW / "train-images-idx3-ubyte"), read_idx(RAW / "train-labels-idx1-ubyte")
    train, validation = hold_out(len(images), parameters.ch07.active.validation_images, parameters.seed)
    save_arrays(
        MNIST,
        train_images=images[train],
        train_labels=labels[train],
        validation_images=images[validation],
        validation_labels=labels[validation],
        test_images=read_idx(RAW / "t10k-images-idx3-ubyte"),
        test_labels=read_idx(RAW / "t10k-labels-idx1-ubyte"),
    )


if __name__ == "__main__":
    main()
