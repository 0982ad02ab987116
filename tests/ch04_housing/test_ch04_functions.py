"""Chapter 4's functions: what the features become, who learns from which row, and that networks keep to themselves."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from stages.ch04_housing.model import BatchedLinear, HousingModel, PeriodicEmbedding
from stages.ch04_housing.preprocess import held_out_folds, transformed
from stages.ch04_housing.train import fit_scaling, fold_splits, train, train_in_parts, training_weights
from stages.common.seeds import seed_of

BOOK = {
    "target": "raw",
    "members": 1,
    "frequencies": 0,
    "frequency_scale": 0.0,
    "embedding_size": 0,
    "hidden_sizes": [16, 8],
    "activation": "relu",
    "process_share": 0.0,
    "process_groups": [],
    "rows": 30,
}
TUNED = {
    "target": "log",
    "members": 2,
    "frequencies": 3,
    "frequency_scale": 0.3,
    "embedding_size": 2,
    "hidden_sizes": [5, 4],
    "activation": "silu",
    "process_share": 0.5,
    "process_groups": [3],
    "rows": 30,
}
BOOK_TRAINING = {
    "scaled_on": "all",
    "optimizer": "sgd",
    "schedule": "constant",
    "learning_rate": 0.003,
    "weight_decay": 0.0,
    "process_steps": 0,
    "process_learning_rate": 0.0,
}
TUNED_TRAINING = {
    "scaled_on": "train",
    "optimizer": "adamw",
    "schedule": "one_cycle",
    "learning_rate": 0.02,
    "weight_decay": 1.0,
    "process_steps": 3,
    "process_learning_rate": 0.1,
}
RECIPES = pytest.mark.parametrize(("shape", "options"), [(BOOK, BOOK_TRAINING), (TUNED, TUNED_TRAINING)])


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Features (30, 13) on unlike scales, and prices (30,)."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(30, 13, generator=generator, dtype=torch.float64)
    prices = 22 + 5 * features[:, 0] - 3 * features[:, 1] + torch.randn(30, generator=generator, dtype=torch.float64)
    return features * torch.logspace(-1, 2, 13) + 4, prices.clamp(5, 50)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def states_equal(first: HousingModel, second: HousingModel) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_features_of_a_row():
    row = {"CRIM": math.e, "ZN": 0, "RM": 6.5, "DIS": math.e**2, "LSTAT": 1, "B": 399, "TAX": 300}
    table = pd.DataFrame([row, {**row, "ZN": math.e - 1, "B": 390}])
    assert transformed(table, "raw").to_dict("list") == table.astype(float).to_dict("list")
    log = transformed(table, "log")
    assert list(log.columns) == list(row)
    assert log.iloc[0].tolist() == pytest.approx([1, 0, 6.5, 2, 0, 0, 300])
    assert log.iloc[1].tolist() == pytest.approx([1, 1, 6.5, 2, 0, math.log(10), 300])
    assert table["B"].tolist() == [399, 390]  # the caller's table is left alone


def test_each_row_is_held_out_once_a_repeat():
    folds = held_out_folds(rows=23, splits=5, repeats=3, seed=0)
    assert folds.shape == (3, 23)
    for repeat in folds:
        assert sorted(np.bincount(repeat)) == [4, 4, 5, 5, 5]
    assert not np.array_equal(folds[0], folds[1])
    np.testing.assert_array_equal(held_out_folds(23, 5, 3, seed=0), folds)
    others = held_out_folds(23, 5, 3, seed=1)
    assert not any(np.array_equal(own, other) for own in folds for other in others)


def test_groups_are_held_out_whole():
    groups = np.arange(23) // 2
    folds = held_out_folds(23, 5, 3, seed=0, groups=groups)
    assert all(set(repeat) == set(range(5)) for repeat in folds)
    np.testing.assert_array_equal(folds[:, :-1:2], folds[:, 1::2])
    assert not np.array_equal(folds[0], folds[1])


def test_fold_splits_by_hand():
    splits = [(train.tolist(), held.tolist()) for train, held in fold_splits(np.array([[0, 1, 0, 1], [1, 1, 0, 0]]))]
    assert splits == [([1, 3], [0, 2]), ([0, 2], [1, 3]), ([0, 1], [2, 3]), ([2, 3], [0, 1])]


def test_training_weights_by_hand():
    assert training_weights([np.array([0, 2]), np.array([3])], rows=4).tolist() == [[0.5, 0, 0.5, 0], [0, 0, 0, 1]]


def test_batched_linear_is_a_linear_layer_a_copy():
    layer = BatchedLinear(2, 3, 4, generators(0, 1, 2))
    inputs = torch.randn(6, 3, 5)
    outputs = layer(inputs)
    assert outputs.shape == (6, 4, 5)
    for copy in range(6):
        plain = nn.Linear(3, 4)
        plain.load_state_dict({"weight": layer.weight[copy].detach().T, "bias": layer.bias[copy, 0].detach()})
        torch.testing.assert_close(outputs[copy].T, plain(inputs[copy].T))
    bound = 3**-0.5  # nn.Linear's for three inputs
    assert 0.9 * bound < layer.weight.abs().max() <= bound and 0.9 * bound < layer.bias.abs().max() <= bound
    assert layer.weight.min() < -0.8 * bound and layer.bias.min() < -0.8 * bound
    assert len(layer.weight.unique()) == 6 * 3 * 4


def test_periodic_embedding_by_hand():
    embedding = PeriodicEmbedding(1, features=2, frequencies=1, scale=1.0, size=1, generators=generators(0))
    with torch.no_grad():
        embedding.frequency.copy_(torch.tensor([[[0.25]], [[0.5]]]))
        embedding.linear.weight.copy_(torch.tensor([[[1.0], [10.0]], [[2.0], [20.0]]]))  # of sine and cosine
        embedding.linear.bias.zero_()
    # Feature 0: sin and cos of 2π·0.25·1 are 1 and 0. Feature 1: of 2π·0.5·2 they are 0 and 1.
    waves = embedding.waves(torch.tensor([[[1.0], [2.0]]]))
    torch.testing.assert_close(waves, torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(embedding(waves, 2), torch.tensor([[[1.0], [20.0]]]), rtol=0, atol=1e-5)
    # ReLU: feature 0 at −1 gives a sine of −1; feature 1 at 1 a cosine of −1.
    waves = embedding.waves(torch.tensor([[[-1.0], [1.0]]]))
    torch.testing.assert_close(embedding(waves, 2), torch.tensor([[[0.0], [0.0]]]), rtol=0, atol=1e-5)


def test_frequencies_are_drawn_with_their_scale():
    embedding = PeriodicEmbedding(5, features=4, frequencies=50, scale=0.3, size=1, generators=generators(0, 1))
    assert embedding.frequency.shape == (40, 1, 50)
    assert embedding.frequency.std().item() == pytest.approx(0.3, rel=0.05)
    assert embedding.frequency.mean().item() == pytest.approx(0, abs=0.02)


def test_periodic_embedding_keeps_networks_rows_and_features_apart():
    embedding = PeriodicEmbedding(2, features=3, frequencies=2, scale=1.0, size=4, generators=generators(0, 1))
    inputs = torch.randn(4, 3, 5)  # two runs of two networks
    embedded = embedding(embedding.waves(inputs), 3)
    assert embedded.shape == (4, 12, 5)
    for network in range(4):
        for feature in range(3):
            one = network * 3 + feature
            phase = 2 * math.pi * inputs[network, feature, :, None] * embedding.frequency[one]
            waves = torch.cat([phase.sin(), phase.cos()], dim=1)
            expected = (waves @ embedding.linear.weight[one] + embedding.linear.bias[one]).relu()
            torch.testing.assert_close(embedded[network, 4 * feature : 4 * feature + 4].T, expected)


def test_prices_are_the_mean_over_members_behind_the_logarithm():
    model = HousingModel([0], 13, **TUNED).eval()
    model.target_mean.fill_(3.0)
    model.target_deviation.fill_(0.5)
    features = torch.randn(1, 4, 13)
    outputs = model.scaled_outputs(*model.encoded(features))
    assert outputs.shape == (2, 4)
    networks = (outputs * 0.5 + 3).exp().mean(dim=0, keepdim=True)
    # A process that has learnt nothing expects the mean, a logarithm of 3; its share is a half.
    torch.testing.assert_close(model(features), (networks + math.exp(3)) / 2)
    torch.testing.assert_close(model(features[0]), model(features)[0])


def test_book_network_has_369_parameters():
    # (13·16 + 16) + (16·8 + 8) + (8 + 1)
    assert sum(parameter.numel() for parameter in HousingModel([0], 13, **BOOK).parameters()) == 369


def test_scaling_of_training_rows_alone_or_of_all(rows):
    features, prices = (values.float() for values in rows)
    chosen = [np.arange(10), np.arange(5, 30)]
    weights = training_weights(chosen, 30)
    model = HousingModel([0, 1], 13, **TUNED)
    fit_scaling(model, features, prices.log(), weights, "train")
    for run, part in enumerate(chosen):
        torch.testing.assert_close(model.feature_mean[run, 0], features[part].mean(dim=0))
        torch.testing.assert_close(model.feature_deviation[run, 0], features[part].std(dim=0, unbiased=False))
        torch.testing.assert_close(model.target_mean[run, 0], prices[part].log().mean())
        torch.testing.assert_close(model.target_deviation[run, 0], prices[part].log().std(unbiased=False))
    fit_scaling(model, features, prices.log(), weights, "all")
    for run, part in enumerate(chosen):
        torch.testing.assert_close(model.feature_mean[run, 0], features.mean(dim=0))
        torch.testing.assert_close(model.feature_deviation[run, 0], features.std(dim=0, unbiased=False))
        torch.testing.assert_close(model.target_mean[run, 0], prices[part].log().mean())  # the price never leaks


@RECIPES
def test_run_does_not_depend_on_its_neighbours(rows, shape, options):
    chosen = [np.arange(20), np.arange(8, 30)]  # unlike numbers of rows, as folds have
    both = HousingModel([3, 4], 13, **shape)
    history = train(both, *rows, chosen, epochs=10, **options)
    inputs = rows[0].float()
    predictions = both(inputs.expand(2, -1, -1))
    for run, seed in enumerate((3, 4)):
        alone = HousingModel([seed], 13, **shape)
        history_alone = train(alone, *rows, [chosen[run]], epochs=10, **options)
        torch.testing.assert_close(predictions[run], alone(inputs), rtol=1e-5, atol=1e-5)
        for name, value in both.state_dict().items():
            part = value.chunk(2)[run]
            torch.testing.assert_close(part, alone.state_dict()[name], rtol=1e-4, atol=1e-5)
        if run == 0:
            assert history["train_loss"] == pytest.approx(history_alone["train_loss"], rel=1e-5)


@RECIPES
def test_first_run_is_a_model_of_its_own(rows, shape, options):
    model = HousingModel([3, 4, 5], 13, **shape)
    train(model, *rows, [np.arange(20)] * 3, epochs=2, **options)
    inputs = rows[0].float()
    first = model.first_run()
    assert first.runs == 1
    torch.testing.assert_close(first(inputs), model(inputs.expand(3, -1, -1))[0])


@RECIPES
@pytest.mark.parametrize("changed", ["features", "prices"])
def test_rows_held_out_leave_no_trace_but_in_the_books_scaling(rows, shape, options, changed):
    features, prices = rows
    other_features, other_prices = features.clone(), prices.clone()
    if changed == "features":
        other_features[25:] = other_features[25:] * 3 + 1
    else:
        other_prices[25:] = other_prices[25:] * 3 + 1
    chosen, models = [np.arange(25)] * 2, {}
    for scaled_on in ("train", "all"):
        pair = []
        for table in ((features, prices), (other_features, other_prices)):
            model = HousingModel([0, 1], 13, **shape)
            train(model, *table, chosen, epochs=6, **{**options, "scaled_on": scaled_on})
            pair.append(model)
        models[scaled_on] = pair
    assert states_equal(*models["train"])
    assert states_equal(*models["all"]) == (changed == "prices")


@RECIPES
def test_parts_and_threads_change_no_byte(rows, shape, options):
    chosen = [np.arange(start, 30 - start) for start in range(7)]  # three parts: of 3 runs, 3 and 1
    groups = {"other": chosen[:2], "all": chosen}
    options = {**options, "epochs": 6}
    trained = [train_in_parts(*rows, groups, 3, processes=count, shape=shape, options=options) for count in (1, 2)]
    for name in groups:
        assert states_equal(trained[0][name][0], trained[1][name][0]) and trained[0][name][1] == trained[1][name][1]
    assert trained[0]["other"][0].runs == 2
    one, history = trained[0]["all"]
    whole = HousingModel([seed_of(3, run) for run in range(7)], 13, **shape)
    assert train(whole, *rows, chosen, **options)["train_loss"] == pytest.approx(history["train_loss"], rel=1e-5)
    inputs = rows[0].float().expand(7, -1, -1)
    torch.testing.assert_close(one(inputs), whole(inputs), rtol=1e-5, atol=1e-5)


def test_books_options_are_the_books_program(rows):
    features, prices = (values.float() for values in rows)
    chosen = np.arange(24)
    model = HousingModel([0, 1], 13, **BOOK)
    plain = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))
    for layer, batched in zip(plain[::2], model.layers, strict=True):
        layer.load_state_dict({"weight": batched.weight[1].detach().T, "bias": batched.bias[1, 0].detach()})
    train(model, *rows, [np.arange(30), chosen], epochs=20, **BOOK_TRAINING)

    scaled = (features - features.mean(dim=0)) / features.std(dim=0, unbiased=False)  # StandardScaler on all rows
    optimizer, criterion = torch.optim.SGD(plain.parameters(), lr=0.003), nn.MSELoss()
    for _ in range(20):
        optimizer.zero_grad()
        criterion(plain(scaled[chosen]), prices[chosen].unsqueeze(1)).backward()
        optimizer.step()
    torch.testing.assert_close(model(features.expand(2, -1, -1))[1], plain(scaled).squeeze(1), rtol=1e-4, atol=1e-4)


def test_loss_is_that_of_the_first_run_before_each_step(rows):
    features, prices = (values.float() for values in rows)
    chosen = np.arange(20)
    model = HousingModel([0, 1], 13, **BOOK)
    fit_scaling(model, features, prices, training_weights([chosen] * 2, 30), "all")
    untrained = ((model(features.expand(2, -1, -1))[0] - prices)[chosen] ** 2).mean().item()
    history = train(model, *rows, [chosen] * 2, epochs=1, **BOOK_TRAINING)
    assert history == {"train_loss": [pytest.approx(untrained, rel=1e-5)]}


def test_tuned_options_are_adamw_with_decayed_weights_and_a_cycle(rows):
    shape, chosen = {**TUNED, "process_share": 0.0, "process_groups": []}, np.arange(24)
    model, plain = (HousingModel([0], 13, **shape) for _ in range(2))
    train(model, *rows, [chosen], epochs=10, **TUNED_TRAINING)
    features, prices = (values.float() for values in rows)
    fit_scaling(plain, features, prices.log(), training_weights([chosen], 30), "train")
    targets = (prices.log() - plain.target_mean) / plain.target_deviation
    groups = [
        {
            "params": [value for name, value in plain.named_parameters() if name.endswith("weight") == decays],
            "weight_decay": float(decays),
        }
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.02, total_steps=10, pct_start=0.2, cycle_momentum=False
    )
    for _ in range(10):
        optimizer.zero_grad()
        outputs = plain.scaled_outputs(*plain.encoded(features[None]))
        (outputs - targets)[:, chosen].square().mean(dim=1).sum().backward()
        optimizer.step()
        scheduler.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
