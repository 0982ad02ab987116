"""Progress of long loops: a tqdm bar on a terminal, plain lines elsewhere (in a log a bar is noise)."""

import sys
import time
from collections.abc import Callable, Iterator, Sized

SECONDS_BETWEEN_LINES = 5.0


def progress(items: Sized, label: str, status: Callable[[], str] = lambda: "") -> Iterator:
    """Yield each of `items`, and show on stderr how far it is; `status()` adds a few words, such as the loss."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(items, desc=label)
        for item in bar:
            yield item
            bar.set_postfix_str(status())
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            print(f"{label}: {done}/{len(items)} {status()}".rstrip(), file=sys.stderr, flush=True)
            last = time.monotonic()
