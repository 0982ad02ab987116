"""Seeds of several trainings from one parameter."""

RUNS = 1000  # at most, of a kind


def seed_of(seed: int, run: int) -> int:
    """Return the seed of a chapter's run, 0 for the first, where params.yaml has `seed`.

    No two values of `seed` share one: with `seed + run` nine of ten trainings from the next seed would be the same.
    """
    return RUNS * seed + run
