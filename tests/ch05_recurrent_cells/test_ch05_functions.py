"""Chapter 5's functions: cells by hand and against PyTorch's, tasks whose answers are known, measures that can fail."""

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from stages.ch05_recurrent_cells import cells
from stages.ch05_recurrent_cells.cells import gru_step, lstm_step, rnn_step, run_layers
from stages.ch05_recurrent_cells.evaluate import gradient_norms, held_out_generator, memory_length, score
from stages.ch05_recurrent_cells.facts import all_facts, differences
from stages.ch05_recurrent_cells.model import LAYERS, RecurrentNetwork
from stages.ch05_recurrent_cells.tasks import (
    MODES,
    draw_many_to_many,
    draw_many_to_one,
    draw_one_to_many,
    draw_one_to_one,
    draw_recall,
    loss_of,
)
from stages.ch05_recurrent_cells.train import (
    Training,
    mean_losses,
    mode_trainings,
    recall_trainings,
    run_trainings,
    train,
)
from tests.conftest import ROOT, clip_to_nothing


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_rnn_step_by_hand():
    (hidden,) = rnn_step(torch.tensor([[0.3]]), (torch.tensor([[0.5]]),), torch.tensor([[2.0]]), torch.tensor([-0.1]))
    assert hidden.item() == pytest.approx(math.tanh(0.3 + 2 * 0.5 - 0.1))


def test_lstm_step_by_hand():
    state = (torch.tensor([[0.5]]), torch.tensor([[-0.7]]))
    projected, weight = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    hidden, memory = lstm_step(projected, state, weight, torch.zeros(4))
    i, f, g, o = sigma(0.1 + 0.5), sigma(0.2 + 1.0), math.tanh(0.3 + 1.5), sigma(0.4 + 2.0)
    expected = f * -0.7 + i * g
    assert memory.item() == pytest.approx(expected)
    assert hidden.item() == pytest.approx(o * math.tanh(expected))


def test_gru_step_by_hand():
    projected, weight = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[1.0], [2.0], [3.0]])
    bias = torch.tensor([0.0, 0.0, 0.25])
    (hidden,) = gru_step(projected, (torch.tensor([[0.5]]),), weight, bias)
    r, z = sigma(0.1 + 0.5), sigma(0.2 + 1.0)
    n = math.tanh(0.3 + r * (1.5 + 0.25))
    assert hidden.item() == pytest.approx((1 - z) * n + z * 0.5)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_cells_equal_pytorchs_forward_and_backward(cell, layers):
    torch.manual_seed(3)
    assert max(differences(cell, layers)) <= 1e-6


@pytest.mark.parametrize("cell", LAYERS)
def test_a_wrong_cell_is_found(monkeypatch, cell):
    right = cells.STEPS[cell]

    def wrong(projected, state, weight, bias):
        new = right(projected, state, weight, bias)
        return (new[0] * 1.001, *new[1:])

    monkeypatch.setitem(cells.STEPS, cell, wrong)
    torch.manual_seed(3)
    forward, backward = differences(cell)
    assert forward > 1e-5 and backward > 1e-6


def test_outputs_of_an_inner_layer_do_not_come_out():
    torch.manual_seed(0)
    lstm, inputs = nn.LSTM(4, 3, 2), torch.randn(6, 2, 4)
    zero = torch.zeros(2, 3)
    outputs, last = run_layers("lstm", inputs, dict(lstm.named_parameters()), [(zero, zero)] * 2)
    assert torch.equal(outputs[-1], last[1][0]) and not torch.equal(outputs[-1], last[0][0])


def test_every_fact_holds():
    torch.manual_seed(1)
    facts = all_facts()
    assert [fact for fact in facts if not fact["holds"]] == []
    assert {fact["figure"] for fact in facts} == {"46", "47", "48", "49", "50", "51", "52", "53", "text"}


