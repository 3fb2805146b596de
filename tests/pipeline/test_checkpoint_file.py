"""The checkpoint of a training that keeps the mean of its last epochs."""

import torch

from pipeline.training.checkpoint_file import read_checkpoint, write_checkpoint
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model
from stage1_cnn.state_tensors import TrainingState
from stage1_cnn.training_step import Trainer

CONFIG = CnnConfig(
    name="a", backbone="test_resnet", windows=("brain",), threads=1, epochs=4, average_epochs=3
)


def trained(epochs):
    """A Trainer after so many epochs of one step, and its checkpoint."""
    trainer = Trainer(build_model(CONFIG, 0), CONFIG, 1, 0, print)
    for epoch in range(1, epochs + 1):
        hu = torch.full((2, 1, 32, 32), 30 * epoch, dtype=torch.int16)
        trainer.step(hu, torch.ones(2, 6), 2)
        trainer.end_epoch(epoch)
    counts = {"epoch": epochs + 1, "step": 0, "loss_sum": 0.0, "curve": []}
    return trainer, TrainingState(trainer.tensors(), counts | trainer.state())


def test_the_mean_comes_back_from_the_file(tmp_path):
    trainer, checkpoint = trained(3)
    write_checkpoint(tmp_path / "c", checkpoint, "digest", {}, [])
    read, _, _ = read_checkpoint(tmp_path / "c", "digest", CONFIG, print)
    again = Trainer(build_model(CONFIG, 1), CONFIG, 1, 0, print)
    again.load(read.tensors, read.state)
    assert again.average.count == 2
    expected = trainer.final_model().state_dict()
    for name, value in again.final_model().state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert any(not torch.equal(v, expected[n]) for n, v in again.model.state_dict().items())


def test_before_the_averaged_epochs_there_is_none(tmp_path):
    _, checkpoint = trained(1)
    assert checkpoint.state["averaged"] == 0
    assert not [name for name in checkpoint.tensors if name.startswith("average.")]
    write_checkpoint(tmp_path / "c", checkpoint, "digest", {}, [])
    assert read_checkpoint(tmp_path / "c", "digest", CONFIG, print)[0] is not None


def test_a_checkpoint_without_its_mean_is_not_used(tmp_path):
    _, checkpoint = trained(3)
    tensors = {n: t for n, t in checkpoint.tensors.items() if not n.startswith("average.")}
    state = {n: v for n, v in checkpoint.state.items() if n != "averaged"}
    for damaged, reason in (
        (TrainingState(tensors, checkpoint.state), "its weights are those of another CNN"),
        (TrainingState(checkpoint.tensors, state), "its state lacks averaged"),
    ):
        lines = []
        write_checkpoint(tmp_path / "c", damaged, "digest", {}, [])
        assert read_checkpoint(tmp_path / "c", "digest", CONFIG, lines.append)[0] is None
        assert len(lines) == 1 and reason in lines[0]
