"""Collect every chapter's metrics and figures on one page: `python -m stages.report [--output report.html]`.

In: metrics/ as it lies there now, with the book's numbers in metrics/book/, and the parameters of dvc.lock. Out: one
HTML file with the figures inside, to read or to pass on. It is no stage of dvc.yaml, because the book's numbers come
from an experiment of their own, and because an experiment with one chapter would have to run it, too.
"""

import argparse
import base64
import html
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import pandas as pd
import yaml

from stages.common.files import placed, read_json
from stages.common.params import PARAMS_FILE, ParametersError, Yaml12Loader, read_yaml, report

LOCK = Path("dvc.lock")
METRICS = Path("metrics")
BOOK_LOCK = METRICS / "book/lock.yaml"
WIDEST = 8  # columns of a table
TITLES = {
    "ch01": "Tensors",
    "ch02": "Automatic differentiation",
    "ch03": "Perceptrons",
    "ch04": "Boston Housing",
    "ch05": "Recurrent cells",
    "ch06": "Time series",
    "ch07": "MNIST",
    "ch08": "Graph networks",
    "ch09": "The Transformer",
}
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Neural networks in PyTorch: results</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
thead th[colspan] { text-align: center; }
tbody th, thead th:first-child { text-align: left; font-weight: normal; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; max-width: 100%; }
figure img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 0.875rem; }
</style>
</head>
<body>
<h1>Neural networks in PyTorch: results</h1>
<p>$origin “Book” is the recipe <code>book</code>, the book’s program (<code>python -m stages.book --all</code>);
docs/errata.md says what is wrong in it.</p>
<nav>$links</nav>
$chapters
</body>
</html>
""")
CHAPTER = Template("""<section id="$name">
<h2>Chapter $number. $title</h2>
<p>Recipe: <code>$recipe</code>.$changes</p>
$tables
$figures
</section>""")
FIGURE = Template("""<figure><img alt="$caption" src="data:image/png;base64,$data">
<figcaption>$caption</figcaption></figure>""")


def shown(value) -> str:
    """Return a number as text: a count as it is, any other with four significant digits; a missing one as "–"."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flat(values: Mapping, prefix: str = "") -> dict[str, float]:
    """Return nested numbers by dotted name: {"a": {"b": 1}} as {"a.b": 1}."""
    found = {}
    for name, value in values.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return found


def read_metrics(chapter: str) -> dict[str, tuple[dict, dict]]:
    """Return variant to its numbers here and those of the book's program, which are empty where it has not run.

    A chapter without variants has one, called "".

    Raises:
        SystemExit: the chapter has no numbers.
    """
    single, variants = METRICS / f"{chapter}.json", sorted((METRICS / chapter).glob("[!.]*.json"))
    if not single.exists() and not variants:
        raise SystemExit(f"there are no numbers of {chapter} in {METRICS}: dvc repro makes them")
    book_file = METRICS / f"book/{chapter}.json"
    book = read_json(book_file) if book_file.exists() else {}
    if single.exists():
        return {"": (flat(read_json(single)), flat(book))}
    return {path.stem: (flat(read_json(path)), flat(book.get(path.stem, {}))) for path in variants}


def tables(metrics: Mapping[str, tuple[dict, dict]]) -> list[pd.DataFrame]:
    """Return the numbers of a chapter as text: a row a measure; a pair of columns, here and book, a variant.

    Variants with other measures have a table of their own; where there are many, rows and columns change places. What
    the book alone has comes last.
    """
    groups: dict[frozenset, dict] = {}
    for variant, (here, book) in metrics.items():
        names = list({**here, **book})
        columns = groups.setdefault(frozenset(names), {})
        columns[variant, "here"] = {name: shown(here.get(name)) for name in names}
        columns[variant, "book"] = {name: shown(book.get(name)) for name in names}
    found = []
    for columns in groups.values():
        table = pd.DataFrame(columns)
        if list(metrics) == [""]:
            table.columns = table.columns.droplevel(0)
        elif len(columns) > WIDEST:  # then a pair of rows a variant
            table = table.T
        found.append(table)
    return found


