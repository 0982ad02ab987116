"""Train the convolutional network of chapter 7 (figs. 74, 76).

In: data/prepared/ch07/mnist.npz. Out: data/models/ch07/network.safetensors, metrics/history/ch07.csv with the loss and,
where pictures are held out, the validation loss and accuracy of every epoch, and a run in MLflow. Every epoch leaves a
checkpoint from which a killed training goes on.
"""

from stages.common import tracking

if __name__ == "__main__":
    tracking.start("ch07_train", model="module")  # loads MLflow while this process gets ready

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from stages.ch07_mnist.augment import augment, random_affine
from stages.ch07_mnist.dataset import load_split
from stages.ch07_mnist.model import build_network
from stages.ch07_mnist.preprocess import MNIST
from stages.common.checkpoint import Checkpoint, optimizer_tensors, restore_optimizer, with_prefix, without_prefix
from stages.common.devices import find_device, set_up_torch
from stages.common.files import check_history, placed, write_history
from stages.common.optimizers import SGD, Adadelta, rate_share
from stages.common.params import declared_parameters
from stages.common.progress import progress

MODEL = Path("data/models/ch07/network.safetensors")
HISTORY = "metrics/history/ch07.csv"
PICTURES_PER_FORWARD = 500  # when nothing is learned: few enough to stay in the processor's cache
MOMENTUM = 0.9  # of SGD
STEPS_PER_AVERAGE = 5  # between two updates of the running average, which costs a pass over the weights


