"""Progress of long loops: a tqdm bar on a terminal, plain lines elsewhere (in a log a bar is noise)."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator

SECONDS_BETWEEN_LINES = 5.0


def progress(items: Iterable, label: str, status: Callable[[], str] = lambda: "", total: int | None = None) -> Iterator:
    """Yield each of `items`, and show on stderr how far it is.

    `status()` adds a few words, such as the loss; `total` is for items that have no length.
    """
    count = len(items) if total is None else total
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(items, desc=label, total=count)
        for item in bar:
            yield item
            bar.set_postfix_str(status())
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            print(f"{label}: {done}/{count} {status()}".rstrip(), file=sys.stderr, flush=True)
            last = time.monotonic()
