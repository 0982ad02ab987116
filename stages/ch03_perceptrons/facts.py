"""What chapter 3 shows and says of networks in PyTorch, each computed and found true or false."""

import copy
import operator
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from stages.ch03_perceptrons.model import (
    CONTAINERS,
    InPlainList,
    MultiLayer,
    MultiLayerAsPrinted,
    SingleLayer,
    fitted_network,
    layers,
    parameter_count,
    sequential,
)
from stages.common.facts import Facts, collected, raises


def activation_facts() -> Facts:
    x = torch.linspace(-5, 5, 201, dtype=torch.float64)
    threshold = (torch.sign(x[x != 0]) + 1) / 2
    yield "25", "the threshold gives 0 and 1 only, but at 0 itself", set(threshold.tolist()) == {0.0, 1.0}
    yield "25", "written with torch.sign it gives ½ there", (torch.sign(torch.zeros(())) + 1) / 2 == 0.5
    yield "26", "ReLU returns x where x > 0, else 0", torch.equal(torch.relu(x), torch.where(x > 0, x, 0))
    same = torch.allclose(torch.tanh(x), 2 * torch.sigmoid(2 * x) - 1, atol=1e-12)
    yield "26", "tanh(x) = 2·sigmoid(2x) − 1: the sigmoid, stretched", same
    gap = F.softplus(x) - torch.relu(x)
    yield "26", "softplus is above ReLU, here from −5 to 5", bool((gap > 0).all())
    yield "26", "their gap is largest at 0, where it is ln 2", gap.argmax() == 100 and abs(gap.max() - 0.6931472) < 1e-6
    composed = torch.sigmoid(3 * torch.sigmoid(2 * x) - 1)
    slopes = composed.diff()
    yield "26", "a sigmoid of a sigmoid isn't linear", bool(slopes.max() > 2 * slopes.min())
    matrix, other = torch.randn(4, 3).double(), torch.randn(2, 4).double()
    inputs = torch.randn(5, 3).double()
    linear = torch.allclose(inputs @ matrix.T @ other.T, inputs @ (other @ matrix).T)
    yield "25", "two linear layers in a row are one", linear
    weight = torch.ones(3, requires_grad=True)
    wrapped = torch.autograd.Variable(weight)
    same = type(wrapped) is torch.Tensor and wrapped.data_ptr() == weight.data_ptr()
    yield "27", "Variable(x) is a plain tensor with x's memory", same
    yield "27", "Variable(x) is cut off from x: no gradient gets there", not wrapped.requires_grad


def network_facts() -> Facts:
    yield "32", "a layer 20 → 5 has 20·5 + 5 = 105 parameters", parameter_count(SingleLayer()) == 105
    yield "32", "its output is never below zero", bool((SingleLayer()(torch.randn(100, 20)) >= 0).all())
    printed = MultiLayerAsPrinted()
    failed = raises(lambda: printed(torch.randn(4, 100))) == "RuntimeError"
    yield "33", "as printed, forward raises RuntimeError: 50 numbers meet a layer of 20", failed
    yield "33", "as printed, there are two layers and 5,071 parameters", parameter_count(printed) == 5071
    yield "33", "mended, there are 5,050 + 1,020 + 21 = 6,091", parameter_count(MultiLayer()) == 6091
    yield "33", "mended, forward gives (batch, 1)", MultiLayer()(torch.randn(4, 100)).shape == (4, 1)
    yield "34", "the Sequential has 330 + 62 = 392 parameters", parameter_count(sequential()) == 392
    yield "35", "1000 → 100 → 10 has 100,100 + 1,010 = 101,110", parameter_count(fitted_network()) == 101_110


def softmax_facts() -> Facts:
    inputs = torch.randn(4, 3, 10)
    explicit, implicit = sequential(), sequential("implicit")
    implicit.load_state_dict(explicit.state_dict())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flat, deep = implicit(inputs[0]), implicit(inputs)
    yield "34", "Softmax() without dim warns", len(caught) > 0
    yield "34", "of a batch (3, 2) it gives what dim=1 gives", torch.equal(flat, explicit(inputs[0]))
    yield "34", "of (4, 3, 2) it sums over the first dimension", torch.allclose(deep.sum(dim=0), torch.ones(3, 2))
    yield "34", "so that the two classes' shares don't add up to 1", not torch.allclose(deep.sum(-1), torch.ones(4, 3))
    classes = torch.tensor([0, 1, 1])
    logits = nn.Sequential(*list(explicit)[:-1])(inputs[0])
    twice = F.cross_entropy(explicit(inputs[0]), classes)
    yield (
        "34",
        "cross_entropy of its output takes the softmax twice",
        not torch.isclose(twice, F.cross_entropy(logits, classes)),
    )


def container_facts() -> Facts:
    reference = nn.Sequential(*layers())
    inputs = torch.randn(6, 10)
    for name, container in CONTAINERS.items():
        network = container()
        # The order of the parameters is the same in all; their names are not.
        network.load_state_dict(dict(zip(network.state_dict(), reference.state_dict().values(), strict=True)))
        yield "text", f"nn.{name} gives what nn.Sequential gives", torch.allclose(network(inputs), reference(inputs))
        yield "text", f"nn.{name} registers all 392 parameters", parameter_count(network) == 392
    plain = InPlainList()
    yield "text", "a plain list works forward", plain(inputs).shape == (6, 2)
    yield "text", "but registers no parameter: nothing would be trained or saved", parameter_count(plain) == 0
    unable = raises(lambda: torch.optim.SGD(plain.parameters(), lr=0.1)) == "ValueError"
    yield "text", "and an optimizer refuses its empty list", unable


