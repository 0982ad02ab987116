"""Chapter 6's functions on series and networks small enough to check by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from stages.ch06_timeseries.evaluate import linear_forecast, measure, predict
from stages.ch06_timeseries.generate import noisy_sine
from stages.ch06_timeseries.model import Forecaster
from stages.ch06_timeseries.preprocess import book_window_count, sliding_windows, training_windows
from stages.ch06_timeseries.train import train
from tests.conftest import clip_to_nothing

CELLS = pytest.mark.parametrize("cell", ["rnn", "lstm"])


def test_without_noise_both_series_are_the_sine():
    time, train_series, test_series = noisy_sine(50, 10.0, noise_level=0.0, test_times="same", seed=0)
    np.testing.assert_array_equal(time, np.linspace(0, 10, 50))
    np.testing.assert_array_equal(train_series, np.sin(time).astype(np.float32))
    np.testing.assert_array_equal(test_series, train_series)


def test_the_test_series_goes_on_where_that_to_train_on_ends():
    time, train_series, test_series = noisy_sine(51, 10.0, noise_level=0.0, test_times="later", seed=0)
    np.testing.assert_array_equal(train_series, np.sin(time).astype(np.float32))
    both = np.sin(np.arange(102) * 0.2)
    np.testing.assert_allclose(np.concatenate([train_series, test_series]), both, atol=1e-6)


def test_noise_has_its_level_and_is_drawn_twice():
    time, train_series, test_series = noisy_sine(20_000, 100.0, noise_level=0.3, test_times="same", seed=1)
    noises = train_series - np.sin(time), test_series - np.sin(time)
    for noise in noises:
        # Four standard errors of a mean and of a deviation over 20,000 values; and normal, not uniform: kurtosis 3.
        assert abs(noise.mean()) < 4 * 0.3 / 20_000**0.5
        assert abs(noise.std() - 0.3) < 4 * 0.3 / 40_000**0.5
        assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.2
    assert abs(np.corrcoef(*noises)[0, 1]) < 4 / 20_000**0.5


def test_noise_is_the_same_but_for_its_level():
    time, small, _ = noisy_sine(50, 10.0, noise_level=0.1, test_times="later", seed=2)
    _, large, _ = noisy_sine(50, 10.0, noise_level=0.2, test_times="later", seed=2)
    np.testing.assert_allclose(large - np.sin(time), 2 * (small - np.sin(time)), atol=1e-6)


def test_seed_decides_the_series():
    first, again, other = (noisy_sine(50, 10.0, 0.1, "later", seed)[1:] for seed in (3, 3, 4))
    assert np.array(first).tobytes() == np.array(again).tobytes()
    assert not np.any(np.array(first) == np.array(other))


def test_windows_and_next_values():
    inputs, targets = sliding_windows(np.arange(7), window=3, steps_ahead=1, loss_steps=1)
    assert inputs.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert targets.tolist() == [[3], [4], [5], [6]]


def test_windows_two_ahead_as_in_the_book():
    inputs, targets = sliding_windows(np.arange(7), window=3, steps_ahead=2, loss_steps=1)
    assert inputs.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert targets.tolist() == [[4], [5], [6]]


@pytest.mark.parametrize("steps_ahead", [1, 2, 3])
def test_each_loss_step_has_its_own_target(steps_ahead):
    inputs, targets = sliding_windows(np.arange(9), window=4, steps_ahead=steps_ahead, loss_steps=4)
    # Position by position: what lies `steps_ahead` behind the input at that position.
    np.testing.assert_array_equal(targets, inputs + steps_ahead)


def test_the_books_twenty_windows():
    assert book_window_count(2000, 100) == 20
    series = np.arange(2000)
    inputs, targets = training_windows(series, window=100, steps_ahead=2, loss_steps=1, windows="book")
    assert inputs.shape == (20, 100)
    assert targets[:, 0].tolist() == [101 + index for index in range(20)]
    assert targets.max() == 120  # all that the book's network ever sees: 1,879 points stay unused
    inputs, targets = training_windows(series, window=100, steps_ahead=1, loss_steps=50, windows="all")
    assert (inputs.shape, targets.shape) == ((1900, 100), (1900, 50))
    assert targets[-1, -1] == 1999


@CELLS
def test_network_is_a_recurrent_and_a_linear_layer(cell):
    torch.manual_seed(0)
    model = Forecaster(cell, hidden_size=5, num_layers=2)
    recurrent = {"rnn": nn.RNN, "lstm": nn.LSTM}[cell](1, 5, num_layers=2, batch_first=True)
    recurrent.load_state_dict(model.recurrent.state_dict())
    linear = nn.Linear(5, 1)
    linear.load_state_dict(model.output.state_dict())
    inputs = torch.randn(3, 8)
    hidden, _ = recurrent(inputs.unsqueeze(2))
    torch.testing.assert_close(model(inputs), linear(hidden[:, -1]).squeeze(1))


@CELLS
def test_zero_state_is_no_state_and_another_is_not(cell):
    model = Forecaster(cell, hidden_size=4, num_layers=2)
    inputs, zeros, ones = torch.randn(3, 6), torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    expected = model(inputs)
    torch.testing.assert_close(model(inputs, (zeros, zeros) if cell == "lstm" else zeros), expected)
    assert (model(inputs, (ones, ones) if cell == "lstm" else ones) != expected).all()


@CELLS
@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_any_batch_size_and_no_influence_between_windows(cell, batch_size):
    model = Forecaster(cell, hidden_size=4, num_layers=1)
    inputs = torch.randn(7, 6)
    parts = torch.cat([model(batch) for batch in inputs.split(batch_size)])
    assert parts.shape == (7,)
    torch.testing.assert_close(parts, model(inputs))
    torch.testing.assert_close(model(inputs.flip(0)).flip(0), model(inputs))


@CELLS
def test_last_steps_end_with_the_forecast_and_see_no_later_value(cell):
    model = Forecaster(cell, hidden_size=4, num_layers=1)
    inputs = torch.randn(3, 6)
    steps = model.last_steps(inputs, 4)
    assert steps.shape == (3, 4)
    torch.testing.assert_close(steps[:, -1], model(inputs))
    torch.testing.assert_close(steps[:, 1], model(inputs[:, :4]))  # position 3 has seen values 0 to 3 alone


def test_training_step_is_plain_adam_on_the_squared_error():
    torch.manual_seed(0)
    model = Forecaster("rnn", hidden_size=3, num_layers=1)
    plain = Forecaster("rnn", hidden_size=3, num_layers=1)
    plain.load_state_dict(model.state_dict())
    inputs, targets = torch.randn(4, 5), torch.randn(4, 1)
    options = {"batch_size": 4, "learning_rate": 0.02, "schedule": "constant", "gradient_clip": 0.0}
    history = train(model, inputs, targets, epochs=3, **options)
    adam = torch.optim.Adam(plain.parameters(), lr=0.02)
    losses = []
    for _ in range(3):
        loss = ((plain(inputs) - targets[:, 0]) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert history["train_loss"] == pytest.approx(losses, rel=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_predict_is_the_network_in_evaluation_mode():
    model = Forecaster("lstm", hidden_size=3, num_layers=1)
    inputs = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    predictions = predict(model, inputs)
    assert (predictions.shape, predictions.dtype, model.training) == ((5,), np.float32, False)
    np.testing.assert_allclose(predictions, model(torch.from_numpy(inputs)).detach().numpy(), rtol=1e-6)


def test_measures_by_hand():
    targets = np.array([1.0, -1.0, 1.0, -1.0])  # mean 0, variance 1
    predictions = np.array([1.0, -1.0, 1.0, 1.0])  # one error of 2
    inputs = np.array([[9.0, 1.0], [9.0, -1.0], [9.0, 0.0], [9.0, -1.0]])  # last values: one error of 1
    linear = np.array([1.0, -1.0, 1.0, 0.0])  # one error of 1
    assert measure(inputs, targets, predictions, linear, noise_level=0.5, book_windows=3) == {
        "r2": 0.0,
        "rmse": 1.0,
        "r2_ceiling": 0.75,
        "r2_gap": 0.75,
        "linear_r2": 0.75,
        "persistence_r2": 0.75,
        "r2_book_windows": 1.0,
        "r2_book_windows_ceiling": pytest.approx(1 - 0.25 / (8 / 9), abs=1e-6),  # of 1, −1, 1
    }


def test_linear_forecast_is_a_line_through_the_training_windows():
    generator = np.random.default_rng(0)
    inputs, weights = generator.normal(size=(300, 4)).astype(np.float32), np.array([1.0, -2.0, 0.0, 3.0])
    targets = (inputs @ weights + 5 + 0.1 * generator.normal(size=300)).astype(np.float32)
    np.testing.assert_allclose(linear_forecast(inputs[:200], targets[:200], inputs[200:]), targets[200:], atol=0.5)
    # Fewer windows than values, and noise: without a penalty it would learn the noise by heart.
    few, many = generator.normal(size=(20, 50)), generator.normal(size=(400, 50))
    noise = 2 * generator.normal(size=(2, 400))
    exact = np.linalg.lstsq(few, few[:, 0] + noise[0, :20], rcond=None)[0]
    found = linear_forecast(few, few[:, 0] + noise[0, :20], many)
    assert np.var(many[:, 0] - found) < np.var(many[:, 0] - many @ exact)


def test_prediction_in_parts_is_prediction(monkeypatch):
    model = Forecaster("lstm", hidden_size=3, num_layers=1)
    inputs = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    whole = predict(model, inputs)
    monkeypatch.setattr("stages.ch06_timeseries.evaluate.WINDOWS_PER_FORWARD", 3)
    np.testing.assert_allclose(predict(model, inputs), whole, rtol=1e-5)


def test_perfect_forecast_of_a_clean_series_has_no_gap():
    targets = np.array([1.0, 2.0, 4.0])
    metrics = measure(np.zeros((3, 2)), targets, targets, targets, noise_level=0.0, book_windows=2)
    assert (metrics["r2"], metrics["r2_ceiling"], metrics["r2_gap"], metrics["rmse"]) == (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(("clip", "stays"), [(0.0, False), (0.5, True)])
def test_gradients_are_clipped_before_the_step(monkeypatch, clip, stays):
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip_to_nothing)
    model = Forecaster("rnn", 3, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, torch.randn(4, 5), torch.randn(4, 1), 1, 2, 0.01, "constant", clip)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) == stays


def test_a_cycle_moves_on_with_every_step(steps_of_cycles):
    train(Forecaster("rnn", 3, 1), torch.randn(5, 5), torch.randn(5, 1), 3, 2, 0.02, "one_cycle", 0.0)
    assert steps_of_cycles == [(0.02, 9)] * 9  # three batches an epoch
