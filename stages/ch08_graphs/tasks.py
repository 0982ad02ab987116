"""Three of the other tasks that chapter 8 lists, each small: link prediction, clustering of nodes, classification of
graphs.

In: data/prepared/ch08/graph.npz, data/evaluated/ch08/results.npz, and graphs that are generated. Out:
metrics/ch08/tasks.json, data/models/ch08/tasks.safetensors, metrics/history/ch08/tasks.csv, and a run in MLflow.

Here PyTorch Geometric's own layers do the work. Not carried out are clustering of whole graphs, pooling that merges
nodes on the way (of a graph all nodes are pooled at the end), and generation of graphs. The autoencoder of links has
a generator's decoder, but no distribution that nodes could be drawn from; the variational one (Kipf and Welling, 2016)
has both.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch08_tasks", model="module")  # loads MLflow while this process gets ready

import time
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from stages.ch08_graphs.links import LinkPredictor
from stages.ch08_graphs.motifs import motif_graphs
from stages.ch08_graphs.preprocess import GRAPH, SUBJECTS, stored_matrix
from stages.common.devices import set_up_torch
from stages.common.files import placed, rounded, write_history, write_json
from stages.common.optimizers import Adam
from stages.common.params import declared_parameters
from stages.common.progress import progress

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it still uses torch.jit
    from torch_geometric.nn import GAE, GCNConv, GINConv
    from torch_geometric.nn.aggr import AttentionalAggregation, SumAggregation

MODEL = Path("data/models/ch08/tasks.safetensors")
RESULTS = Path("data/evaluated/ch08/results.npz")


class Encoder(nn.Module):
    """Two graph convolutions (Kipf and Welling, 2016): words (nodes, words) to places (nodes, channels)."""

    def __init__(self, words: int, hidden_size: int, channels: int):
        super().__init__()
        self.first, self.second = GCNConv(words, hidden_size), GCNConv(hidden_size, channels)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x, edges)), edges)


def split_edges(
    edges: np.ndarray, nodes: int, held_out: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hold edges out, and draw as many pairs of nodes without an edge.

    edges (2, edges): each once. Returns the edges to learn from (2, …), those held out (2, held), and pairs (2, held).
    """
    order = generator.permutation(edges.shape[1])
    held = round(held_out * edges.shape[1])
    known = {tuple(sorted(pair)) for pair in edges.T.tolist()}
    pairs: list[tuple[int, int]] = []
    while len(pairs) < held:
        pair = tuple(sorted(generator.integers(nodes, size=2).tolist()))
        if pair[0] != pair[1] and pair not in known:
            known.add(pair)
            pairs.append(pair)
    return edges[:, order[held:]], edges[:, order[:held]], np.array(pairs).T


