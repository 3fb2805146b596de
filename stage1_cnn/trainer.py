"""One model in training on its device: a step is augmentation, windows, forward, backward,
optimizer, moving average.
"""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

from ct.errors import InputError
from ct.labels import WEIGHTS
from ct.seeds import derive_seed
from stage1_cnn.augment import augment, mix, resize, to_channels
from stage1_cnn.checkpoint import load_optimizer, model_tensors, of, on_cpu, optimizer_tensors
from stage1_cnn.device import (
    autocast_type,
    free_memory,
    is_out_of_memory,
    mixed_precision,
    weights_must_fit,
)
from stage1_cnn.distributed import here


class Trainer:
    """Trains `model`, a Cnn that already lies on its device.

    steps: of an epoch; seed: of augmentation, dropout and mixup, each step's of its own; log:
    called with a line that the user should know
    """

    def __init__(self, model, config, steps, seed, log):
        self.model = model.to(memory_format=torch.channels_last)
        self.config, self.seed, self.log, self.device = (
            config,
            seed,
            log,
            next(model.parameters()).device,
        )
        self.steps, self.done = steps * config.epochs, 0
        # slices that go through the CNN at once; halved where the memory does not hold them
        self.micro = config.batch
        with weights_must_fit(config, self.device):
            self.optimizer = new_optimizer(model, config)
            self.ema = ModelEmaV3(model, decay=config.ema, use_warmup=True) if config.ema else None
        self.scaler = self._new_scaler()
        self.weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=self.device)
        self.generator = torch.Generator(self.device)
        self.net = DistributedDataParallel(self.model) if here().world > 1 else self.model
        if config.compile:
            self.net = torch.compile(self.net)

    def step(self, hu, labels, total):
        """Learn from a step's slices: HU int16 (b, c, S, S), labels float32 (b, 6), both on the
        device.

        total: slices of this step in all ranks together; b where there is one Returns the mean loss
        of this rank's slices, the metric: a scalar tensor that the device may still be working on.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.done, self.steps, self.config)
        self.model.train()
        while (loss := self._gradients(hu, labels, total)) is None or not self._apply():
            self.halve()
        self.scaler.update()
        self.done += 1
        if self.ema:
            self.ema.update(self.model, step=self.done)
        return loss

    def _gradients(self, hu, labels, total):
        """Sum and clip the gradients of a step, `micro` slices at a time. Returns the loss, or None
        where memory ran out.
        """
        self.optimizer.zero_grad(set_to_none=True)
        ranks, loss = here(), torch.zeros((), device=self.device)
        # dropout draws from torch's own
        torch.manual_seed(derive_seed(self.seed, "dropout", self.done, ranks.rank))
        self.generator.manual_seed(derive_seed(self.seed, "augment", self.done, ranks.rank))
        parts = max(1, min(math.ceil(len(hu) / self.micro), len(hu) // 2))  # none of one slice
        pieces = list(zip(hu.tensor_split(parts), labels.tensor_split(parts), strict=True))
        try:
            for number, (piece, truth) in enumerate(pieces):
                images, truth = self._images(piece, truth, number)
                last = number == len(pieces) - 1
                with nullcontext() if last or ranks.world == 1 else self.net.no_sync():
                    with mixed_precision(self.config, self.device):
                        logits, _ = self.net(images)
                    part = weighted_bce(logits, truth, self.weights) * len(piece)
                    # the ranks' gradients are averaged
                    self.scaler.scale(part * (ranks.world / total)).backward()
                loss += part.detach()
            self.scaler.unscale_(self.optimizer)
            if self.config.clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return None
            raise
        return loss / len(hu)

    def _apply(self):
        """Change the weights by their gradients. Returns False where memory ran out before any of
        them was changed.

        Raises InputError where it ran out later: the step can be neither finished nor repeated.
        """
        before = [count.clone() for count in self._counts()[:1]]
        try:
            self.scaler.step(self.optimizer)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if any(count != before[0] for count in self._counts()):
                raise self._too_large() from None
            return False
        return True

    def _counts(self):
        """Return the number of steps that the optimizer has counted, a tensor for each weight."""
        return [kept["step"] for kept in self.optimizer.state.values()]

    @torch.no_grad()
    def _images(self, hu, labels, number):
        """Turn a part of a step into the CNN's input; with mixup the labels change, too."""
        hu = resize(hu.float(), self.config.image_size)
        images = to_channels(augment(hu, self.config, self.generator), self.config)
        if self.config.mixup:
            seed = derive_seed(self.seed, "mixup", self.done, number, here().rank)
            return mix(images, labels, self.config.mixup, seed)
        return images, labels

    def halve(self):
        """Take half the slices at once from here on, as memory ran out. Not while the error is
        being handled.
        """
        smaller = self.micro // 2
        # one rank alone cannot repeat a step that the others have finished
        if smaller < 2 or here().world > 1:
            raise self._too_large()
        self.micro = smaller
        self.optimizer.zero_grad(set_to_none=True)
        # the old one may have unscaled this step's gradients
        self.scaler = self._new_scaler(self.scaler.state_dict())
        free_memory(self.device)
        self.log(
            f"  {self.config.name}: out of memory, from here on {smaller} slices at once; a step still has "
            f"{self.config.batch * self.config.accumulate}, but batch norm sees {smaller}"
        )

    def _new_scaler(self, state=None):
        half = autocast_type(self.config, self.device) == torch.float16
        scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        if state:
            scaler.load_state_dict(state)
        return scaler

    def _too_large(self):
        return InputError(
            f"{self.config.name}: {self.micro} slices do not fit into the memory of {self.device}; lower batch in the recipe, "
            "or image_size, or choose a smaller backbone"
        )

    @property
    def lr(self):
        """The learning rate of the last step."""
        return learning_rate(self.done - 1, self.steps, self.config)

    def kept(self):
        """Return the Cnn whose weights are kept: the moving average where there is one."""
        return self.ema.module if self.ema else self.model

    def tensors(self):
        """Return everything of a checkpoint that is a tensor, on the CPU."""
        average = model_tensors(self.ema.module, "ema") if self.ema else {}
        return on_cpu(
            {**model_tensors(self.model, "model"), **average, **optimizer_tensors(self.optimizer)}
        )

    def numbers(self):
        """Return the rest of it, plain values."""
        return {"done": self.done, "micro": self.micro, "scaler": self.scaler.state_dict()}

    def load(self, tensors, numbers):
        """Take up where `tensors` and `numbers` were taken."""
        self.model.load_state_dict(of(tensors, "model"))
        if self.ema:
            self.ema.module.load_state_dict(of(tensors, "ema"))
        load_optimizer(self.optimizer, tensors)
        self.done, self.micro = numbers["done"], numbers["micro"]
        if numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])


def new_optimizer(model, config):
    """Return AdamW with all that it keeps of the weights, zeros: by itself it would allocate that
    in the midst of a step.
    """
    optimizer = torch.optim.AdamW(
        param_groups_weight_decay(model, config.weight_decay), lr=config.lr, fused=True
    )
    for weight in (
        weight
        for group in optimizer.param_groups
        for weight in group["params"]
        if weight.requires_grad
    ):
        optimizer.state[weight] = {
            "step": torch.zeros((), device=weight.device),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }
    return optimizer


def weighted_bce(logits, labels, weights):
    """Return the competition's weighted log loss of logits and labels, both (b, 6), as a scalar
    tensor.
    """
    return (
        (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights)
        .sum(dim=1)
        .mean()
    )


def learning_rate(step, steps, config):
    """Return the learning rate of `step` (0 ... steps - 1): a straight warm-up, then half a cosine
    down to 0.
    """
    rising = round(config.warmup * steps)
    if step < rising:
        return config.lr * (step + 1) / rising
    return config.lr * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2
