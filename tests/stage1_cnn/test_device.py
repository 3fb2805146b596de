"""Torch's settings, and exhausted memory, which is simulated here; see test_cuda.py for CUDA."""

import os

import numpy as np
import pytest
import torch
from cnn_slices import make_slices, reader
from torch._dynamo.exc import TorchDynamoException

import run
from ct.errors import InputError, MachineFault
from stage1_cnn import inference
from stage1_cnn.batches.dataset import fold_rows, neighbour_rows
from stage1_cnn.config import GPU_OF_PROCESS, CnnConfig
from stage1_cnn.device import CUBLAS_WORKSPACE, pick_device, torch_settings
from stage1_cnn.gpu_memory import is_out_of_memory
from stage1_cnn.gradcam import gradcam_maps
from stage1_cnn.inference import predict
from stage1_cnn.model import Cnn, build_model, check_trainable
from stage1_cnn.optimizer import new_optimizer
from stage1_cnn.train_loop import Hooks, train_cnn
from stage1_cnn.training_step import Trainer

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: "
        "you allocate 9 bytes."
    ),
]
OTHERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
    ValueError("out of memory"),
    MemoryError(),  # of the computer, not of a device
]
NO_BATCH_NORM = {
    "backbone": "test_convnext",
    "image_size": 64,
    "flip": False,
    "rotate": 0,
    "scale": 0,
    "shift": 0,
}


def config(**values):
    """Return a small CnnConfig."""
    small = {
        "name": "a",
        "backbone": "test_resnet",
        "threads": 1,
        "batch": 8,
        "epochs": 1,
        "windows": ("brain",),
        "lr": 3e-3,
    }
    return CnnConfig(**(small | values))


def failing_once(function, error, at=0):
    """Return `function`, whose call number `at` raises `error` instead."""
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == at + 1:
            raise error
        return function(*args, **kwargs)

    return call


