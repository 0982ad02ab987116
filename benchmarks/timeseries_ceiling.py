"""How far chapter 6's forecasts stay below the ceiling that the noise sets, over noise levels and seeds.

    python -m benchmarks.timeseries_ceiling --seeds 0 1 2
    python -m benchmarks.timeseries_ceiling --recipe book --windows all --noise-levels 0.1 --seeds 0

For each noise level, and for both cells and ridge regression on the same windows: R², its ceiling, the gap by seed and
its mean, and the seconds of training.
"""

import argparse
import time

import numpy as np
from sklearn.metrics import r2_score

from stages.ch06_timeseries.evaluate import linear_forecast
from stages.ch06_timeseries.noise import forecast_at, windows_at
from stages.common.devices import set_up_torch
from stages.common.params import PARAMS_FILE, read_yaml

MODELS = ["ridge", "rnn", "lstm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise-levels", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", choices=["tuned", "book"], default="tuned")
    parser.add_argument("--windows", choices=["all", "book"], help="the windows trained on; the recipe's, if not given")
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS)
    arguments = parser.parse_args()
    parameters = read_yaml(PARAMS_FILE)
    recipe = parameters["ch06"][arguments.recipe]
    recipe["windows"] = arguments.windows or recipe["windows"]

    def chosen(*names):
        return {name: recipe[name] for name in names}

    def forecast(model: str, noise_level: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        series = chosen("length", "duration", "test_times")
        windows = chosen("window", "steps_ahead", "loss_steps", "windows")
        if model == "ridge":
            inputs, targets, test_inputs, test_targets = windows_at(noise_level, seed, series, windows)
            return test_targets, linear_forecast(inputs, targets[:, -1], test_inputs)
        shape = {"cell": model, **chosen("hidden_size", "num_layers")}
        training = chosen("epochs", "batch_size", "learning_rate", "schedule", "gradient_clip")
        return forecast_at(noise_level, seed, series, windows, shape, training)

    print("noise  model R² by seed                ceiling  gap by seed                mean gap  seconds")
    for noise_level in arguments.noise_levels:
        for model in arguments.models:
            rows, seconds = [], []
            for seed in arguments.seeds:
                set_up_torch(seed, parameters["ch06"]["num_threads"])
                started = time.perf_counter()
                targets, predictions = forecast(model, noise_level, seed)
                seconds.append(time.perf_counter() - started)
                rows.append((r2_score(targets, predictions), 1 - noise_level**2 / targets.var()))
            r2, ceilings = np.array(rows).T
            gaps = ceilings - r2
            by_seed, gaps_by_seed = (" ".join(f"{value:8.4f}" for value in values) for values in (r2, gaps))
            print(
                f"{noise_level:5.2f}  {model:5s} {by_seed}  {ceilings.mean():.4f} {gaps_by_seed}"
                f"   {gaps.mean():.4f}   {max(seconds):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
