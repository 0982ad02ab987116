"""Chapter 7's functions: IDX files, networks, augmentation, schedule, measures, and going on after a break."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stages.ch07_mnist import params_schema, plot
from stages.ch07_mnist.augment import augment, random_affine
from stages.ch07_mnist.dataset import DEVIATION, MEAN
from stages.ch07_mnist.evaluate import calibration_error, first_layer, measure, probabilities_of
from stages.ch07_mnist.facts import all_facts
from stages.ch07_mnist.model import BookNetwork, build_network
from stages.ch07_mnist.preprocess import hold_out, read_idx
from stages.ch07_mnist.train import STEPS_PER_AVERAGE, Trainer, logits_of, train
from stages.common.checkpoint import Checkpoint
from stages.common.optimizers import rate_share

SGD = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0.001, "average_decay": 0.9}
BOOK = {"optimizer": "adadelta", "learning_rate": 0.01, "weight_decay": 0.0, "average_decay": 0.0}
OPTIONS = {
    "seed": 0,
    "epochs": 4,
    "batch_size": 8,
    "shuffle": True,
    "schedule": "linear",
    "warmup": 0.2,
    "label_smoothing": 0.05,
    "precision": "float32",
}
BOOK_OPTIONS = {**OPTIONS, "shuffle": False, "schedule": "constant", "warmup": 0.0, "label_smoothing": 0.0}


def pictures(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 28, 28, generator=generator).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(10, (count,), generator=generator)


def idx(*numbers: int, values: bytes = b"") -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers) + values


def test_idx_pictures_and_labels(tmp_path):
    path = tmp_path / "idx"
    path.write_bytes(idx(2051, 2, 1, 3, values=bytes([0, 1, 2, 253, 254, 255])))
    assert read_idx(path).tolist() == [[[0, 1, 2]], [[253, 254, 255]]]
    path.write_bytes(idx(2049, 4, values=bytes([7, 2, 1, 0])))
    labels = read_idx(path)
    assert (labels.tolist(), labels.dtype) == ([7, 2, 1, 0], np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(2051, 2, 1, 3, values=bytes(5)), "holds 5 values where its header says"),  # cut off
        (idx(2051, 2, 1, 3, values=bytes(7)), "holds 7 values where its header says"),
        (idx(2049, 3, values=bytes(2)), "holds 2 values where its header says"),
        (idx(2050, 1, 1, values=bytes(1)), "is no IDX file of bytes: it begins with 2050"),
        (b"\x1f\x8b\x08\x00 still packed", "is no IDX file of bytes"),
        (b"", "is no IDX file of bytes"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "idx").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "idx")


@pytest.mark.parametrize("content", [idx(2051, 2), idx(2051), idx(2049), b"\x00\x00"])
def test_file_cut_off_in_its_header_is_refused(tmp_path, content):
    (tmp_path / "idx").write_bytes(content)
    with pytest.raises(ValueError):
        read_idx(tmp_path / "idx")


@pytest.mark.parametrize("validation", [0, 1, 7, 19])
def test_pictures_held_out_are_the_rest_of_those_trained_on(validation):
    train_rows, held_out = hold_out(20, validation, seed=0)
    assert len(held_out) == validation
    assert sorted([*train_rows, *held_out]) == list(range(20))
    assert train_rows.tolist() == sorted(train_rows)
    np.testing.assert_array_equal(hold_out(20, validation, seed=0)[1], held_out)


def test_seed_decides_what_is_held_out():
    assert hold_out(1000, 100, seed=0)[1].tolist() != hold_out(1000, 100, seed=1)[1].tolist()


def as_printed(network: BookNetwork, x: torch.Tensor) -> torch.Tensor:
    """Fig. 73's forward, line by line, without dropout."""
    x = F.relu(F.conv2d(x, network.conv1.weight, network.conv1.bias))
    x = F.relu(F.conv2d(x, network.conv2.weight, network.conv2.bias))
    x = F.max_pool2d(x, 2)
    x = torch.flatten(x, 1)
    x = F.relu(x @ network.fc1.weight.T + network.fc1.bias)
    x = x @ network.fc2.weight.T + network.fc2.bias
    return F.log_softmax(x, dim=1)