def layer_facts() -> Facts:
    x, linear = torch.randn(3, 5), nn.Linear(5, 2)
    yield "text", "Linear is x·Wᵀ + b", torch.allclose(linear(x), x @ linear.weight.T + linear.bias, atol=1e-6)
    shapes = {
        "Conv1d": (nn.Conv1d(2, 4, 3), (1, 2, 8), (1, 4, 6), 2 * 4 * 3 + 4),
        "Conv2d": (nn.Conv2d(2, 4, 3), (1, 2, 8, 8), (1, 4, 6, 6), 2 * 4 * 9 + 4),
        "Conv3d": (nn.Conv3d(2, 4, 3), (1, 2, 8, 8, 8), (1, 4, 6, 6, 6), 2 * 4 * 27 + 4),
        "MaxPool1d": (nn.MaxPool1d(2), (1, 2, 8), (1, 2, 4), 0),
        "MaxPool2d": (nn.MaxPool2d(2), (1, 2, 8, 8), (1, 2, 4, 4), 0),
        "RNN": (nn.RNN(5, 3), (7, 2, 5), (7, 2, 3), 1 * (15 + 9 + 3 + 3)),
        "GRU": (nn.GRU(5, 3), (7, 2, 5), (7, 2, 3), 3 * (15 + 9 + 3 + 3)),
        "LSTM": (nn.LSTM(5, 3), (7, 2, 5), (7, 2, 3), 4 * (15 + 9 + 3 + 3)),
    }
    for name, (layer, before, after, count) in shapes.items():
        result = layer(torch.randn(before))
        result = result[0] if isinstance(result, tuple) else result
        yield "text", f"{name} maps {before} to {after}", result.shape == after
        yield "text", f"{name} has {count} parameters", parameter_count(layer) == count
    ones = torch.ones(1000, 100)
    dropped = nn.Dropout(0.3)(ones)
    share = (dropped == 0).float().mean()
    yield "text", "Dropout(0.3) sets about 30 % to zero", abs(share - 0.3) < 0.01
    yield "text", "and divides the others by 0.7", torch.allclose(dropped[dropped > 0], torch.tensor(1 / 0.7))
    yield "text", "in evaluation it changes nothing", torch.equal(nn.Dropout(0.3).eval()(ones), ones)
    channels = nn.Dropout2d(0.5)(torch.ones(50, 20, 3, 3)).flatten(2)  # (50, 20, 9)
    yield "text", "Dropout2d drops whole channels", bool((channels == channels[:, :, :1]).all())


def loss_facts() -> Facts:
    first, second = torch.randn(6, 4), torch.randn(6, 4)
    square = (first - second).square()
    yield "text", "MSELoss is the mean of the squared errors", torch.isclose(nn.MSELoss()(first, second), square.mean())
    summed = nn.MSELoss(reduction="sum")(first, second)
    yield "35", 'MSELoss(reduction="sum") is their sum, not their mean', torch.isclose(summed, square.sum())
    classes = torch.tensor([0, 3, 1, 1, 2, 0])
    expected = -torch.log(torch.softmax(first, dim=1)[torch.arange(6), classes]).mean()
    yield (
        "text",
        "CrossEntropyLoss is −ln of the right class's softmax",
        torch.isclose(nn.CrossEntropyLoss()(first, classes), expected),
    )
    right = torch.full((6, 4), -20.0)
    right[torch.arange(6), classes] = 20.0
    yield "text", "it is near 0 where a class that is certain is found", nn.CrossEntropyLoss()(right, classes) < 1e-6
    yield "text", "and large where another is found", nn.CrossEntropyLoss()(-right, classes) > 10
    even = torch.full((1, 2), 0.5)
    yield (
        "text",
        "a distribution's cross-entropy with itself is its entropy, not 0: ln 2 for (½, ½)",
        torch.isclose(nn.CrossEntropyLoss()(even.log(), even), torch.tensor(2.0).log()),
    )


def optimizer_facts() -> Facts:
    """One step of each optimizer from gradient g, by its published formula."""
    start, gradient, rate = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -4.0]), 0.1
    steps = {
        "SGD": (torch.optim.SGD, start - rate * gradient),
        # The first steps of Adam and Adagrad divide the gradient by its own size.
        "Adam": (torch.optim.Adam, start - rate * gradient.sign()),
        "Adagrad": (torch.optim.Adagrad, start - rate * gradient.sign()),
    }
    for name, (optimizer, expected) in steps.items():
        parameter = nn.Parameter(start.clone())
        parameter.grad = gradient.clone()
        method = optimizer([parameter], lr=rate)
        method.step()
        yield (
            "text",
            f"{name}'s first step is as its formula says",
            torch.allclose(parameter.detach(), expected, atol=1e-6),
        )
        before = copy.deepcopy(parameter.detach())
        method.zero_grad()
        yield (
            "35",
            f"{name}: zero_grad() leaves no gradient and the parameters",
            (parameter.grad is None and torch.equal(parameter.detach(), before)),
        )
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    same = all(map(operator.is_, optimizer.param_groups[0]["params"], layer.parameters()))
    yield "text", "an optimizer works on the model's own parameters: it holds no copy", same
    held = {name for values in optimizer.state_dict()["state"].values() for name in values}
    yield "text", "Adam's state_dict has its averages and steps, no weights", held == {"step", "exp_avg", "exp_avg_sq"}


def all_facts() -> list[dict[str, str | bool]]:
    """Return every statement as {"figure", "statement", "holds"}; seed PyTorch before for the same random tensors."""
    groups = (
        activation_facts,
        network_facts,
        softmax_facts,
        container_facts,
        layer_facts,
        loss_facts,
        optimizer_facts,
    )
    return collected(groups)
