"""Training steps of one CNN: augmentation, forward, backward, optimizer, averaged weights."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel

from ct.errors import InputError, reason_of
from ct.labels import WEIGHTS
from ct.seeds import derive_seed
from stage1_cnn.batches.augment import augment, mix, resize, to_channels
from stage1_cnn.batches.head_crop import crop_to_head
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import autocast_type, mixed_precision
from stage1_cnn.distributed import this_process
from stage1_cnn.gpu_memory import free_memory, is_out_of_memory, weights_must_fit
from stage1_cnn.model import Cnn
from stage1_cnn.optimizer import learning_rate, new_optimizer, set_learning_rates
from stage1_cnn.state_tensors import (
    load_optimizer,
    model_tensors,
    on_cpu,
    optimizer_tensors,
    with_prefix,
)
from stage1_cnn.training_methods.gradient_checkpointing import buffers_kept, set_checkpointing
from stage1_cnn.training_methods.held_body import Head, freeze, set_training
from stage1_cnn.training_methods.weight_average import WeightAverage


class Trainer:
    """Train `model`, a Cnn that is already on its device, one step after another.

    steps: of an epoch; seed: of augmentation, dropout and mixup, from which each step derives its
    own; log: called with a line for the user; on_embeddings: the body is frozen, and the steps get
    embeddings instead of slices
    """

    def __init__(
        self,
        model: Cnn,
        config: CnnConfig,
        steps: int,
        seed: int,
        log: Callable[[str], None],
        on_embeddings: bool = False,
    ) -> None:
        self.model: Cnn = model.to(memory_format=torch.channels_last)
        self.config, self.seed, self.log = config, seed, log
        self.device = next(model.parameters()).device
        self.steps, self.done = steps * config.epochs, 0  # of the whole training; finished
        # slices in one forward pass; halved where they do not fit into memory
        self.micro_batch = config.batch
        set_checkpointing(model.backbone, config)
        self.on_embeddings = on_embeddings
        freeze(model.backbone, config)
        with weights_must_fit(config, self.device):
            self.optimizer = new_optimizer(model, config)
            self.ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
            self.average = WeightAverage(model) if config.average_epochs > 1 else None
        self.scaler = self._new_scaler()
        self.weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=self.device)
        self.generator = torch.Generator(self.device)
        # with what DDP and torch.compile wrap around it
        self.net: Any = Head(model, config.dropout) if on_embeddings else self.model
        if this_process().world_size > 1:
            with weights_must_fit(config, self.device):  # DDP allocates a copy of the gradients
                self.net = DistributedDataParallel(self.net)
        if config.compile:
            self.net = torch.compile(self.net)

    def step(self, hu: Tensor, labels: Tensor, total: int) -> Tensor:
        """Train on the slices of one step.

        hu: int16 (b, c, S, S) in HU, or embeddings (b, d) where `on_embeddings`; labels: float32
        (b, 6), or (b, 7) as in `training_targets`; both on the device. total: slices of this step
        in all processes together; b where there is one.

        Returns the competition's loss, the mean over the slices of this process: a scalar tensor
        that the device may still be computing.
        """
        set_learning_rates(self.optimizer, self.done, self.steps, self.config)
        set_training(self.model, self.config)
        while (loss := self._gradients(hu, labels, total)) is None or not self._apply():
            self.halve_batch()
        self.scaler.update()
        self.done += 1
        if self.ema:
            self.ema.update(self.model, step=self.done)
        return loss

    def _gradients(self, hu: Tensor, labels: Tensor, total: int) -> Tensor | None:
        """Sum and clip the gradients of a step, `micro_batch` slices at a time.

        Returns the loss, or None where memory ran out.
        """
        self.optimizer.zero_grad(set_to_none=True)
        process, loss = this_process(), torch.zeros((), device=self.device)
        # dropout draws from torch's global generator
        torch.manual_seed(derive_seed(self.seed, "dropout", self.done, process.rank))
        self.generator.manual_seed(derive_seed(self.seed, "augment", self.done, process.rank))
        # never a piece of one slice
        count = max(1, min(math.ceil(len(hu) / self.micro_batch), len(hu) // 2))
        pieces = list(zip(hu.tensor_split(count), labels.tensor_split(count), strict=True))
        try:
            for number, (piece_hu, piece_labels) in enumerate(pieces):
                images, truth = self._images(piece_hu, piece_labels, number)
                last = number == len(pieces) - 1
                with nullcontext() if last or process.world_size == 1 else self.net.no_sync():
                    with mixed_precision(self.config, self.device):
                        logits, _ = self.net(images)
                    piece_loss = weighted_bce(logits, truth, self.weights) * len(piece_hu)
                    # DDP averages the gradients of the processes
                    with buffers_kept(self.model, self.config):
                        self.scaler.scale(piece_loss * (process.world_size / total)).backward()
                loss += piece_loss.detach()
            self.scaler.unscale_(self.optimizer)
            if self.config.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            if isinstance(error, TorchDynamoException):
                raise self._not_compiled(error) from error
            raise
        return loss / len(hu)

    def _apply(self) -> bool:
        """Update the weights. Returns False where memory ran out before any weight changed.

        Raises InputError where memory ran out later: the step can be neither finished nor repeated.
        """
        before = [count.clone() for count in self._step_counts()[:1]]
        try:
            self.scaler.step(self.optimizer)
            return True
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # not in the handler: there the error still holds tensors, and to compare needs memory, too
        free_memory(self.device)
        if any(count != before[0] for count in self._step_counts()):
            raise self._too_large()
        return False

    def _step_counts(self) -> list[Tensor]:
        """Return the number of steps that the optimizer has counted, a tensor for each weight."""
        return [state["step"] for state in self.optimizer.state.values()]

    @torch.no_grad()
    def _images(self, hu: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return the CNN's input for piece `number` of a step, and its labels, mixed by mixup."""
        if self.on_embeddings:
            return hu, labels
        hu = resize(crop_to_head(hu, self.config).float(), self.config.image_size)
        images = to_channels(augment(hu, self.config, self.generator), self.config)
        if self.config.mixup:
            seed = derive_seed(self.seed, "mixup", self.done, number, this_process().rank)
            return mix(images, labels, self.config.mixup, seed)
        return images, labels

    def halve_batch(self) -> None:
        """Halve the slices of a forward pass, because memory ran out.

        Call it after the `except` block, where the error no longer holds tensors. Raises
        InputError where one slice would be left, and among several processes.
        """
        smaller = self.micro_batch // 2
        # one process alone cannot repeat a step that the others have finished
        if smaller < 2 or this_process().world_size > 1:
            raise self._too_large()
        self.micro_batch = smaller
        self.optimizer.zero_grad(set_to_none=True)
        # a new one: the old one may already have unscaled the gradients of this step
        self.scaler = self._new_scaler(self.scaler.state_dict())
        free_memory(self.device)
        self.log(
            f"  {self.config.name}: out of memory, from here on {smaller} slices at once; a step "
            f"still has {self.config.batch * self.config.accumulate}, but batch norm uses {smaller}"
        )

    def _new_scaler(self, state: dict[str, Any] | None = None) -> torch.amp.GradScaler:
        half = autocast_type(self.config, self.device) == torch.float16
        scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        if state:
            scaler.load_state_dict(state)
        return scaler

    def _too_large(self) -> InputError:
        return InputError(
            f"{self.config.name}: {self.micro_batch} slices do not fit into the memory of "
            f"{self.device}; lower batch in the recipe, or image_size, or choose a smaller backbone"
        )

    def _not_compiled(self, error: Exception) -> InputError:
        return InputError(
            f"{self.config.name}: torch.compile failed ({reason_of(error)}): it needs a C compiler "
            "and, on a GPU, triton; set compile: false in the recipe to train without it"
        )

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return learning_rate(self.done - 1, self.steps, self.config)

    def end_epoch(self, epoch: int) -> None:
        """Add the weights after `epoch`, from 1, to their mean where it is one of the averaged."""
        if self.average and epoch > self.config.epochs - self.config.average_epochs:
            self.average.add(self.ema.module if self.ema else self.model)

    def final_model(self) -> Cnn:
        """Return the Cnn whose weights are saved: the mean or the moving average where it is on."""
        if self.average and self.average.count:
            return self.average.model
        return self.ema.module if self.ema else self.model

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint, on the CPU."""
        tensors = model_tensors(self.model, "model")
        if self.ema:
            tensors |= model_tensors(self.ema.module, "ema")
        if self.average and self.average.count:
            tensors |= model_tensors(self.average.model, "average")
        return on_cpu(tensors | optimizer_tensors(self.optimizer))

    def state(self) -> dict[str, Any]:
        """Return the plain values of a checkpoint."""
        averaged = {"averaged": self.average.count} if self.average else {}
        scaler = self.scaler.state_dict()
        return {"done": self.done, "micro": self.micro_batch, "scaler": scaler, **averaged}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `tensors` and `state` returned."""
        self.model.load_state_dict(with_prefix(tensors, "model"))
        if self.ema:
            self.ema.module.load_state_dict(with_prefix(tensors, "ema"))
        if self.average and (count := state["averaged"]):
            self.average.model.load_state_dict(with_prefix(tensors, "average"))
            self.average.count = count
        load_optimizer(self.optimizer, tensors)
        self.done, self.micro_batch = state["done"], state["micro"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def weighted_bce(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the competition's weighted log loss of logits and labels (b, 6), as a scalar.

    labels: also (b, 7): the last column is the weight of each slice. weights: (6,), of the labels
    """
    count = len(weights)
    loss = F.binary_cross_entropy_with_logits(logits, labels[:, :count], reduction="none")
    of_slices = (loss * weights).sum(dim=1)
    if labels.shape[1] > count:
        of_slices = of_slices * labels[:, count]
    return of_slices.mean()
