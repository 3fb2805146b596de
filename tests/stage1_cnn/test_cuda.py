"""The checks of test_device.py on a GPU; skipped where torch finds none."""

import os

import numpy as np
import pytest
import torch
from cnn_slices import make_slices, reader
from test_device import NO_BATCH_NORM, config, train

from ct.errors import InputError
from stage1_cnn.batches.dataset import neighbour_rows
from stage1_cnn.device import CUBLAS_WORKSPACE, torch_settings
from stage1_cnn.gpu_memory import is_out_of_memory
from stage1_cnn.gradcam import gradcam_maps
from stage1_cnn.inference import predict
from stage1_cnn.model import build_model, check_trainable

os.environ.setdefault(*CUBLAS_WORKSPACE)  # as run.main does: cuBLAS reads it once
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]
MEGABYTES = 1 << 20


@pytest.fixture
def narrow():
    """Return a function that limits torch to some megabytes of the GPU more than it holds now."""
    total = torch.cuda.get_device_properties(0).total_memory

    def leave(megabytes):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + megabytes * MEGABYTES) / total
        )

    yield leave
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_errors_of_exhausted_memory_are_recognised(narrow):
    narrow(64)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 40, dtype=torch.int8, device="cuda")
    assert is_out_of_memory(caught.value)


def test_the_same_training_gives_the_same_bits():
    first, second = (train(config(epochs=2))[0].state() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_too_large_a_batch_is_halved_in_training_and_prediction(narrow):
    kind = config(batch=16, precision="fp32", **{**NO_BATCH_NORM, "image_size": 768})
    narrow(400)
    trained, lines = train(kind)
    assert trained.micro_batch < 16 and lines and "out of memory" in lines[0]
    slices, hu = make_slices(4, 4)
    logits, _ = predict(
        trained.model, neighbour_rows(slices, 0), np.ones(16, bool), reader(hu), kind
    )
    assert np.isfinite(logits).all()


def test_weights_that_do_not_fit_raise_one_line(narrow):
    narrow(2)
    with pytest.raises(InputError, match="do not fit into the memory of cuda"):
        train(config(backbone="resnet18"))


def test_fp32_is_not_tf32():
    a, b = (torch.randn(512, 512, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with torch_settings(config(precision="fp32")):
        product = (a.cuda() @ b.cuda()).cpu()
        images = torch.nn.functional.conv2d(
            a[None, None].cuda(), b[None, None, :5, :5].cuda()
        ).cpu()
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)
    expected = torch.nn.functional.conv2d(a[None, None].double(), b[None, None, :5, :5].double())
    torch.testing.assert_close(images.double(), expected, rtol=1e-4, atol=1e-4)


def test_an_untrained_cnn_distinguishes_slices():
    slices, hu = make_slices(32, 16)
    logits, _ = predict(
        build_model(config(), 0),
        neighbour_rows(slices, 0),
        np.ones(512, bool),
        reader(hu),
        config(),
    )
    assert len(np.unique(logits[:, 0])) > 256


def test_gradcam_with_and_without_determinism():
    pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
    slices, hu = make_slices(2, 4)
    model, rows, readable = build_model(config(), 0), neighbour_rows(slices, 0), np.ones(8, bool)
    maps = [
        gradcam_maps(model, rows, readable, reader(hu), config(deterministic=kind))
        for kind in (False, True, True)
    ]
    assert np.array_equal(maps[1], maps[2]) and np.allclose(maps[0], maps[1], atol=1e-3)


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_check_trainable_runs_on_the_gpu(precision):
    check_trainable(config(backbone="resnet18", precision=precision), 64)
