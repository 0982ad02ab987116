"""Draw the figures of chapter 9: loss, BLEU by length, sinusoids, attention, and a table of translations.

In: the history, the metrics, the translations, the attention, the model (only to find its run in MLflow).
Out: metrics/plots/ch09/*.png and their hashes, and the same figures in MLflow.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch09_plot")  # loads MLflow while this process gets ready

import textwrap
from pathlib import Path

import numpy as np

from stages.common.figures import BLUE, GREEN, GREY, RED, new_figure, record_figures, save_figure
from stages.common.files import read_history, read_json
from stages.common.params import declared_parameters

PLOTS = Path("metrics/plots/ch09")
TEXTS_SHOWN = 6  # good ones, and as many bad ones
LETTERS_A_LINE = 44


def plot_learning(history: dict[str, list[float]], label_smoothing: float, path: Path) -> None:
    """Training and validation loss by epoch.

    The two are no measures of one thing: smoothed labels keep the one from zero, and dropout is there in it alone.
    """
    figure, axes = new_figure()
    epochs = list(range(1, len(history["train_loss"]) + 1))
    axes.plot(
        epochs, history["train_loss"], color=RED, marker=".", label=f"training (label smoothing {label_smoothing:g})"
    )
    axes.plot(epochs, history["validation_loss"], color=BLUE, marker=".", label="validation (without)")
    axes.set(title="Loss", xlabel="epoch", ylabel="cross-entropy, nats a token", xticks=epochs)
    axes.legend()
    save_figure(figure, path)


def plot_lengths(rows: list[dict], path: Path) -> None:
    """BLEU by the number of words, of the translations and of the nearest training text's.

    A row has `words`, the range as text, `texts`, how many there are, and BLEU as `translation` and `memory`.
    """
    figure, axes = new_figure(width=7)
    places = np.arange(len(rows))
    axes.bar(places - 0.2, [row["translation"] for row in rows], 0.4, color=BLUE, label="translation here")
    axes.bar(
        places + 0.2, [row["memory"] for row in rows], 0.4, color=GREY, label="translation of the nearest known text"
    )
    axes.set_xticks(places, [f"{row['words']}\n{row['texts']} texts" for row in rows], fontsize=8)
    axes.set(
        title="BLEU by length of the English text",
        xlabel="words in the English text (with 1, 2, 3: BLEU-1, -2, -3; else BLEU-4)",
        ylabel="BLEU, %",
    )
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, path)


def plot_positions(table: np.ndarray, path: Path) -> None:
    """The sinusoids (positions, D) as a picture, and four of them as curves."""
    figure, (picture, curves) = new_figure(columns=2, width=6)
    shown = picture.imshow(table, cmap="RdBu_r", aspect="auto", vmin=-1, vmax=1)
    picture.set(title="Positional encoding", xlabel="place in the vector", ylabel="position in the sentence")
    picture.grid(False)
    figure.colorbar(shown, label="value")
    last = table.shape[1] - 1
    places = sorted({0, last // 8 * 2, last // 4 * 2, last // 2 * 2})  # fewer, where a vector has few
    for place, color in zip(places, (BLUE, RED, GREEN, GREY), strict=False):
        curves.plot(table[:, place], color=color, label=f"place {place}")
    curves.set(title="Sines of some places", xlabel="position in the sentence", ylabel="value")
    figure.legend(loc="outside lower right", ncols=len(places), fontsize=8)
    save_figure(figure, path)


def plot_attention(maps: np.ndarray, words: list[str], written: list[str], path: Path) -> None:
    """The attention (heads, T, S) of every head to one source as the translation is written."""
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    width, height = max(3.0, 0.28 * len(words) + 1), max(2.8, 0.28 * len(written) + 1.2)
    figure, axes = new_figure(rows=rows, columns=columns, width=width, height=height, squeeze=False)
    for axis in axes.flat[len(maps) :]:
        axis.axis("off")
    for head, (axis, weights) in enumerate(zip(axes.flat, maps, strict=False)):
        shown = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(words)), words, rotation=90, fontsize=8)
        axis.set_yticks(range(len(written)), written, fontsize=8)
        axis.set(title=f"head {head + 1}", xlabel="read", ylabel="written")
        axis.grid(False)
    figure.colorbar(shown, ax=axes, label="attention")
    figure.suptitle("Last layer of the decoder: attention to the source (▁ a blank, ■ the end)")
    save_figure(figure, path)


def plot_table(texts: list[dict], bleu: float, path: Path) -> None:
    """Translations in a table: the best of some length, and the worst."""
    long_enough = [text for text in texts if 4 <= len(text["source"].split()) <= 16] or texts
    by_score = sorted(long_enough, key=lambda text: -text["chrf"])
    # Of the good ones those that the memory does not have; of the bad ones not the very worst alone.
    good = sorted(by_score[: len(by_score) // 5], key=lambda text: text["translation"] == text["memory"])
    bad = by_score[-(len(by_score) // 5 or 1) :][:: max(1, len(by_score) // 5 // TEXTS_SHOWN)]
    good, bad = good[:TEXTS_SHOWN], bad[-TEXTS_SHOWN:]
    rows = [
        [*(textwrap.fill(text[key], LETTERS_A_LINE) for key in ("source", "reference", "translation")), text["chrf"]]
        for text in (*good, *bad)
    ]
    lines = [max(str(cell).count("\n") for cell in row) + 1 for row in rows]
    figure, axes = new_figure(width=13, height=0.19 * sum(lines) + 0.14 * len(lines) + 1)
    axes.axis("off")
    table = axes.table(
        [[*row[:3], f"{row[3]:.0f}"] for row in rows],
        colLabels=["English", "a person's translation", "the translation here", "chrF, %"],
        colWidths=[0.31, 0.31, 0.31, 0.07],
        cellLoc="left",
        bbox=[0, 0, 1, 1],
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    heights = [1.3, *(count + 0.7 for count in lines)]
    for (row, _), cell in table.get_celld().items():
        cell.set_height(heights[row] / sum(heights))
        cell.set_linewidth(0.3)
        cell.get_text().set_parse_math(False)  # a text with two dollars in it is no formula
        if row == 0:
            cell.set_text_props(weight="bold")
        else:
            cell.set_facecolor("#eef5ee" if row <= len(good) else "#faeeec")
    axes.set_title(f"Test texts, good translations above and bad ones below; BLEU of all {bleu:.1f} %", fontsize=10)
    save_figure(figure, path)


def main() -> None:
    recipe = declared_parameters("ch09_plot").ch09.active
    evaluated = read_json("data/evaluated/ch09/translations.json")
    texts = evaluated["texts"]
    with np.load("data/evaluated/ch09/attention.npz") as arrays:
        attention = {name: arrays[name] for name in arrays.files}
    plot_learning(read_history("metrics/history/ch09.csv"), recipe.label_smoothing, PLOTS / "learning_curves.png")
    plot_lengths(evaluated["by_length"], PLOTS / "bleu_by_length.png")
    plot_positions(attention["positions"], PLOTS / "positional_encoding.png")
    words, written = attention["words"].tolist(), attention["written"].tolist()
    plot_attention(attention["maps"], words, written, PLOTS / "attention.png")
    plot_table(texts, read_json("metrics/ch09.json")["bleu"], PLOTS / "translations.png")

    result = {
        "model_file": Path("data/models/ch09/transformer.safetensors"),
        # As the evaluation gives them: a model may have been evaluated more than once.
        "parameters": recipe.select(
            "beams", "length_penalty", "memory_pairs", "memory_nearest", "memory_temperature", "memory_reach"
        ),
    }
    record_figures("ch09_plot", result)


if __name__ == "__main__":
    main()