@pytest.mark.parametrize("cell, gates", [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_start_of_the_weights(cell, gates):
    torch.manual_seed(0)
    layer = RecurrentNetwork(cell, 2, 6, 1, "orthogonal", 5.0).recurrent
    assert len(layer.weight_hh_l0.split(6)) == gates
    for gate in layer.weight_hh_l0.split(6):
        assert torch.allclose(gate @ gate.T, torch.eye(6), atol=1e-5)
    torch.manual_seed(0)
    plain = RecurrentNetwork(cell, 2, 6, 1).recurrent
    if cell == "rnn":
        assert torch.equal(layer.bias_ih_l0, plain.bias_ih_l0)
        return
    keeping = (layer.bias_ih_l0 + layer.bias_hh_l0).split(6)[1]
    assert keeping.tolist() == [5.0] * 6
    # So that a network of zero weights keeps its state: the second gate is the one that keeps it, in both cells.
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(layer, name).zero_()
        layer.bias_ih_l0[6:12] = 100.0
        if cell == "lstm":
            layer.bias_ih_l0[:6] = -200.0
    start = torch.rand(1, 1, 6)
    last = layer(torch.randn(9, 1, 2), (start, start) if cell == "lstm" else start)[1]
    assert torch.equal(last[1] if cell == "lstm" else last, start)


@pytest.mark.parametrize("cell", list(LAYERS))
def test_the_books_start_is_pytorchs(cell):
    torch.manual_seed(0)
    own = RecurrentNetwork(cell, 2, 6, 1).recurrent
    torch.manual_seed(0)
    plain = LAYERS[cell](2, 6)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in own.state_dict().items())


def test_recall_has_its_symbol_first_and_noise_behind():
    inputs, targets = draw_recall(50, generator(), 7, 4, 0.5)
    assert inputs.shape == (8, 50, 5) and targets.shape == (1, 50)
    assert torch.equal(inputs[0, :, :4].argmax(dim=-1), targets[0])
    assert (inputs[0].sum(dim=-1) == 1).all() and (inputs[1:, :, :4] == 0).all()
    assert inputs[1:, :, 4].std() == pytest.approx(0.5, rel=0.1)
    assert set(targets[0].tolist()) == {0, 1, 2, 3}


def test_answers_of_the_modes():
    inputs, targets = draw_one_to_one(100, generator())
    assert torch.equal(targets[0] == 1, inputs[0, :, 0] * inputs[0, :, 1] > 0)
    assert 0.2 <= inputs.abs().min() < 0.25 and 0.95 < inputs.abs().max() < 1
    inputs, targets = draw_one_to_many(100, generator())
    assert (inputs[1:] == 0).all() and targets.shape == (12, 100, 1)
    which = inputs[0].argmax(dim=-1)
    size = inputs[0].max(dim=-1).values
    step = 4  # of 12, the fifth
    expected = size * torch.sin(math.pi * (which + 1) * (step + 1) / 12)
    assert torch.allclose(targets[step, :, 0], expected, atol=1e-6)
    inputs, targets = draw_many_to_one(100, generator())
    assert torch.equal(targets[0] == 1, (inputs == 1).sum(dim=0)[:, 0] > 5)
    inputs, targets = draw_many_to_many(100, generator())
    powers = 2 ** torch.arange(10)
    first, second = (powers[:, None, None] * inputs).sum(dim=0).unbind(-1)  # each (batch,)
    assert torch.equal(first + second, (powers[:, None] * targets).sum(dim=0).float())


@pytest.mark.parametrize("name", list(MODES))
def test_networks_of_the_modes_fit_what_is_drawn(name):
    mode = MODES[name]
    inputs, targets = mode.draw(200, generator())
    assert inputs.shape[-1] == mode.input_size
    if mode.measure == "accuracy":
        assert set(targets.flatten().tolist()) == set(range(mode.output_size))
    else:
        assert targets.shape[-1] == mode.output_size


def test_loss_and_score_look_at_the_last_steps():
    outputs = torch.tensor([[[9.0, 0.0]], [[0.0, 9.0]]])  # (time, batch, out)
    assert loss_of(outputs, torch.tensor([[1]])) < 1e-3 < loss_of(outputs, torch.tensor([[0]]))
    assert score(outputs, torch.tensor([[1]]), "accuracy") == 1
    assert score(outputs, torch.tensor([[0], [1]]), "accuracy") == 1
    assert score(outputs, torch.tensor([[1], [1]]), "accuracy") == 0  # one wrong step spoils a sequence
    targets = torch.tensor([[[1.0]], [[3.0]]])
    assert score(torch.tensor([[[1.0]], [[2.0]]]), targets, "r2") == 0.5
    assert loss_of(torch.tensor([[[1.0]], [[2.0]]]), targets) == 0.5


def test_gradient_norms_are_those_of_finite_differences():
    torch.manual_seed(0)
    network = RecurrentNetwork("gru", 3, 4, 2).double()
    inputs, targets = torch.randn(5, 1, 3).double(), torch.tensor([[1]])
    norms = gradient_norms(network, (inputs, targets))
    for distance in (0, 3):
        step = 4 - distance
        slopes = []
        for channel in range(3):
            change = torch.zeros_like(inputs)
            change[step, 0, channel] = 1e-5
            with torch.no_grad():
                up, down = (loss_of(network(inputs + sign * change), targets) for sign in (1, -1))
            slopes.append((up - down).item() / 2e-5)
        assert norms[distance] == pytest.approx(np.linalg.norm(slopes), rel=1e-4)


def test_gradient_norms_are_a_mean_over_sequences():
    torch.manual_seed(0)
    network = RecurrentNetwork("rnn", 3, 4, 2)
    inputs, targets = torch.randn(5, 2, 3), torch.tensor([[1, 0]])
    single = [gradient_norms(network, (inputs[:, [index]], targets[:, [index]])) for index in range(2)]
    np.testing.assert_allclose(gradient_norms(network, (inputs, targets)), np.mean(single, axis=0), rtol=1e-4)


def test_memory_length_stops_at_the_first_that_is_forgotten():
    assert memory_length({5: 1.0, 10: 0.95, 20: 0.3, 40: 1.0}) == 10
    assert memory_length({5: 0.89}) == 0
    assert memory_length({40: 1.0, 5: 0.9}) == 40


@pytest.mark.parametrize("name", MODES)
def test_training_lowers_the_loss_and_follows_the_seed(name):
    mode, histories = MODES[name], []
    for _ in range(2):
        torch.manual_seed(0)
        drawn = generator()
        model = RecurrentNetwork("lstm", mode.input_size, 8, mode.output_size)
        losses = train(model, lambda drawn=drawn: mode.draw(16, drawn), 40, 0.02, "one_cycle", 1.0)
        histories.append(losses)
    assert histories[0] == histories[1]
    assert np.mean(histories[0][-5:]) < np.mean(histories[0][:5])


@pytest.mark.parametrize(("clip", "stays"), [(0.0, False), (0.5, True)])
def test_gradients_are_clipped_before_the_step(monkeypatch, clip, stays):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip_to_nothing)
    model = RecurrentNetwork("rnn", 2, 3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, lambda: draw_one_to_one(4, generator()), 2, 0.01, "constant", clip)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) == stays