@torch.inference_mode()
def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the logits (pictures, 10) of images (pictures, 1, 28, 28), in evaluation mode."""
    model.eval()
    return torch.cat([model(part) for part in images.split(PICTURES_PER_FORWARD)])


class Trainer:
    """A network in training, with all that is needed to go on with it after a break."""

    def __init__(
        self, model: nn.Module, optimizer: str, learning_rate: float, weight_decay: float, average_decay: float
    ):
        """`average_decay` is that of the running average of the weights, a step; 0 keeps no average."""
        self.model, self.learning_rate, self.average_decay = model, learning_rate, average_decay
        self.average = copy.deepcopy(model) if average_decay else model
        matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        if optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = SGD(
                groups, learning_rate, momentum=MOMENTUM, nesterov=True, foreach=True
            )
        else:
            self.optimizer = Adadelta(groups, learning_rate)
        self.history: dict[str, list[float]] = {}
        self.started = time.time()
        self.best_accuracy = -1.0
        self.best = copy.deepcopy(self.average.state_dict())

    @property
    def epochs_done(self) -> int:
        return len(self.history.get("train_loss", []))

    def train_epoch(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        transform,
        seed: int,
        epochs: int,
        batch_size: int,
        shuffle: bool,
        schedule: str,
        warmup: float,
        label_smoothing: float,
        precision: str,
    ) -> None:
        """Go once through images (pictures, 1, 28, 28) and labels (pictures,), and add the loss to the history."""
        # Seeded anew each epoch, so that a training that goes on after a break draws what it would have drawn.
        torch.manual_seed(seed * 1_000_003 + self.epochs_done)
        order = torch.randperm(len(images)) if shuffle else torch.arange(len(images))
        batches = order.to(images.device).split(batch_size)
        total = torch.zeros((), device=images.device)
        self.model.train()
        for index, batch in enumerate(progress(batches, f"ch07 epoch {self.epochs_done + 1}/{epochs}")):
            step = self.epochs_done * len(batches) + index
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * rate_share(step / (epochs * len(batches)), schedule, warmup)
            inputs = augment(images[batch], transform)
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = self.model(inputs)
            loss = F.cross_entropy(logits.float(), labels[batch], label_smoothing=label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self._update_average(step)
            total += loss.detach() * len(batch)
        self.history.setdefault("train_loss", []).append(total.item() / len(images))

    def _update_average(self, step: int) -> None:
        if not self.average_decay or step % STEPS_PER_AVERAGE != STEPS_PER_AVERAGE - 1:
            return
        # A young average follows the weights closely: it would else remember for long how they began.
        decay = min(self.average_decay**STEPS_PER_AVERAGE, (step + 1) / (step + 50))
        new, average = self.model.state_dict(), self.average.state_dict()
        names = [name for name, value in new.items() if value.is_floating_point()]
        torch._foreach_lerp_([average[name] for name in names], [new[name] for name in names], 1 - decay)

    def validate(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Add validation loss and accuracy to the history; keep the weights unless earlier ones were more accurate.

        Without validation pictures the last epoch's weights are kept.
        """
        accuracy = self.best_accuracy
        if len(images):
            logits = logits_of(self.average, images)
            accuracy = (logits.argmax(dim=1) == labels).cpu().double().mean().item()  # MPS has no float64
            self.history.setdefault("validation_loss", []).append(F.cross_entropy(logits, labels).item())
            self.history.setdefault("validation_accuracy", []).append(accuracy)
        if accuracy >= self.best_accuracy:
            self.best_accuracy, self.best = accuracy, copy.deepcopy(self.average.state_dict())

    def save(self, checkpoint: Checkpoint) -> None:
        tensors = {
            **with_prefix("model", self.model.state_dict()),
            **with_prefix("average", self.average.state_dict()),
            **with_prefix("best", self.best),
            **with_prefix("optimizer", optimizer_tensors(self.optimizer)),
        }
        state = {"history": self.history, "best_accuracy": self.best_accuracy, "seconds": time.time() - self.started}
        checkpoint.save(tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint, if there is one."""
        saved = checkpoint.load()
        if saved is None:
            return
        tensors, state = saved
        self.model.load_state_dict(without_prefix("model", tensors))
        self.average.load_state_dict(without_prefix("average", tensors))
        self.best = without_prefix("best", tensors)
        restore_optimizer(self.optimizer, without_prefix("optimizer", tensors))
        self.history, self.best_accuracy = state["history"], state["best_accuracy"]
        self.started -= state["seconds"]  # training counts, not the break


def train(
    trainer: Trainer,
    data: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    transform,
    epochs: int,
    after_epoch: Callable[[Trainer], None] = lambda trainer: None,
    **options,
) -> None:
    """Train until `epochs` are done; `data` and `validation` are (images, labels), `options` those of `train_epoch`."""
    while trainer.epochs_done < epochs:
        trainer.train_epoch(*data, transform, epochs=epochs, **options)
        trainer.validate(*validation)
        check_history(trainer.history, "ch07_train")
        after_epoch(trainer)


def main() -> None:
    parameters = declared_parameters("ch07_train")
    recipe = parameters.ch07.active
    device = find_device(parameters.device)
    set_up_torch(parameters.seed, parameters.ch07.num_threads, device)
    shape = recipe.select("network", "widths", "dropout")
    optimization = recipe.select("optimizer", "learning_rate", "weight_decay", "average_decay")
    options = recipe.select("epochs", "batch_size", "shuffle", "schedule", "warmup", "label_smoothing", "precision")
    augmentation = recipe.select("rotation", "translation", "scaling", "shear")
    trainer = Trainer(build_network(**shape).to(device), **optimization)
    checkpoint = Checkpoint(f"ch07_train-{device.type}", parameters.fingerprint())
    trainer.restore(checkpoint)
    data, validation = load_split("train", device), load_split("validation", device)
    train(
        trainer,
        data,
        validation,
        random_affine(**augmentation),
        after_epoch=lambda trainer: trainer.save(checkpoint),
        seed=parameters.seed,
        **options,
    )
    with placed(MODEL) as path:
        save_file({name: tensor.cpu().contiguous() for name, tensor in trainer.best.items()}, path)
    write_history(HISTORY, trainer.history)

    model = build_network(**shape)
    model.load_state_dict(trainer.best)
    tracking.record_training(
        "ch07_train",
        None,
        MODEL,
        history=trainer.history,
        datasets={"ch07_mnist": Path(MNIST)},
        started=trainer.started,
        parameters={"device": device.type},  # what "auto" came to
        model=model.eval(),
        example=data[0][:2].cpu().contiguous().numpy(),
    )
    checkpoint.remove()


if __name__ == "__main__":
    main()