def test_book_network_is_the_one_printed():
    torch.manual_seed(0)
    network = build_network("book", [1, 2, 3], dropout=0.25).eval()
    # (9·1 + 1)·32 + (9·32 + 1)·64 + (9216 + 1)·128 + (128 + 1)·10
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_199_882
    images, labels = pictures(6)
    expected = as_printed(network, images.contiguous())
    torch.testing.assert_close(network(images).log_softmax(dim=1), expected, rtol=0, atol=1e-6)
    # The loss of the book is the negative log-likelihood; ours is the cross-entropy of logits.
    torch.testing.assert_close(F.cross_entropy(network(images), labels), F.nll_loss(expected, labels))


def test_book_network_drops_the_printed_shares():
    torch.manual_seed(0)
    network = BookNetwork(dropout=0.25).train()
    for dropout, share in ((network.dropout1, 0.25), (network.dropout2, 0.5)):
        assert (dropout(torch.ones(100, 400)) == 0).float().mean().item() == pytest.approx(share, abs=0.01)


def test_book_network_has_the_printed_gradients():
    torch.manual_seed(0)
    network = BookNetwork(dropout=0.25).eval()
    images, labels = pictures(4)
    F.nll_loss(as_printed(network, images), labels).backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_check_of_parameters_knows_how_often_the_average_is_updated():
    assert params_schema.STEPS_PER_AVERAGE == STEPS_PER_AVERAGE  # twice, because the check doesn't load PyTorch


@pytest.mark.parametrize("channels", [1, 2, 7, 20])
def test_every_filter_is_drawn_with_its_map(tmp_path, monkeypatch, channels):
    figures = []
    monkeypatch.setattr(plot, "save_figure", lambda figure, path: figures.append(figure))
    filters = np.arange(channels * 25.0).reshape(channels, 5, 5)
    plot.plot_feature_maps(np.zeros((28, 28)), filters, np.zeros((channels, 24, 24)), tmp_path / "maps.png")
    titles = [axis.get_title() for axis in figures[0].axes]
    shown = min(channels, plot.CHANNELS_SHOWN)
    assert sorted(title for title in titles if title.startswith("filter")) == sorted(
        f"filter {channel}" for channel in range(shown)
    )
    assert titles.count("its map") == shown
    assert all(bool(axis.images) == axis.axison for axis in figures[0].axes)  # what is empty has no frame


def test_tuned_network_has_its_widths():
    network = build_network("tuned", [4, 6, 8], dropout=0.0)
    # Convolutions without biases, then two normalisation weights a channel, then 9 values a channel to 10 digits.
    assert sum(parameter.numel() for parameter in network.parameters()) == (
        (25 * 4 + 8) + (9 * 4 * 6 + 12) + (9 * 6 * 8 + 16) + (9 * 8 * 10 + 10)
    )
    images, _ = pictures(5)
    logits = network.eval()(images)
    assert logits.shape == (5, 10)
    torch.testing.assert_close(torch.cat([network(images[:2]), network(images[2:])]), logits)


def test_nothing_to_augment_changes_nothing():
    assert random_affine(0.0, 0.0, 0.0, 0.0) is None
    images, _ = pictures(3)
    assert augment(images, None) is images


@pytest.mark.parametrize("options", [(20.0, 0, 0, 0), (0, 0.2, 0, 0), (0, 0, 0.3, 0), (0, 0, 0, 20.0)])
def test_augmentation_keeps_shape_and_follows_the_seed(options):
    images, _ = pictures(40)
    transform = random_affine(*options)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(augment(images, transform))
    assert results[0].shape == images.shape and results[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2]) and not torch.equal(results[0], images)


def test_what_a_shift_uncovers_is_black():
    black = torch.full((40, 1, 28, 28), -MEAN / DEVIATION)
    torch.manual_seed(0)
    torch.testing.assert_close(augment(black, random_affine(0.0, 0.2, 0.0, 0.0)), black)


def test_pictures_of_a_group_are_transformed_alike():
    picture, _ = pictures(1)
    torch.manual_seed(0)
    changed = augment(picture.expand(40, -1, -1, -1), random_affine(20.0, 0.1, 0.1, 5.0))
    assert all(torch.equal(changed[index], changed[0]) for index in range(32))
    assert all(torch.equal(changed[index], changed[32]) for index in range(32, 40))
    assert not torch.equal(changed[0], changed[32])