def test_a_cycle_moves_on_with_every_step(steps_of_cycles):
    train(RecurrentNetwork("rnn", 2, 3, 2), lambda: draw_one_to_one(4, generator()), 3, 0.02, "one_cycle", 0.0)
    assert steps_of_cycles == [(0.02, 3)] * 3


def all_trainings() -> list[Training]:
    start = {"recurrent_init": "orthogonal", "memory_bias": 1.0}
    task, sizes = {"symbols": 3, "noise": 1.0}, {"hidden_size": 6, "batch_size": 4}
    trainings = []
    for cell in LAYERS:
        trainings += recall_trainings(cell, 0, lengths=[2, 5], runs=2, steps=4, task=task, start=start, **sizes)
        trainings += mode_trainings(cell, 0, steps=3, **sizes)
    return trainings


OPTIONS = {"learning_rate": 0.01, "schedule": "constant", "gradient_clip": 1.0}


def test_processes_change_no_result(tmp_path):
    # In a fresh interpreter, because what other tests have started isn't safe to fork.
    script = f"""
import pickle
from tests.ch05_recurrent_cells.test_ch05_functions import OPTIONS, all_trainings, run_trainings
pickle.dump(run_trainings(all_trainings(), 2, **OPTIONS), open({str(tmp_path / "results")!r}, "wb"))
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)
    others = pickle.loads((tmp_path / "results").read_bytes())
    results = run_trainings(all_trainings(), 1, **OPTIONS)
    assert len(results) == len(others) == 3 * (2 * 2 + 4)
    for (losses, weights), (other_losses, other_weights) in zip(results, others, strict=True):
        assert losses == other_losses
        assert weights.keys() == other_weights.keys()
        assert all(np.array_equal(weights[name], other_weights[name]) for name in weights)


def test_cells_see_the_same_batches_and_runs_others():
    drawn = {
        (training.network["cell"], training.name): training.draw(4, generator(training.seed))[0]
        for training in all_trainings()
    }
    assert torch.equal(drawn["rnn", "recall_5_1"], drawn["gru", "recall_5_1"])
    assert not torch.equal(drawn["rnn", "recall_5_0"], drawn["rnn", "recall_5_1"])
    assert [len(drawn["rnn", f"recall_{length}_0"]) for length in (2, 5)] == [3, 6]


def test_a_training_starts_from_its_seed():
    first, second = all_trainings()[:2]  # two runs of one length
    (losses, weights), (again, _), (other, _) = run_trainings([first, first, second], 1, **OPTIONS)
    assert losses == again and losses != other
    torch.manual_seed(first.seed)
    model = RecurrentNetwork(**first.network)
    drawn = generator(first.seed)
    assert train(model, lambda: first.draw(4, drawn), first.steps, **OPTIONS) == losses
    assert all(np.array_equal(value.numpy(), weights[name]) for name, value in model.state_dict().items())


def test_mean_losses_by_hand():
    losses = {
        "recall_2_0": [1.0, 2.0],
        "recall_2_1": [3.0, 4.0],
        "recall_20_0": [6.0, 7.0],
        "recall_20_1": [8.0, 9.0],
        "one_to_one": [99.0, 99.0],
    }
    expected = {"length_2": [2.0, 3.0], "length_20": [7.0, 8.0], "mean": [4.5, 5.5]}
    assert mean_losses(losses, [2, 20], 2) == expected


def test_no_training_draws_what_is_tested_on():
    (tested, _), (trained, _) = (
        draw_recall(20, own, 4, symbols=3, noise=1.0) for own in (held_out_generator(3), generator(3))
    )
    assert tested.shape == trained.shape
    assert not any(torch.equal(own, other) for own in tested.unbind(1) for other in trained.unbind(1))
