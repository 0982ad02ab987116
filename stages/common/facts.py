"""Statements of the book that are computed and found true or false."""

from collections.abc import Callable, Iterable, Iterator

Facts = Iterator[tuple[str, str, bool]]  # figure or "text", statement, whether it holds


def raises(action: Callable[[], object]) -> str:
    """Return the name of the exception that `action()` raises, "" if none."""
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return ""


def collected(groups: Iterable[Callable[[], Facts]]) -> list[dict[str, str | bool]]:
    """Return every statement of the groups, in their order, as {"figure", "statement", "holds"}."""
    return [
        {"figure": figure, "statement": statement, "holds": bool(holds)}
        for group in groups
        for figure, statement, holds in group()
    ]