def test_measures_by_hand():
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])
    labels = np.array([0, 0, 1, 1])  # one error: the last
    metrics = measure(probabilities, labels)
    # Three of confidence 0.75 share a bin, two of them right; the one of 0.5 is right.
    ece = 3 / 4 * (0.75 - 2 / 3) + 1 / 4 * 0.5
    loss = -np.log([0.75, 0.5, 0.75, 0.25]).mean()
    assert metrics == {
        "accuracy": 0.75,
        "loss": pytest.approx(loss, abs=1e-6),
        "error_count": 1,
        "ece": pytest.approx(ece, abs=1e-6),
        "class_accuracy": {"0": 1.0, "1": 0.5},
    }


def test_sure_and_wrong_has_a_finite_loss():
    assert measure(np.array([[1.0, 0.0]]), np.array([1]))["loss"] == pytest.approx(-np.log(1e-12), abs=1e-6)


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_calibration_error_is_torchmetrics(sharpness):
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(1)
    logits = sharpness * torch.randn(500, 10, generator=generator, dtype=torch.float64)
    probabilities, labels = logits.softmax(dim=1), torch.randint(10, (500,), generator=generator)
    expected = multiclass_calibration_error(probabilities, labels, num_classes=10, n_bins=15, norm="l1").item()
    assert calibration_error(probabilities.numpy(), labels.numpy()) == pytest.approx(expected, abs=1e-6)


def test_shifted_views_are_the_mean_over_five_pictures():
    model = build_network("tuned", [2, 3, 4], dropout=0.5)
    images, _ = pictures(7)
    torch.testing.assert_close(
        torch.from_numpy(probabilities_of(model, images, shifted_views=False)), logits_of(model, images).softmax(dim=1)
    )
    views = [images.roll(shift, dims=axis) for axis in (2, 3) for shift in (1, -1)] + [images]
    expected = sum(logits_of(model, view).softmax(dim=1) for view in views) / 5
    torch.testing.assert_close(torch.from_numpy(probabilities_of(model, images, shifted_views=True)), expected)


def test_first_layer_is_the_first_convolution():
    model = build_network("book", [1, 2, 3], dropout=0.25)
    image, _ = pictures(1)
    filters, maps = first_layer(model, image)
    assert (filters.shape, maps.shape) == ((32, 3, 3), (32, 26, 26))
    corner = (filters * image[0, 0, :3, :3].numpy()).sum(axis=(1, 2)) + model.conv1.bias.detach().numpy()
    np.testing.assert_allclose(maps[:, 0, 0], corner, rtol=1e-4, atol=1e-5)


def test_books_epoch_is_its_plain_program():
    torch.manual_seed(0)
    network = build_network("book", [1, 2, 3], dropout=0.0)
    plain = build_network("book", [1, 2, 3], dropout=0.0)
    for module in (network, plain):
        module.dropout2 = nn.Identity()  # what is drawn differs, what is computed must not
    plain.load_state_dict(network.state_dict())
    images, labels = pictures(20)
    trainer = Trainer(network, **BOOK)
    train(trainer, (images, labels), pictures(0), None, **{**BOOK_OPTIONS, "epochs": 1})

    optimizer, losses = torch.optim.Adadelta(plain.parameters(), lr=0.01), []
    for batch, target in zip(images.split(8), labels.split(8), strict=True):
        optimizer.zero_grad()
        loss = F.nll_loss(as_printed(plain, batch), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item() * len(batch))
    assert trainer.history == {"train_loss": [pytest.approx(sum(losses) / 20, rel=1e-5)]}
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(trainer.best[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.9, 0.5])  # by its age, and by its own decay, at these few steps
def test_tuned_epochs_are_their_plain_program(decay):
    torch.manual_seed(0)
    network = build_network("tuned", [2, 3, 4], dropout=0.0)
    plain = copy.deepcopy(network)
    average = copy.deepcopy(network.state_dict())
    images, labels = pictures(20)
    trainer = Trainer(network, **{**SGD, "weight_decay": 0.1, "average_decay": decay})
    train(trainer, (images, labels), pictures(0), None, **OPTIONS)

    matrices, others = ([part for part in plain.parameters() if (part.ndim > 1) == wanted] for wanted in (True, False))
    optimizer = torch.optim.SGD(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others}], 0.05, momentum=0.9, nesterov=True
    )
    step = 0
    for epoch in range(4):
        torch.manual_seed(epoch)
        for batch in torch.randperm(20).split(8):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * rate_share(step / 12, "linear", 0.2)
            optimizer.zero_grad()
            F.cross_entropy(plain(images[batch]), labels[batch], label_smoothing=0.05).backward()
            optimizer.step()
            step += 1
            if step % 5 == 0:
                share = 1 - min(decay**5, step / (step + 49))
                for name, value in plain.state_dict().items():
                    if value.is_floating_point():
                        average[name].lerp_(value, share)
    for name, value in average.items():
        if value.is_floating_point():
            torch.testing.assert_close(trainer.best[name], value, rtol=1e-3, atol=1e-4)


