"""Compare chapter 5's cells with PyTorch's, and measure what its networks recall, and how far their gradients reach.

In: data/models/ch05/<cell>.safetensors of the three cells. Out: metrics/ch05/<cell>.json, metrics/facts/ch05.json with
every statement and whether it holds, and data/evaluated/ch05/gradients.npz with the gradients' norms by distance, as
<cell>_untrained and <cell>_trained (runs, time), of the networks for the longest recall.
"""

import numpy as np
import torch
from safetensors.torch import load_file

from stages.ch05_recurrent_cells.facts import all_facts, differences
from stages.ch05_recurrent_cells.model import LAYERS, RecurrentNetwork
from stages.ch05_recurrent_cells.tasks import MODES, Batch, draw_recall, loss_of
from stages.ch05_recurrent_cells.train import model_path
from stages.common.arrays import save_arrays
from stages.common.devices import set_up_torch
from stages.common.files import rounded, write_json
from stages.common.params import declared_parameters
from stages.common.seeds import RUNS, seed_of

GRADIENTS = "data/evaluated/ch05/gradients.npz"
TEST_SEQUENCES = 2000
SOLVED = 0.9  # share of sequences recalled from which on a length counts as remembered


def held_out_generator(seed: int) -> torch.Generator:
    """Return what test sequences are drawn by: a seed that no training beside it has.

    In many to one, 11 votes, there are but 2,048 sequences, nearly all of which training draws as well.
    """
    return torch.Generator().manual_seed(seed_of(seed + RUNS, 0))


def loaded(network: RecurrentNetwork, weights: dict[str, torch.Tensor], name: str) -> RecurrentNetwork:
    """Give `network` the weights that bear `name` in a model file."""
    network.load_state_dict({k.partition(".")[2]: v for k, v in weights.items() if k.partition(".")[0] == name})
    return network.eval()


def gradient_norms(network: RecurrentNetwork, batch: Batch) -> np.ndarray:
    """Return how strongly the loss at the last step T depends on the input at each step t (fig. 49).

    The norm of the gradient of a sequence's loss by its input at step t, the mean over the sequences of `batch`.

    Returns:
        (time,): by distance T − t, 0 first.
    """
    inputs, targets = batch
    inputs = inputs.clone().requires_grad_()
    # A sum over the batch: each sequence's gradient is that of its own loss.
    (gradient,) = torch.autograd.grad(loss_of(network(inputs), targets, reduction="sum"), inputs)
    return gradient.norm(dim=-1).mean(dim=-1).flip(0).numpy()  # (time, batch, in) → (time,)


def score(outputs: torch.Tensor, targets: torch.Tensor, measure: str) -> float:
    """Return R², or the share of sequences that are right at every step that counts."""
    due = outputs[-len(targets) :]
    if measure == "r2":
        return (1 - (due - targets).square().sum() / (targets - targets.mean()).square().sum()).item()
    return (due.argmax(dim=-1) == targets).all(dim=0).float().mean().item()


def memory_length(accuracies: dict[int, float]) -> int:
    """Return the longest length up to which every length is remembered; 0 if not even the shortest is."""
    longest = 0
    for length in sorted(accuracies):
        if accuracies[length] < SOLVED:
            break
        longest = length
    return longest


def main() -> None:
    parameters = declared_parameters("ch05_evaluate")
    recipe = parameters.ch05.active
    seed = parameters.seed
    set_up_torch(seed, num_threads=1)
    task, start = recipe.select("symbols", "noise"), recipe.select("recurrent_init", "memory_bias")
    lengths, runs, hidden_size, symbols = recipe.lengths, recipe.runs, recipe.hidden_size, recipe.symbols
    facts = all_facts()
    norms = {}
    for cell in LAYERS:
        weights = load_file(model_path(cell))
        forward, backward = differences(cell)
        shape = (cell, symbols + 1, hidden_size, symbols)
        accuracies = np.zeros((len(lengths), runs))
        for row, length in enumerate(lengths):
            inputs, targets = draw_recall(TEST_SEQUENCES, held_out_generator(seed), length, **task)
            for run in range(runs):
                network = loaded(RecurrentNetwork(*shape), weights, f"recall_{length}_{run}")
                with torch.no_grad():
                    accuracies[row, run] = score(network(inputs), targets, "accuracy")
        batch = draw_recall(200, held_out_generator(seed), lengths[-1], **task)
        untrained, trained = [], []
        for run in range(runs):
            torch.manual_seed(seed_of(seed, run))  # as training starts from
            untrained.append(gradient_norms(RecurrentNetwork(*shape, **start), batch))
            network = loaded(RecurrentNetwork(*shape), weights, f"recall_{lengths[-1]}_{run}")
            trained.append(gradient_norms(network, batch))
        norms[f"{cell}_untrained"], norms[f"{cell}_trained"] = np.stack(untrained), np.stack(trained)
        modes = {}
        for name, mode in MODES.items():
            inputs, targets = mode.draw(TEST_SEQUENCES, held_out_generator(seed))
            network = loaded(RecurrentNetwork(cell, mode.input_size, hidden_size, mode.output_size), weights, name)
            with torch.no_grad():
                modes[f"{name}_{mode.measure}"] = score(network(inputs), targets, mode.measure)
        means, deviations = accuracies.mean(axis=1), accuracies.std(axis=1, ddof=1)
        ratios = {}  # of the gradient over all steps; runs differ by orders of magnitude, and a mean is of the largest
        for kind in ("untrained", "trained"):
            own = norms[f"{cell}_{kind}"][:, -1] / norms[f"{cell}_{kind}"][:, 0]
            ratios |= {f"gradient_ratio_{kind}": np.median(own), f"gradient_ratio_{kind}_least": own.min()}
        write_json(
            f"metrics/ch05/{cell}.json",
            {
                "forward_difference": float(f"{forward:.3g}"),
                "backward_difference": float(f"{backward:.3g}"),
                "facts": len(facts),
                "facts_true": sum(fact["holds"] for fact in facts),
                "memory_length": memory_length(dict(zip(lengths, means, strict=True))),
                "longest_accuracy_mean": round(float(means[-1]), 6),
                "longest_accuracy_std": round(float(deviations[-1]), 6),
                **rounded({f"accuracy_{length}": mean for length, mean in zip(lengths, means, strict=True)}),
                **{name: float(f"{ratio:.4g}") for name, ratio in ratios.items()},
                **rounded(modes),
            },
        )
    write_json("metrics/facts/ch05.json", {"facts": facts})
    save_arrays(GRADIENTS, **norms)


if __name__ == "__main__":
    main()
