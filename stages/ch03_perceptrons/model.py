"""The networks of figs. 32 to 35, and the same network put together in torch.nn's containers."""

import torch
from torch import nn
from torch.nn import functional as F


class SingleLayer(nn.Module):
    """Fig. 32: (…, 20) to (…, 5), one linear layer and ReLU."""

    def __init__(self):
        super().__init__()
        self.linear1 = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.linear1(x))


class MultiLayerAsPrinted(nn.Module):
    """Fig. 33 as printed: `linear2` is assigned twice, so that the layer 50 → 20 is lost and forward raises."""

    def __init__(self):
        super().__init__()
        self.linear1 = nn.Linear(100, 50)
        self.linear2 = nn.Linear(50, 20)
        self.linear2 = nn.Linear(20, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.linear1(x))
        x = F.relu(self.linear2(x))
        return F.relu(self.linear2(x))


class MultiLayer(nn.Module):
    """Fig. 33 mended: (…, 100) to (…, 1) through 50 and 20.

    `output`: "linear", or "relu" as printed, with which no output is below zero.
    """

    def __init__(self, output: str = "linear"):
        super().__init__()
        self.linear1 = nn.Linear(100, 50)
        self.linear2 = nn.Linear(50, 20)
        self.linear3 = nn.Linear(20, 1)
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.linear1(x))
        x = F.relu(self.linear2(x))
        x = self.linear3(x)
        return F.relu(x) if self.output == "relu" else x


def sequential(softmax_dim: str = "last") -> nn.Sequential:
    """Fig. 34: (…, 10) to shares (…, 2). "implicit" leaves the softmax's dimension to PyTorch, as the book does."""
    softmax = nn.Softmax(dim=-1) if softmax_dim == "last" else nn.Softmax()
    return nn.Sequential(nn.Linear(10, 30), nn.Sigmoid(), nn.Linear(30, 2), softmax)


def fitted_network() -> nn.Sequential:
    """The network that fig. 35 trains, (…, 1000) to (…, 10) through 100; the book doesn't print it."""
    return nn.Sequential(nn.Linear(1000, 100), nn.ReLU(), nn.Linear(100, 10))


def layers() -> list[nn.Module]:
    """Return the layers of fig. 34 without its softmax."""
    return list(sequential())[:-1]


class InModuleList(nn.Module):
    """Fig. 34's layers in an nn.ModuleList: found by index, run in a loop."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(layers())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class InPlainList(InModuleList):
    """The same in a Python list, where PyTorch doesn't see them: no parameters, nothing is trained or saved."""

    def __init__(self):
        nn.Module.__init__(self)
        self.layers = layers()


class InModuleDict(nn.Module):
    """The same in an nn.ModuleDict: found by name."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(dict(zip(("hidden", "activation", "output"), layers(), strict=True)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers["output"](self.layers["activation"](self.layers["hidden"](x)))


class InParameterList(nn.Module):
    """The same from bare parameters in an nn.ParameterList."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ParameterList(part for layer in layers() for part in layer.parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x @ self.parts[0].T + self.parts[1]) @ self.parts[2].T + self.parts[3]


class InParameterDict(nn.Module):
    """The same from bare parameters in an nn.ParameterDict."""

    def __init__(self):
        super().__init__()
        names = ("hidden_weight", "hidden_bias", "output_weight", "output_bias")
        parts = (part for layer in layers() for part in layer.parameters())
        # Given as pairs: it would sort the keys of a dict.
        self.parts = nn.ParameterDict(zip(names, parts, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.sigmoid(F.linear(x, self.parts["hidden_weight"], self.parts["hidden_bias"]))
        return F.linear(hidden, self.parts["output_weight"], self.parts["output_bias"])


CONTAINERS = {
    "ModuleList": InModuleList,
    "ModuleDict": InModuleDict,
    "ParameterList": InParameterList,
    "ParameterDict": InParameterDict,
}


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