def test_best_weights_are_those_of_the_most_accurate_epoch_the_latest_of_equals():
    trainer = Trainer(build_network("tuned", [2, 3, 4], dropout=0.0), **{**SGD, "average_decay": 0.0})
    images, labels = pictures(8)
    bias = trainer.model.output.bias

    def validate(favourite: int) -> None:
        with torch.no_grad():
            bias.zero_()[favourite] = 1e6  # so that every picture is taken for this digit
        trainer.validate(images, labels)

    labels = torch.tensor([3, 3, 5, 5, 5, 7, 7, 7])
    for favourite in (3, 5, 7, 3):
        validate(favourite)
    assert trainer.history["validation_accuracy"] == [0.25, 0.375, 0.375, 0.25]
    assert trainer.best["output.bias"].argmax().item() == 7


def test_without_held_out_pictures_the_last_epoch_is_kept():
    trainer = Trainer(build_network("book", [1, 2, 3], dropout=0.25), **BOOK)
    train(trainer, pictures(16), pictures(0), None, **{**BOOK_OPTIONS, "epochs": 2})
    assert list(trainer.history) == ["train_loss"]
    assert all(torch.equal(trainer.best[name], value) for name, value in trainer.model.state_dict().items())


def test_training_that_diverges_ends_after_its_epoch():
    saved = []
    trainer = Trainer(build_network("book", [1, 2, 3], dropout=0.0), **{**BOOK, "learning_rate": 1e30})
    with pytest.raises(SystemExit, match=r"^ch07_train: train_loss is (nan|inf) after epoch 1: the training diverged"):
        train(trainer, pictures(64), pictures(0), None, after_epoch=saved.append, **{**BOOK_OPTIONS, "epochs": 9})
    assert trainer.epochs_done == 1
    assert saved == []


RESUMED = {
    "tuned": ("tuned", SGD, OPTIONS, random_affine(9.0, 0.07, 0.1, 6.0), 12),
    "book": ("book", BOOK, BOOK_OPTIONS, None, 0),
}


@pytest.mark.parametrize("recipe", RESUMED)
def test_training_goes_on_after_each_epoch_to_the_same_bytes(workspace, recipe):
    network, optimization, options, transform, held_out = RESUMED[recipe]
    data, validation = pictures(44), pictures(held_out, seed=1)

    def new_trainer() -> Trainer:
        torch.manual_seed(0)
        return Trainer(build_network(network, [4, 6, 8], dropout=0.25), **optimization)

    whole = new_trainer()
    checkpoints = []

    def save(trainer: Trainer) -> None:
        checkpoints.append(Checkpoint("ch07_train", f"epoch{trainer.epochs_done}"))
        trainer.save(checkpoints[-1])

    whole.started -= 1000  # as if it had taken so many seconds
    train(whole, data, validation, transform, after_epoch=save, **options)
    assert whole.epochs_done == len(checkpoints) == 4
    for done, checkpoint in enumerate(checkpoints[:-1], start=1):
        torch.manual_seed(done)  # another process would be in another state
        resumed = Trainer(build_network(network, [4, 6, 8], dropout=0.25), **optimization)
        resumed.restore(checkpoint)
        assert resumed.epochs_done == done
        assert whole.started <= resumed.started < whole.started + 100
        train(resumed, data, validation, transform, **options)
        assert resumed.history == whole.history
        assert resumed.best_accuracy == whole.best_accuracy
        for name in ("best", "model", "average"):
            states = [getattr(trainer, name) for trainer in (resumed, whole)]
            first, second = (state.state_dict() if isinstance(state, nn.Module) else state for state in states)
            assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []


def test_every_fact_holds():
    torch.manual_seed(1)
    facts = all_facts()
    assert [fact for fact in facts if not fact["holds"]] == []
    assert {fact["figure"] for fact in facts} == {"67", "68", "69", "70", "73", "text"}
