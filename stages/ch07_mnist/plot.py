"""Draw the figures of chapter 7: learning curves, confusion, mistakes, and what the first layer sees (fig. 72).

In: the history, the predictions, the metrics, the prepared pictures, the model (only to find its run in MLflow).
Out: metrics/plots/ch07/*.png and their hashes, and the same figures in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch07_plot")  # loads MLflow while this process gets ready

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from stages.ch07_mnist.preprocess import MNIST
from stages.common.figures import BLUE, RED, new_figure, record_figures, save_figure
from stages.common.files import read_history, read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch07")
MISTAKES_SHOWN = 60
CHANNELS_SHOWN = 16


def plot_learning(history: dict[str, list[float]], training: str, path: Path) -> None:
    """Loss and, where pictures were held out, validation accuracy by epoch.

    `training` says how the training loss is made harder than the other: smoothed labels also keep it from zero.
    """
    validated = "validation_accuracy" in history
    figure, axes = new_figure(columns=2 if validated else 1, squeeze=False)
    epochs = range(1, len(history["train_loss"]) + 1)
    losses, *rest = axes[0]
    losses.plot(
        epochs, history["train_loss"], color=RED, marker=".", label=f"training ({training})" if training else "training"
    )
    if validated:
        losses.plot(
            epochs,
            history["validation_loss"],
            color=BLUE,
            marker=".",
            label="validation" + (" (without)" if training else ""),
        )
        accuracies = [100 * value for value in history["validation_accuracy"]]
        rest[0].plot(epochs, accuracies, color=BLUE, marker=".")
        rest[0].set(title="Accuracy on the held-out pictures", xlabel="epoch", ylabel="accuracy, %")
    losses.set(title="Loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    losses.legend()
    save_figure(figure, path)


def plot_confusion(labels: np.ndarray, predicted: np.ndarray, accuracy: float, path: Path) -> None:
    """How often each digit (row) was taken for each (column); arrays of shape (pictures,)."""
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    mistakes = counts - np.diag(np.diag(counts))
    figure, axes = new_figure(width=6, height=5.5)
    # Coloured by mistakes alone: beside a thousand right answers a dozen wrong ones would look like none.
    picture = axes.imshow(mistakes, cmap="Reds")
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            color = "white" if mistakes[row, column] > mistakes.max() / 2 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8, color=color)
    axes.set(title=f"Test pictures, accuracy {100 * accuracy:.2f} %", xlabel="predicted digit", ylabel="true digit")
    axes.set(xticks=range(10), yticks=range(10))
    axes.grid(False)
    figure.colorbar(picture, label="mistakes", ticks=MaxNLocator(integer=True))
    save_figure(figure, path)


def plot_mistakes(images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, path: Path) -> None:
    """The misclassified test pictures, the surest mistakes first; images (pictures, 28, 28)."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES_SHOWN]
    rows = max(1, -(-len(shown) // 10))
    figure, axes = new_figure(rows=rows, columns=10, width=0.85, height=1.1, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, index in zip(axes.flat, shown, strict=False):
        axis.imshow(images[index], cmap="gray_r")
        axis.set_title(f"{labels[index]} → {predicted[index]}\n{100 * confidence[index]:.0f} %", fontsize=7)
    figure.suptitle(f"{len(shown)} of {len(wrong)} mistakes: true → predicted digit, and how sure", fontsize=10)
    save_figure(figure, path)


def plot_feature_maps(image: np.ndarray, filters: np.ndarray, maps: np.ndarray, path: Path) -> None:
    """Fig. 72: a picture (28, 28), filters of the first layer, and their maps of the picture."""
    channels = min(CHANNELS_SHOWN, len(filters))
    in_a_row = -(-channels // 2)
    figure, axes = new_figure(rows=4, columns=in_a_row + 1, width=0.95, height=1.05)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for axis in [*axes[1:, 0], *axes[2:, 1 + channels - in_a_row :].flat]:
        axis.axis("off")
    axes[0, 0].imshow(image, cmap="gray_r")
    axes[0, 0].set_title("picture", fontsize=8)
    limit = np.abs(filters).max()
    for channel in range(channels):
        row, column = divmod(channel, in_a_row)
        filter_axis, map_axis = axes[2 * row, column + 1], axes[2 * row + 1, column + 1]
        filter_axis.imshow(filters[channel], cmap="RdBu_r", vmin=-limit, vmax=limit)
        filter_axis.set_title(f"filter {channel}", fontsize=8)
        highest = np.abs(maps[channel]).max()
        map_axis.imshow(maps[channel], cmap="RdBu_r", vmin=-highest, vmax=highest)
        map_axis.set_title("its map", fontsize=8)
    of_all = f"{channels} of {len(filters)} filters" if channels < len(filters) else "filters"
    figure.suptitle(f"First convolution: {of_all} and their maps, red positive, blue negative", fontsize=10)
    save_figure(figure, path)


def main() -> None:
    recipe = declared_parameters("ch07_plot").ch07.active
    with np.load(MNIST) as arrays:
        images, labels = arrays["test_images"], arrays["test_labels"]
    with np.load("data/evaluated/ch07/predictions.npz") as arrays:
        probabilities, filters, maps = arrays["probabilities"], arrays["filters"], arrays["feature_maps"]
    augmented = any(recipe.select("rotation", "translation", "scaling", "shear").values())
    harder = {"augmented": augmented, f"label smoothing {recipe.label_smoothing:g}": recipe.label_smoothing}
    training = ", ".join(name for name, so in harder.items() if so)
    plot_learning(read_history("metrics/history/ch07.csv"), training, PLOTS / "learning_curves.png")
    accuracy = read_json("metrics/ch07.json")["accuracy"]
    plot_confusion(labels, probabilities.argmax(axis=1), accuracy, PLOTS / "confusion.png")
    plot_mistakes(images, labels, probabilities, PLOTS / "mistakes.png")
    plot_feature_maps(images[0], filters, maps, PLOTS / "feature_maps.png")

    result = {
        "model_file": Path("data/models/ch07/network.safetensors"),
        # As the evaluation gives them: a model may have been evaluated more than once.
        "parameters": recipe.select("shifted_views"),
    }
    record_figures("ch07_plot", result)


if __name__ == "__main__":
    main()
