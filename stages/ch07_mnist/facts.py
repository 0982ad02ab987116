"""What chapter 7 shows and says of convolution, pooling and its network, computed and found true or false."""

import torch
from torch import nn
from torch.nn import functional as F

from stages.ch07_mnist.model import BookNetwork
from stages.common.facts import Facts, collected


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _windows(image: torch.Tensor, side: int) -> torch.Tensor:
    """Return the windows of an image (height, width), each where its upper left corner lies: (rows, columns, side²)."""
    return image.unfold(0, side, 1).unfold(1, side, 1).flatten(2)


def convolution() -> Facts:
    """Figs. 67 and 68: what a layer computes. Yields (figure, statement, whether it holds), as do all below."""
    image, kernel = torch.randn(2, 9, 9).double().unbind()
    kernel = kernel[:3, :3]
    found = F.conv2d(image[None, None], kernel[None, None])[0, 0]  # (7, 7)
    by_elements = (_windows(image, 3) * kernel.flatten()).sum(-1)
    yield "67", "a value is the sum of a window's values times the kernel's, one by one", found.allclose(by_elements)
    matrices = (_windows(image, 3).unflatten(-1, (3, 3)) @ kernel).sum((-1, -2))
    yield "text", "it isn't the sum of the matrix product of window and kernel", not found.allclose(matrices)
    turned = (_windows(image, 3) * kernel.flip(0, 1).flatten()).sum(-1)
    yield (
        "67",
        "a convolution turns the kernel by 180°; nn.Conv2d doesn't: it cross-correlates",
        not found.allclose(turned),
    )
    moved = F.conv2d(image.roll((1, 2), (0, 1))[None, None], kernel[None, None])[0, 0]
    yield "67", "a moved picture gives the moved map, away from the edges", moved[1:, 2:].allclose(found[:-1, :-2])

    layer = nn.Conv2d(3, 6, 3).double()
    yield "68", "from 3 to 6 channels with 3 × 3 kernels a layer has 162 weights", layer.weight.numel() == 162
    yield "68", "and 6 biases: 168 parameters", _parameters(layer) == 168
    colours = torch.randn(1, 3, 100, 100).double()
    maps = layer(colours)
    yield "68", "of 3 × 100 × 100 numbers it makes 6 × 98 × 98", maps.shape == (1, 6, 98, 98)
    channels = sum(F.conv2d(colours[:, [c]], layer.weight[:, [c]]) for c in range(3)) + layer.bias[:, None, None]
    yield "68", "a map adds up what its kernels find in every channel, and its bias", maps.allclose(channels)
    full = 30_000 * maps.numel() + maps.numel()
    yield (
        "68",
        "a fully connected layer from 30,000 numbers to those 57,624 has 1.7 billion",
        round(full / 1e9, 1) == 1.7,
    )
    lying = nn.Conv2d(1, 1, (1, 3))(torch.zeros(1, 1, 5, 5))
    yield "text", "kernel_size (1, 3) is height and width: 5 × 5 becomes 5 × 3", lying.shape == (1, 1, 5, 3)
    halved = nn.Conv2d(1, 1, 3, stride=2, padding=1)(torch.zeros(1, 1, 28, 28))
    yield "text", "with stride 2 and padding 1 a 3 × 3 kernel makes 14 × 14 of 28 × 28", halved.shape == (1, 1, 14, 14)
    padded = nn.Conv2d(1, 1, 3, padding=1)(torch.zeros(1, 1, 28, 28))
    yield "text", "with padding 1 alone the size stays", padded.shape == (1, 1, 28, 28)


def pooling() -> Facts:
    """Figs. 69 and 70."""
    maps = torch.randn(1, 64, 24, 24)
    pooled = F.max_pool2d(maps, 2)
    yield "70", "max pooling by 2 takes the largest of each 2 × 2", pooled[0, 5, 1, 2] == maps[0, 5, 2:4, 4:6].max()
    yield (
        "70",
        "of fig. 73's 36,864 numbers it leaves 9,216, a quarter",
        (maps.numel(), pooled.numel()) == (36_864, 9216),
    )
    larger = F.max_pool2d(maps, 3)
    yield "text", "pooling by less, or not at all, leaves more", larger.numel() < pooled.numel() < maps.numel()
    yield (
        "69",
        "ReLU may stand behind the pooling as well as before",
        F.relu(pooled).equal(F.max_pool2d(F.relu(maps), 2)),
    )
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0], requires_grad=True)
    F.relu(x).sum().backward()
    yield "69", "ReLU has two slopes, 0 below 0 and 1 above", x.grad.tolist() == [0, 0, 1, 1]
    moved = F.max_pool2d(maps.roll(1, 3), 2)
    yield "text", "a picture moved by one pixel isn't pooled to the same", not moved.equal(pooled)
    moved = F.max_pool2d(maps.roll(2, 3), 2)
    yield "text", "moved by two, it is pooled to the moved map", moved.equal(pooled.roll(1, 3))


def networks() -> Facts:
    """Fig. 73."""
    network = BookNetwork(dropout=0.25).eval()
    yield "73", "the network has 1,199,882 parameters", _parameters(network) == 1_199_882
    logits, labels = network(torch.randn(5, 1, 28, 28)), torch.arange(5)
    likelihood = F.nll_loss(F.log_softmax(logits, dim=1), labels)
    yield (
        "73",
        "nll_loss of log_softmax is the cross-entropy of the logits",
        likelihood.allclose(F.cross_entropy(logits, labels)),
    )
    shares = F.nll_loss(logits.softmax(dim=1), labels)
    yield "text", "nll_loss of softmax, as the text has it, isn't", not shares.allclose(likelihood)


def all_facts() -> list[dict[str, str | bool]]:
    """Return every statement as {"figure", "statement", "holds"}; seed PyTorch before for the same random tensors."""
    return collected((convolution, pooling, networks))