def predict_links(
    x: torch.Tensor,
    edges: np.ndarray,
    held_out: float,
    epochs: int,
    seed: int,
    hidden_size: int,
    channels: int,
    learning_rate: float,
) -> tuple[float, list[float], GAE, torch.Tensor]:
    """Train a graph autoencoder on part of the edges.

    Returns the AUC on those held out, the losses, the network, and the places (nodes, channels) that it gives.

    An edge is as likely as the inner product of its ends' places says; in each epoch as many random pairs stand for
    pairs without an edge.
    """
    nodes = len(x)
    learned, held, apart = split_edges(edges, nodes, held_out, np.random.default_rng(seed))
    torch.manual_seed(seed)
    both = torch.from_numpy(np.concatenate([learned, learned[::-1]], axis=1))
    model = GAE(Encoder(x.shape[1], hidden_size, channels))
    optimizer = Adam(model.parameters(), lr=learning_rate)
    losses = []
    for _ in progress(range(epochs), "ch08 links", lambda: f"loss {losses[-1]:.3f}"):
        places = model.encode(x, both)
        pairs = torch.randint(nodes, (2, learned.shape[1]))
        loss = model.recon_loss(places, torch.from_numpy(learned), pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        places = model.encode(x, both)
        scores = [model.decode(places, torch.from_numpy(pairs)).numpy() for pairs in (held, apart)]
    truth = np.repeat([1, 0], [len(part) for part in scores])
    return float(roc_auc_score(truth, np.concatenate(scores))), losses, model, places


def cluster_agreement(values: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Cluster values (nodes, channels) by k-means into as many clusters as classes; return NMI with the labels."""
    with threadpool_limits(1):  # with three or more threads the order of its sums is a matter of chance
        found = KMeans(len(SUBJECTS), n_init=10, random_state=seed).fit_predict(values)
    return float(normalized_mutual_info_score(labels, found))


class GraphClassifier(nn.Module):
    """Three GIN layers, then all nodes of a graph pooled into one vector, then its class.

    Their hidden values are normalised, as Xu et al. (2019) have them: sums over neighbours grow from layer to layer,
    and without that most trainings learn next to nothing.

    pooling: "sum", or "attention", a sum weighted by a softmax over the graph's nodes (Li et al., 2016).
    """

    def __init__(self, hidden_size: int, pooling: str):
        super().__init__()

        def block(inputs: int) -> list[nn.Module]:
            return [nn.Linear(inputs, hidden_size), nn.BatchNorm1d(hidden_size), nn.ReLU()]

        self.layers = nn.ModuleList(
            GINConv(nn.Sequential(*block(size), *block(hidden_size))) for size in (1, hidden_size, hidden_size)
        )
        self.pool = SumAggregation() if pooling == "sum" else AttentionalAggregation(nn.Linear(hidden_size, 1))
        self.output = nn.Linear(hidden_size, 2)

    def forward(self, x: torch.Tensor, edges: torch.Tensor, graph_of: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, edges)
        return self.output(self.pool(x, graph_of))


def classify_graphs(
    graphs: int,
    nodes: int,
    pooling: str,
    epochs: int,
    seed: int,
    hidden_size: int,
    learning_rate: float,
) -> tuple[float, list[float], dict[str, torch.Tensor]]:
    """Train on generated graphs, and return the accuracy on as many others, the losses, and the weights."""
    generator = np.random.default_rng(seed)
    train, test = (tuple(map(torch.from_numpy, motif_graphs(graphs, nodes, generator))) for _ in range(2))
    torch.manual_seed(seed)
    model = GraphClassifier(hidden_size, pooling)
    optimizer = Adam(model.parameters(), lr=learning_rate)
    losses = []
    ones = torch.ones(len(train[1]), 1)  # the nodes bear nothing; the edges tell all
    for _ in progress(range(epochs), f"ch08 graphs, {pooling}", lambda: f"loss {losses[-1]:.3f}"):
        loss = F.cross_entropy(model(ones, *train[:2]), train[2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        found = model(ones, *test[:2]).argmax(dim=1)
    return (found == test[2]).double().mean().item(), losses, model.state_dict()


def main() -> None:
    parameters = declared_parameters("ch08_tasks")
    recipe = parameters.ch08.active
    seed = parameters.seed
    training = {
        "epochs": recipe.task_epochs,
        "seed": seed,
        "hidden_size": recipe.task_hidden_size,
        "learning_rate": recipe.task_learning_rate,
    }
    set_up_torch(seed, parameters.ch08.num_threads)
    started = time.time()
    with np.load(GRAPH) as graph, np.load(RESULTS) as results:
        arrays, hidden = dict(graph), results["hidden"]
    words = stored_matrix(arrays, "features").toarray()
    once = np.stack(sparse.triu(stored_matrix(arrays, "adjacency")).nonzero()).astype(np.int64)
    auc, link_losses, links, places = predict_links(
        torch.from_numpy(words), once, recipe.held_out_links, channels=recipe.link_channels, **training
    )
    history, weights = {"link": link_losses}, {f"link.{name}": value for name, value in links.state_dict().items()}
    metrics = {
        "link_auc": auc,
        # The hidden values are those of a network that learnt from the labels of 140 of the papers; words saw none.
        "cluster_nmi_hidden": cluster_agreement(hidden, arrays["labels"], seed),
        "cluster_nmi_words": cluster_agreement(words, arrays["labels"], seed),
    }
    for pooling in ("sum", "attention"):
        graphs = (recipe.motif_graphs, recipe.motif_nodes, pooling)
        metrics[f"graph_accuracy_{pooling}"], losses, trained = classify_graphs(*graphs, **training)
        history[f"graphs_{pooling}"] = losses
        weights |= {f"graphs_{pooling}.{name}": value for name, value in trained.items()}
    with placed(MODEL) as path:
        save_file(weights, path)
    write_history("metrics/history/ch08/tasks.csv", history)
    metrics = rounded(metrics)
    write_json("metrics/ch08/tasks.json", metrics)

    tracking.record_training(
        "ch08_tasks",
        "tasks",
        MODEL,
        history={f"{name}_loss": losses for name, losses in history.items()},
        datasets={"ch08_cora": Path(GRAPH)},
        started=started,
        model=LinkPredictor(places),
        example=once[:, :2].T.copy(),
    )
    # Clusters are found in all papers; the others are measured on what wasn't trained on.
    named = {name if name.startswith("cluster_") else f"test_{name}": value for name, value in metrics.items()}
    tracking.record_results("ch08_tasks", MODEL, metrics=named)


if __name__ == "__main__":
    main()
