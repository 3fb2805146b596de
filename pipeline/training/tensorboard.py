"""TensorBoard's scalars of a training, where the recipe asks for them (`stage1.tensorboard: true`,
extra `track`).
"""

from contextlib import contextmanager
from importlib.util import find_spec

from ct.errors import InputError


class Scalars:
    """Writes the loss of each step and the line of each epoch; without a writer nothing."""

    def __init__(self, writer=None):
        self.writer, self.at = writer, 0

    def step(self, number, loss):
        """Write the loss of step `number`, counted from 1 over all epochs."""
        self.at = number
        if self.writer:
            self.writer.add_scalar("loss/step", loss, number)

    def epoch(self, line):
        """Write a line of the learning curve."""
        for name in ("lr", "train_loss", "held_out_loss"):
            if self.writer and line[name] is not None:
                self.writer.add_scalar(f"epoch/{name}", line[name], line["epoch"])


@contextmanager
def open_scalars(wanted, folder, done):
    """Give Scalars that write to `folder`; steps after the first `done` that an interrupted
    training wrote are left out.
    """
    if not wanted:
        yield Scalars()
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=done + 1) as writer:
        yield Scalars(writer)


def check_scalars(wanted):
    """Raise InputError where the recipe wants TensorBoard and it is not installed."""
    if wanted and not find_spec("tensorboard"):
        raise InputError(
            "stage1.tensorboard: true needs tensorboard, which is not installed: pip install -e '.[track]'"
        )
