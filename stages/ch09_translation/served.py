"""The trained network as MLflow keeps and serves it: English texts in, Russian texts out, without the memory.

    mlflow.pyfunc.load_model("runs:/<run>/model").predict(["Turn on the light"], params={"beams": 4})

MLflow copies this file, and the package, beside the weights and the tokenizers, and runs it to load the model.
"""

from pathlib import Path

import mlflow
import torch

from stages.ch09_translation.translator import load_translator


class ServedTranslator(mlflow.pyfunc.PythonModel):
    """Translates with two artifacts: `model`, the weights, and `tokenizers`."""

    def load_context(self, context) -> None:
        weights, tokenizers = (Path(context.artifacts[name]) for name in ("model", "tokenizers"))
        self.translator = load_translator(weights, tokenizers, torch.device("cpu"))

    def predict(self, context, model_input: list[str], params: dict | None = None) -> list[str]:
        """Return a translation for each text; `params`: `beams` and `penalty`, as in beam_search."""
        return self.translator.translate(model_input, **(params or {}))


mlflow.models.set_model(ServedTranslator())
