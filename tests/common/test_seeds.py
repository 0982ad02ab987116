"""Seeds of several trainings: other ones for every value of the parameter."""

from stages.ch05_recurrent_cells.train import recall_trainings
from stages.common.seeds import RUNS, seed_of


def test_no_two_seeds_share_a_run():
    assert [seed_of(0, run) for run in range(3)] == [0, 1, 2]
    found = [seed_of(seed, run) for seed in (0, 1, 2, 7) for run in (0, 1, 9, RUNS - 1)]
    assert len(set(found)) == len(found)


def test_trainings_of_the_next_seed_are_others():
    task, start = {"symbols": 3, "noise": 1.0}, {"recurrent_init": "uniform", "memory_bias": 0.0}
    sizes = {"lengths": [2], "runs": 3, "hidden_size": 4, "batch_size": 4, "steps": 1}
    own, others = (
        {one.seed for one in recall_trainings("rnn", seed, **sizes, task=task, start=start)} for seed in (0, 1)
    )
    assert len(own) == 3 and not own & others