def train(config, read=reader, **hooks):
    """Train on half of 40 slices. Returns the TrainedCnn and the logged lines."""
    slices, hu = make_slices(10, 4)
    lines = []
    rows = fold_rows(slices, (np.arange(40) // 4) % 2, 0)
    return train_cnn(slices, rows, read(hu), config, 0, Hooks(log=lines.append, **hooks)), lines


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_errors_of_exhausted_memory_are_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_not_exhausted_memory(error):
    assert not is_out_of_memory(error)


def test_the_cublas_workspace_is_set_before_any_computation(monkeypatch, capsys):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert run.main(["--help"]) == 0
    assert ("CUBLAS_WORKSPACE_CONFIG", os.environ["CUBLAS_WORKSPACE_CONFIG"]) == CUBLAS_WORKSPACE
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the user's own
    assert run.main(["--help"]) == 0 and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    capsys.readouterr()


def tf32():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_fp32_disables_tf32_and_the_setting_is_restored():
    before = tf32()
    assert before[1]  # torch's own default: convolutions in TF32
    with torch_settings(config(precision="fp32")):
        assert tf32() == (False, False)
        with torch_settings(config(precision="auto")):
            assert tf32() == (False, False)
    assert tf32() == before
    with torch_settings(config(precision="bf16")):
        assert tf32() == before


def test_determinism_does_not_fill_new_memory():
    before = torch.utils.deterministic.fill_uninitialized_memory
    assert before
    with torch_settings(config(deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory == before


def test_the_last_layer_computes_in_float32():
    """In bf16 an untrained CNN gave 512 slices only five distinct probabilities."""
    model = build_model(config(), 0).eval()
    images = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, embedding = model(images)
    last = model.backbone.get_classifier()
    assert logits.dtype == embedding.dtype == torch.float32
    torch.testing.assert_close(logits, embedding @ last.weight.T + last.bias, rtol=1e-5, atol=1e-6)
    assert len(torch.unique(logits[:, 0])) > 60
    with torch.inference_mode():  # without autocast, the bits of timm's own forward
        assert torch.equal(model(images)[0], model.backbone(images))


@pytest.mark.parametrize("error", OUT_OF_MEMORY[:3], ids=str)
@pytest.mark.parametrize("where", ["reader", "cnn"])
def test_predict_empties_the_cache_and_halves_the_batch(where, error, monkeypatch):
    slices, hu = make_slices(2, 5)
    model, rows, readable = build_model(config(), 0), neighbour_rows(slices, 0), np.ones(10, bool)
    expected, _ = predict(model, rows, readable, reader(hu), config())
    steps, emptied = [], []
    monkeypatch.setattr(inference, "free_memory", lambda device: emptied.append(device.type))
    read = whole = reader(hu)
    if where == "reader":  # in a thread, which reads the second batch
        refuse = failing_once(whole, error)
        read = lambda numbers, out=None: (refuse if 5 in numbers else whole)(numbers, out)  # noqa: E731
    else:
        monkeypatch.setattr(
            inference,
            "_mean_of_views",
            failing_once(inference._mean_of_views, error, at=1),
        )
    probs, _ = predict(model, rows, readable, read, config(batch=4), steps.append)
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    assert emptied == ["cpu"] and steps == [4, 2, 2, 2]


def test_an_error_that_is_not_of_memory_is_raised():
    slices, hu = make_slices(2, 5)
    read = failing_once(reader(hu), OTHERS[0], at=1)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        predict(
            build_model(config(), 0), neighbour_rows(slices, 0), np.ones(10, bool), read, config()
        )


@pytest.mark.parametrize("error", OUT_OF_MEMORY[:2], ids=str)
def test_exhausted_memory_in_the_reader_thread_halves_the_batch(error):
    whole, _ = train(config(**NO_BATCH_NORM))
    trained, lines = train(
        config(**NO_BATCH_NORM), lambda hu: failing_once(reader(hu), error, at=2)
    )
    assert (
        trained.micro_batch == 4
        and len(lines) == 1
        and "out of memory, from here on 4 slices at once" in lines[0]
    )
    for name, value in whole.state().items():  # every step was done once
        torch.testing.assert_close(trained.state()[name], value, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("where", ["torch.nn.utils.clip_grad_norm_", "torch.optim.AdamW.step"])
def test_exhausted_memory_in_a_step_halves_the_batch_and_repeats_the_step(
    where, precision, monkeypatch
):
    kind = config(precision=precision, lr=1e-3, **NO_BATCH_NORM)
    whole, _ = train(kind)
    owner, _, name = where.rpartition(".")
    owner = torch.optim.AdamW if owner.endswith("AdamW") else torch.nn.utils
    monkeypatch.setattr(owner, name, failing_once(getattr(owner, name), OUT_OF_MEMORY[1]))
    trained, lines = train(kind)
    assert trained.micro_batch == 4 and len(lines) == 1
    for name, value in whole.state().items():
        torch.testing.assert_close(trained.state()[name], value, atol=2e-3, rtol=1e-2, msg=name)


def test_a_step_that_changed_some_weights_is_not_repeated(monkeypatch):
    """The step fails at the second group of weights, after the first one changed."""
    whole = torch.optim.AdamW._init_group
    monkeypatch.setattr(
        torch.optim.AdamW, "_init_group", failing_once(whole, OUT_OF_MEMORY[0], at=1)
    )
    with pytest.raises(
        InputError, match="8 slices do not fit into the memory of cpu; lower batch in the recipe"
    ):
        train(config(**NO_BATCH_NORM))


def test_the_optimizer_allocates_before_the_first_step():
    """The moments have the shapes, types and memory format that AdamW itself would allocate."""
    model = build_model(config(), 0).to(memory_format=torch.channels_last)
    ready = new_optimizer(model, config())
    before = {
        id(weight): {name: value.clone() for name, value in kept.items()}
        for weight, kept in ready.state.items()
    }
    lazy = torch.optim.AdamW(
        ready.param_groups[0]["params"] + ready.param_groups[1]["params"], lr=0.0, fused=True
    )
    for weight in lazy.param_groups[0]["params"]:
        weight.grad = torch.zeros_like(weight)
    lazy.step()
    assert len(lazy.state) == len(before) > 10
    for weight, kept in lazy.state.items():
        assert set(kept) == set(before[id(weight)])
        for name, value in kept.items():
            other = before[id(weight)][name]
            assert (value.shape, value.dtype, value.stride()) == (
                other.shape,
                other.dtype,
                other.stride(),
            ) and not other.any()


def test_weights_that_do_not_fit_raise_one_line(monkeypatch):
    message = (
        "its weights and the optimizer's state do not fit into the memory of cpu; "
        "choose a smaller backbone"
    )
    slices, hu = make_slices(2, 5)
    with monkeypatch.context() as patch, pytest.raises(InputError, match=message):
        patch.setattr(
            "stage1_cnn.training_step.new_optimizer", failing_once(new_optimizer, OUT_OF_MEMORY[0])
        )
        Trainer(build_model(config(), 0), config(), 1, 0, print)
    built, rows = build_model(config(), 0), neighbour_rows(slices, 0)
    for work in (
        lambda: train(config()),
        lambda: predict(built, rows, np.ones(10, bool), reader(hu), config()),
    ):
        with monkeypatch.context() as patch, pytest.raises(InputError, match=message):
            patch.setattr(Cnn, "to", failing_once(Cnn.to, OUT_OF_MEMORY[3]))
            work()


def test_check_trainable_uses_the_settings_of_a_training(monkeypatch):
    calls, forward = [], Cnn.forward

    def recorded(model, images):
        autocast = torch.is_autocast_enabled("cpu")
        calls.append(
            (len(images), model.training, torch.are_deterministic_algorithms_enabled(), autocast)
        )
        return forward(model, images)

    monkeypatch.setattr(
        "stage1_cnn.model.pick_device", lambda: calls.append("device") or torch.device("cpu")
    )
    monkeypatch.setattr(Cnn, "forward", recorded)
    torch.manual_seed(5)
    check_trainable(config(precision="bf16", dropout=0.5), 32)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert after == torch.rand(1)  # the state of the global generator did not change
    assert calls == ["device", (2, True, True, True), (2, False, True, True)]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            RuntimeError(
                "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation"
            ),
            "deterministic: false",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "lower image_size"),
        (AssertionError(), r"AssertionError.; set image_size: \d+, which it was made for"),
        (
            RuntimeError("Calculated padded input size per channel: (1 x 1)"),
            r"set image_size: \d+, which it was made for",
        ),
    ],
)
def test_a_backbone_without_deterministic_backward_pass_is_refused(error, remedy, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "backward", failing_once(torch.Tensor.backward, error))
    with pytest.raises(InputError, match=remedy):
        check_trainable(config(), 32)


def test_a_process_that_was_started_for_a_gpu_does_not_fall_back_to_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for gpu in ("", None):
        if gpu is None:
            monkeypatch.delenv(GPU_OF_PROCESS)
        else:
            monkeypatch.setenv(GPU_OF_PROCESS, gpu)
        assert pick_device().type == "cpu"
    monkeypatch.setenv(GPU_OF_PROCESS, "GPU-5")
    with pytest.raises(InputError, match=r"^GPU GPU-5: torch finds no CUDA device.*--gpus=cpu"):
        pick_device()
    assert pick_device("cpu").type == "cpu"  # which the user asked for


@pytest.mark.parametrize("where", ["training", "prediction", "move"])
def test_a_gpu_that_fails_raises_one_line(where, monkeypatch):
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")
    owner, name = (Cnn, "to") if where == "move" else (Cnn, "forward")
    if where == "prediction":
        owner, name = inference, "_mean_of_views"
    monkeypatch.setattr(owner, name, failing_once(getattr(owner, name), error))
    with pytest.raises(MachineFault, match="^the GPU failed .*illegal memory access") as raised:
        train(config())
    assert "\n" not in str(raised.value) and raised.value.__cause__ is error


def test_a_failing_torch_compile_raises_one_line(monkeypatch):
    def refuse(images):
        raise TorchDynamoException("backend='inductor' raised:\nInvalidCxxCompiler")

    monkeypatch.setattr(torch, "compile", lambda net: refuse)
    with pytest.raises(InputError, match=r"^a: torch.compile failed .*compile: false") as raised:
        train(config(compile=True))
    assert "\n" not in str(raised.value)


def test_settings_that_timm_refuses_raise_one_line():
    with pytest.raises(
        InputError, match="backbone 'xcit_nano_12_p16_224' (cannot be made|does not take)"
    ) as error:
        check_trainable(config(backbone="xcit_nano_12_p16_224", image_size=50), 64)
    assert "\n" not in str(error.value)


def test_gradcam_uses_the_torch_settings_and_halves_the_batch(monkeypatch):
    pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")
    slices, hu = make_slices(2, 5)
    model, rows, readable = build_model(config(), 0), neighbour_rows(slices, 0), np.ones(10, bool)
    deterministic, emptied = [], []
    model.register_forward_pre_hook(
        lambda *args: deterministic.append(torch.are_deterministic_algorithms_enabled())
    )
    expected = gradcam_maps(model, rows, readable, reader(hu), config())
    # from the first image on, which only gives the shape of the maps
    assert deterministic and all(deterministic)
    monkeypatch.setattr(inference, "free_memory", lambda device: emptied.append(device.type))
    maps = gradcam_maps(
        model, rows, readable, failing_once(reader(hu), OUT_OF_MEMORY[0], at=2), config(batch=4)
    )
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert emptied == ["cpu"]
