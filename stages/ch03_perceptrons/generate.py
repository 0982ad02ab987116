"""Generate the data that chapter 3's networks learn from; the book prints none.

In: parameters only. Out: data/raw/ch03/patterns.npz, float32, with `<name>_inputs` (patterns, in) and `<name>_targets`
(patterns, out) of

    neuron        two correlated inputs, one target: small enough to draw the loss over both weights (fig. 29)
    layer         20 inputs, 5 targets: the network of fig. 32
    xor           the four points of exclusive or, which one layer can't learn
    train, test   100 inputs, one target of either sign: the network of fig. 33
    fit, fresh    1,000 random inputs, 10 random targets, 64 patterns: the training of fig. 35, as its
                  notebook simple_nn.ipynb has it, and as many new ones
"""

import numpy as np

from stages.common.arrays import save_arrays
from stages.common.params import declared_parameters

PATTERNS = "data/raw/ch03/patterns.npz"


def linear_patterns(
    generator: np.random.Generator, inputs: np.ndarray, outputs: int, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return `inputs` (patterns, in), and targets (patterns, outputs) of variance about 1 that depend on them linearly,
    with noise of standard deviation `noise`."""
    weights = generator.standard_normal((inputs.shape[1], outputs)) / np.sqrt(inputs.shape[1])
    targets = inputs @ weights + noise * generator.standard_normal((len(inputs), outputs))
    return inputs, targets


def draw_patterns(seed: int, noise: float) -> dict[str, np.ndarray]:
    """Return the arrays of the module's docstring."""
    generator = np.random.default_rng(seed)
    correlated = generator.standard_normal((40, 2)) @ np.array([[1.2, 0.6], [0.0, 0.5]])
    pairs = {
        "neuron": linear_patterns(generator, correlated, 1, noise),
        "layer": linear_patterns(generator, generator.standard_normal((64, 20)), 5, noise),
        "xor": (np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])),
    }
    inputs, targets = linear_patterns(generator, generator.standard_normal((2000, 100)), 1, noise)
    pairs |= {"train": (inputs[:1000], targets[:1000]), "test": (inputs[1000:], targets[1000:])}
    for name in ("fit", "fresh"):
        pairs[name] = (generator.standard_normal((64, 1000)), generator.standard_normal((64, 10)))
    arrays = {}
    for name, (first, second) in pairs.items():
        arrays |= {f"{name}_inputs": first.astype(np.float32), f"{name}_targets": second.astype(np.float32)}
    return arrays


def main() -> None:
    parameters = declared_parameters("ch03_generate")
    arrays = draw_patterns(parameters.seed, parameters.ch03.active.target_noise)
    save_arrays(PATTERNS, **arrays)


if __name__ == "__main__":
    main()
