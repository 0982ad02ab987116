"""How far chapter 6's forecasts stay below the ceiling that the noise sets, over noise levels and seeds.

    python -m benchmarks.timeseries_ceiling --seeds 0 1 2

For each noise level and cell: R², its ceiling, the gap by seed and its mean, and the seconds of training.
"""

import argparse
import time

import numpy as np
from sklearn.metrics import r2_score

from stages.ch06_timeseries.noise import forecast_at
from stages.common.devices import set_up_torch
from stages.common.params import PARAMS_FILE, read_yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise-levels", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", choices=["tuned", "book"], default="tuned")
    arguments = parser.parse_args()
    parameters = read_yaml(PARAMS_FILE)
    recipe = parameters["ch06"][arguments.recipe]

    def chosen(*names):
        return {name: recipe[name] for name in names}

    print("noise  cell  R² by seed                ceiling  gap by seed                mean gap  seconds")
    for noise_level in arguments.noise_levels:
        for cell in ("rnn", "lstm"):
            rows, seconds = [], []
            for seed in arguments.seeds:
                set_up_torch(seed, parameters["ch06"]["num_threads"])
                started = time.perf_counter()
                targets, predictions = forecast_at(
                    noise_level,
                    seed,
                    series=chosen("length", "duration", "test_times"),
                    windows=chosen("window", "steps_ahead", "loss_steps", "windows"),
                    shape={"cell": cell, **chosen("hidden_size", "num_layers")},
                    training=chosen("epochs", "batch_size", "learning_rate", "schedule", "gradient_clip"),
                )
                seconds.append(time.perf_counter() - started)
                rows.append((r2_score(targets, predictions), 1 - noise_level**2 / targets.var()))
            r2, ceilings = np.array(rows).T
            gaps = ceilings - r2
            by_seed, gaps_by_seed = (" ".join(f"{value:8.4f}" for value in values) for values in (r2, gaps))
            print(
                f"{noise_level:5.2f}  {cell:4s} {by_seed}  {ceilings.mean():.4f} {gaps_by_seed}"
                f"   {gaps.mean():.4f}   {max(seconds):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
