"""A trained network as MLflow keeps and serves it: ids of Cora's papers in, their subjects out.

    mlflow.pyfunc.load_model("runs:/<run>/model").predict([35, 40])

MLflow copies this file, and the package, beside the weights and the graph, and runs it to load the model.
"""

import json
from pathlib import Path

import mlflow
import numpy as np
import torch
from safetensors import safe_open

from stages.ch08_graphs.layers import build_graph
from stages.ch08_graphs.networks import KIND, predictor
from stages.ch08_graphs.preprocess import SUBJECTS


class ServedNetwork(mlflow.pyfunc.PythonModel):
    """Predicts with two artifacts: `model`, the weights, of which it takes the public split's first run; and `graph`.

    These networks know the papers of their graph alone: all are predicted at once, when the model is loaded.
    """

    def load_context(self, context) -> None:
        weights, graph = (Path(context.artifacts[name]) for name in ("model", "graph"))
        with safe_open(weights, "pt") as file:
            predict = predictor(**json.loads(file.metadata()[KIND]))
            names = [name for name in file.keys() if name.startswith("public.")]  # noqa: SIM118
            first_run = {name.removeprefix("public."): file.get_tensor(name)[:1] for name in names}
        with np.load(graph) as loaded:
            arrays = dict(loaded)
        with torch.no_grad():
            found = predict(build_graph(arrays), first_run)[:, 0].argmax(dim=-1)
        self.subjects = dict(zip(arrays["papers"].tolist(), (SUBJECTS[number] for number in found), strict=True))

    def predict(self, context, model_input: list[int], params: dict | None = None) -> list[str]:
        """Return a subject for each paper.

        Raises:
            ValueError: if the graph has no such paper.
        """
        for paper in model_input:
            if paper not in self.subjects:
                raise ValueError(f"the graph has no paper {paper}; one that it has is {next(iter(self.subjects))}")
        return [self.subjects[paper] for paper in model_input]


mlflow.models.set_model(ServedNetwork())
