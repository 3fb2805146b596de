"""Training and prediction on made-up CUDA tensors: a tensor that is left on the CPU raises."""

from unittest import mock

import pytest
import torch
from fake_cuda import DEVICE, Generator, backward_of, fake_cuda
from test_device import config

from stage1_cnn import inference, training_step
from stage1_cnn.batches import augment
from stage1_cnn.model import build_model
from stage1_cnn.training_step import Trainer

# of torch, about memory that a copied module does not have here
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

ALL = {  # everything that a batch can go through
    "windows": ("brain", "bone"),
    "neighbours": 1,
    "image_size": 48,
    "crop_head": True,
    "layer_decay": 0.7,
    "erase": 0.5,
    "reverse": True,
    "hu_shift": 3,
    "hu_noise": 3,
    "mixup": 0.3,
    "dropout": 0.2,
    "tta": ("flip", "reverse"),
    "ema": 0.9,
    "average_epochs": 2,
    "body_rate": 0.1,
    "freeze_norms": True,
    "grad_checkpointing": True,
}
# precision -> type in which the first layer computes
HALF = {"auto": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TWO_DEVICES = (
    "[Ff]ound (at least )?two( different)? devices|a generator on cpu|Expected all tensors"
)


def batch():
    """Return HU and labels of four slices on DEVICE."""
    hu = torch.empty(4, 3, 64, 64, dtype=torch.int16, device=DEVICE)
    return hu, torch.empty(4, 6, device=DEVICE)


def train_step(model, kind):
    """Take one training step, in two pieces. Returns the Trainer and the loss."""
    trainer = Trainer(model.to(DEVICE), kind, 10, 0, print)
    trainer.micro_batch = 2
    with mock.patch("torch.Tensor.backward", backward_of(trainer.model)):
        return trainer, trainer.step(*batch(), 4)


@pytest.mark.parametrize(
    ("backbone", "precision"),
    [
        ("test_resnet", "fp32"),
        ("test_resnet", "fp16"),
        ("test_convnext", "auto"),
        ("test_vit", "auto"),
    ],
)
def test_a_training_step_stays_on_its_device(backbone, precision):
    kind = config(**ALL, backbone=backbone, precision=precision)
    model = build_model(kind, 0)
    with fake_cuda():
        trainer, loss = train_step(model, kind)
        assert (loss.device, loss.dtype) == (DEVICE, torch.float32)
        trainer.end_epoch(kind.epochs)
        tensors = [
            *trainer.model.state_dict().values(),
            *trainer.ema.module.state_dict().values(),
            *trainer.final_model().state_dict().values(),  # the mean of the last epochs
            *(value for state in trainer.optimizer.state.values() for value in state.values()),
        ]
        assert len(tensors) > 50 and {each.device for each in tensors} == {DEVICE}
        assert torch.float64 not in {each.dtype for each in tensors}
        kept = trainer.tensors().values()  # as a checkpoint writes them
        assert {each.device.type for each in kept} == {"cpu"} and len(kept) == len(tensors)
        assert all(each.is_contiguous() for each in kept)
        trainer.load(trainer.tensors(), {"done": 1, "micro": 2, "scaler": {}, "averaged": 1})
        loaded = [each for state in trainer.optimizer.state.values() for each in state.values()]
        assert {each.device for each in loaded} == {DEVICE}


@pytest.mark.parametrize("precision", HALF)
def test_a_prediction_stays_on_its_device_and_its_last_layer_is_float32(precision):
    kind, types = config(**ALL, precision=precision), []
    model = build_model(kind, 0).eval()
    with fake_cuda():
        model.to(DEVICE)
        first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
        with torch.inference_mode():
            logits, embedding = inference._mean_of_views(model, batch()[0], kind)
        assert {(each.device, each.dtype) for each in (logits, embedding)} == {
            (DEVICE, torch.float32)
        }
    assert types == [HALF[precision]] * 3  # one for each view


def left_on_the_cpu(function):
    """Return a function whose result stays on the CPU."""

    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        whole = result if isinstance(result, tuple) else (result,)
        moved = tuple(each.cpu() for each in whole)
        return moved if isinstance(result, tuple) else moved[0]

    return call


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (augment, "_rectangles"),
        (augment, "_per_slice"),
        (training_step, "to_channels"),
        (training_step, "augment"),
        (training_step, "mix"),
    ],
)
def test_a_planted_fault_raises(owner, name):
    kind = config(**ALL, precision="fp32")
    model = build_model(kind, 0)
    with fake_cuda():
        with (
            mock.patch.object(owner, name, left_on_the_cpu(getattr(owner, name))),
            pytest.raises(RuntimeError, match=TWO_DEVICES),
        ):
            train_step(model, kind)
        train_step(model, kind)  # without the fault


@pytest.mark.parametrize("what", ["generator", "weights", "model"])
def test_a_planted_fault_of_the_trainer_raises(what):
    kind = config(**ALL, precision="fp32")
    model = build_model(kind, 0)
    with fake_cuda():
        trainer = Trainer(model.to(DEVICE), kind, 10, 0, print)
        if what == "generator":
            trainer.generator = Generator()
        elif what == "weights":
            trainer.weights = trainer.weights.cpu()
        else:
            last = trainer.model.backbone.get_classifier()
            last.bias = torch.nn.Parameter(last.bias.detach().cpu())
        with (
            mock.patch("torch.Tensor.backward", backward_of(trainer.model)),
            pytest.raises(RuntimeError, match=TWO_DEVICES),
        ):
            trainer.step(*batch(), 4)
