"""TensorBoard's scalars of a training, where the recipe has `stage1.tensorboard: true`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ct.errors import InputError


class Scalars:
    """Writes the loss of each step and the losses of each epoch; without a writer nothing."""

    def __init__(self, writer: Any = None) -> None:
        self.writer = writer

    def step(self, number: int, loss: float) -> None:
        """Write the loss of step `number`, counted from 1 over all epochs."""
        if self.writer:
            self.writer.add_scalar("loss/step", loss, number)

    def epoch(self, entry: Mapping[str, Any]) -> None:
        """Write an entry of the learning curve."""
        for name in ("lr", "train_loss", "held_out_loss"):
            if self.writer and entry[name] is not None:
                self.writer.add_scalar(f"epoch/{name}", entry[name], entry["epoch"])


@contextmanager
def open_scalars(enabled: bool, folder: Path, done: int) -> Iterator[Scalars]:
    """Yield Scalars that write to `folder`; where not `enabled`, they write nothing.

    done: steps before this training continues; TensorBoard drops what was written after them
    """
    if not enabled:
        yield Scalars()
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=done + 1) as writer:
        yield Scalars(writer)


def check_tensorboard(enabled: bool) -> None:
    """Raise InputError where the recipe enables TensorBoard and it is not installed."""
    if enabled and not find_spec("tensorboard"):
        raise InputError(
            "stage1.tensorboard: true needs tensorboard, which is not installed: "
            "pip install -e '.[track]'"
        )
