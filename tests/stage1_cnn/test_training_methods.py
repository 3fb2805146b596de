"""Layer-wise rates, gradient checkpointing and mean weights: each does what it says, or is off."""

import numpy as np
import pytest
import torch
from test_train_loop import EVERYTHING, config, data, digest, train

from ct.errors import InputError
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import build_model, check_trainable
from stage1_cnn.optimizer import learning_rate, new_optimizer, set_learning_rates
from stage1_cnn.train_loop import Hooks
from stage1_cnn.training_methods.gradient_checkpointing import buffers_kept, set_checkpointing


def rates(model, changed, step=3):
    """{name of a weight: its learning rate at a step of 10}."""
    optimizer = new_optimizer(model, changed)
    set_learning_rates(optimizer, step, 10, changed)
    of_weight = {id(w): group["lr"] for group in optimizer.param_groups for w in group["params"]}
    return {name: of_weight[id(w)] for name, w in model.backbone.named_parameters()}


def test_the_rate_of_a_layer_is_a_share_of_that_of_the_layer_behind_it():
    changed = config(layer_decay=0.5)
    model = build_model(changed, 0)
    found, lr = rates(model, changed), learning_rate(3, 10, changed)
    assert found["fc.weight"] == found["fc.bias"] == lr
    blocks = [name for name in found if name.endswith("conv1.weight") and "layer" in name]
    assert [found[name] / lr for name in blocks] == [2.0**-n for n in range(len(blocks), 0, -1)]
    assert min(found.values()) == found["conv1.0.weight"] == lr * 2.0 ** -(len(blocks) + 1)
    plain = config()
    assert set(rates(build_model(plain, 0), plain).values()) == {lr}


def test_weight_decay_spares_biases_and_norms_with_layer_rates_too():
    changed = config(layer_decay=0.5, weight_decay=0.1)
    model = build_model(changed, 0)
    optimizer = new_optimizer(model, changed)
    counted = 0
    for group in optimizer.param_groups:
        assert {weight.ndim > 1 for weight in group["params"]} == {group["weight_decay"] == 0.1}
        counted += len(group["params"])
    assert counted == len(list(model.parameters()))


def test_layers_that_timm_does_not_know_are_one_line(monkeypatch):
    monkeypatch.setattr(
        "stage1_cnn.optimizer.param_groups_layer_decay",
        lambda model, decay, layer_decay: [{"params": list(model.parameters()), "lr_scale": 1.0}],
    )
    with pytest.raises(InputError, match=r"a: layer_decay = 0.7, but timm does not know the lay"):
        check_trainable(config(layer_decay=0.7), 32)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
def test_checkpointing_changes_memory_but_not_the_weights(backbone):
    slices, hu, fold = data()
    changes = EVERYTHING | {"backbone": backbone, "epochs": 1}
    plain = train(slices, hu, fold, 0, config(**changes))
    less = train(slices, hu, fold, 0, config(**changes, grad_checkpointing=True))
    for name, value in plain.state().items():  # batch norm's statistics and counts, too
        torch.testing.assert_close(less.state()[name], value, atol=1e-6, rtol=1e-5, msg=name)


def kept_bytes(changed):
    """Bytes of the activations that a forward pass keeps for the backward pass."""
    model, sizes = build_model(changed, 0).train(), []
    set_checkpointing(model.backbone, changed)

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits, _ = model(torch.randn(4, 1, 64, 64))
    count = sum(sizes)
    with buffers_kept(model, changed):
        logits.sum().backward()
    return count


def test_checkpointing_keeps_fewer_activations():
    assert kept_bytes(config(grad_checkpointing=True)) < 0.6 * kept_bytes(config())


def test_a_repeated_forward_pass_leaves_the_statistics_where_the_backward_pass_fails():
    changed = config(grad_checkpointing=True)
    model = build_model(changed, 0).train()
    before = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(torch.OutOfMemoryError), buffers_kept(model, changed):
        model(torch.randn(4, 1, 32, 32))
        raise torch.OutOfMemoryError("out of memory")
    assert all(map(torch.equal, before, model.buffers()))


def test_a_backbone_without_checkpointing_is_one_line_at_new():
    name = "cs3darknet_focus_s"
    with pytest.raises(InputError, match=f"^a: grad_checkpointing = true, but backbone '{name}' h"):
        check_trainable(config(backbone=name, grad_checkpointing=True), 32)


def last_weights(changed):
    """The weights that are kept, and those after each epoch, {name: tensor}."""
    slices, hu, fold = data()
    saved = []
    kept = train(slices, hu, fold, 0, changed, hooks=Hooks(save=saved.append)).state()
    source = "ema.backbone." if changed.ema else "model.backbone."
    ends = [
        {
            name.removeprefix(source): value
            for name, value in checkpoint.tensors.items()
            if name.startswith(source)
        }
        for checkpoint in saved
    ]
    return kept, ends


@pytest.mark.parametrize("changes", [{}, {"ema": 0.5}], ids=str)
def test_the_mean_of_the_last_epochs_is_kept(changes):
    kept, ends = last_weights(config(epochs=4, average_epochs=3, **changes))
    assert len(ends) == 4
    for name, value in kept.items():
        last = [end[name] for end in ends[1:]]
        expected = torch.stack(last).mean(0) if value.is_floating_point() else last[-1]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5, msg=name)
    assert not torch.equal(kept["fc.weight"], ends[-1]["fc.weight"])


@pytest.mark.parametrize("epochs", [0, 1])
def test_one_epoch_is_the_last_one(epochs):
    kept, ends = last_weights(config(epochs=2, average_epochs=epochs))
    assert digest(kept) == digest({name: ends[-1][name] for name in kept})


def test_more_epochs_than_there_are_average_all():
    kept, ends = last_weights(config(epochs=2, average_epochs=9))
    mean = (ends[0]["fc.weight"] + ends[1]["fc.weight"]) / 2
    torch.testing.assert_close(kept["fc.weight"], mean)


def test_the_held_out_loss_of_the_last_epoch_is_that_of_the_mean():
    slices, hu, fold = data()
    plain = train(slices, hu, fold, 0, config(epochs=3)).curve
    mean = train(slices, hu, fold, 0, config(epochs=3, average_epochs=2)).curve
    losses = np.array([[e["held_out_loss"] for e in curve] for curve in (plain, mean)])
    # the mean begins after epoch 2, alone, and changes nothing in the training itself
    assert (losses[0, :2] == losses[1, :2]).all() and losses[0, 2] != losses[1, 2]
    assert [e["train_loss"] for e in plain] == [e["train_loss"] for e in mean]


def test_every_field_is_off_by_default():
    off = CnnConfig(name="a", backbone="test_resnet")
    assert (off.layer_decay, off.grad_checkpointing, off.average_epochs) == (1.0, False, 0)