def figures(chapter: str) -> list[tuple[str, bytes]]:
    """Return (caption, PNG) of each of the chapter's figures; its file's name is the caption."""
    paths = sorted((METRICS / "plots" / chapter).glob("[!.]*.png"))
    return [(path.stem.replace("_", " "), path.read_bytes()) for path in paths]


def origin() -> str:
    """Return a sentence that says which commit the numbers are of, as far as git tells."""
    if not Path(".git").exists():  # a copy inside another repository
        return ""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=, with changes"]
    try:
        described = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return f"From commit {described.stdout.strip()}." if described.returncode == 0 else ""


def parameters_of(lock: Mapping) -> dict[str, dict[str, list]]:
    """Return chapter to the names of the parameters that its stages ran with, by a lock file, to their values.

    A name has more than one value where its stages ran with different ones.
    """
    found: dict[str, dict[str, list]] = {}
    for stage, entry in lock.get("stages", {}).items():
        own = found.setdefault(stage.partition("_")[0], {})
        for name, value in entry.get("params", {}).get(PARAMS_FILE, {}).items():
            if value not in own.setdefault(name, []):
                own[name].append(value)
    return found


def committed_lock() -> dict:
    """Return dvc.lock as git has it; nothing, where git has none."""
    try:
        done = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        return {}
    return yaml.load(done.stdout, Yaml12Loader) if done.returncode == 0 else {}


def listed(values: Sequence) -> str:
    return ", ".join(sorted(map(str, values)))


def changes(here: Mapping[str, list], committed: Mapping[str, list], book: Mapping[str, list]) -> str:
    """Return sentences that tell which of a chapter's parameters are others than in the commit.

    And which of them the book's column has with another value; those of another recipe it doesn't have at all.
    """
    other = [
        f"{name} {listed(values)} ({listed(committed[name])})"
        for name, values in here.items()
        if name in committed and listed(committed[name]) != listed(values) and not name.endswith(".recipe")
    ]
    of_book = [
        f"{name} {listed(book[name])}"
        for name, values in here.items()
        if name in book and listed(book[name]) != listed(values) and not name.endswith((".recipe", ".num_threads"))
    ]
    text = f" Changed since the commit: {'; '.join(other)}." if other else ""
    return text + (f" The book's numbers are of {'; '.join(of_book)}." if of_book else "")


def page() -> str:
    """Return the report as HTML.

    Raises:
        SystemExit: a chapter has no numbers.
    """
    own = parameters_of(read_yaml(LOCK) if LOCK.exists() else {})
    committed = parameters_of(committed_lock())
    of_book = parameters_of(read_yaml(BOOK_LOCK) if BOOK_LOCK.exists() else {})
    chapters = []
    for name, title in TITLES.items():
        own_tables = [table.to_html(border=0) for table in tables(read_metrics(name))]
        own_figures = [
            FIGURE.substitute(caption=html.escape(caption), data=base64.b64encode(data).decode())
            for caption, data in figures(name)
        ]
        chapters.append(
            CHAPTER.substitute(
                name=name,
                number=int(name.removeprefix("ch")),
                title=title,
                recipe=html.escape(listed(own.get(name, {}).get(f"{name}.recipe", ["–"]))),
                changes=html.escape(changes(*(found.get(name, {}) for found in (own, committed, of_book)))),
                tables="\n".join(f'<div class="table">{table}</div>' for table in own_tables),
                figures="\n".join(own_figures),
            )
        )
    links = "\n".join(f'<a href="#{name}">{title}</a>' for name, title in TITLES.items())
    return PAGE.substitute(origin=html.escape(origin()), links=links, chapters="\n".join(chapters))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    output = parser.parse_args().output
    if not output.name or output.is_dir():
        raise SystemExit(f"--output {output}: a file's name is needed, and this is a folder")
    try:
        text = page()
    except ParametersError as error:
        return report(error)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    try:
        with placed(output) as path:
            path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise SystemExit(f"--output {output}: {error.strerror}") from None
    print(f"The report is in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
