"""A pretrained body that is held: the rule, what stays, what is trained, resuming."""

import numpy as np
import pytest
import torch
from cnn_slices import make_slices, reader
from timm.optim import param_groups_layer_decay

from ct.labels import LABELS
from stage1_cnn import train_loop
from stage1_cnn.batches.dataset import fold_rows
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import Cnn, build_model
from stage1_cnn.train_loop import Hooks, train_cnn
from stage1_cnn.training_methods.held_body import hold_for, settled, with_body_rate
from stage1_cnn.training_step import Trainer

PLAIN = {"flip": False, "rotate": 0, "scale": 0, "shift": 0}  # no augmentation


def config(**values):
    small = {
        "name": "a",
        "backbone": "test_resnet",
        "threads": 1,
        "batch": 8,
        "windows": ("brain",),
    }
    return CnnConfig(**(small | {"epochs": 2, "lr": 3e-3} | values))


def train(config, checkpoint=None, hooks=None):
    slices, hu = make_slices(10, 4)
    split = fold_rows(slices, (np.arange(len(slices)) // 4) % 2, 0)
    hooks = hooks or Hooks(log=lambda line: None)
    return train_cnn(slices, split, reader(hu), config, 0, hooks, checkpoint)


def start(config):
    return build_model(config, 0).backbone.state_dict()


@pytest.mark.parametrize(
    ("patients", "rate", "norms"),
    [(0, 0, True), (49, 0, True), (50, 0.01, True), (499, 0.01, True), (500, 1, False)],
)
def test_the_rule_follows_the_number_of_positive_patients(patients, rate, norms):
    hold = hold_for(patients)
    assert (hold.body_rate, hold.freeze_norms) == (rate, norms)


def test_defaults_are_settled_where_weights_are_pretrained():
    slices, _ = make_slices(60, 2)
    slices[list(LABELS)] = 0.0
    slices.iloc[::2, slices.columns.get_loc("any")] = 1.0  # a slice of each of 60 patients
    many, few = np.arange(120), np.arange(98)

    def values(rows, **fields):
        held = settled(config(**fields), slices, rows)
        return held.body_rate, held.freeze_norms

    assert values(many, pretrained=True) == (0.01, True)
    assert values(few, pretrained="w.pth") == (0, True)
    assert values(few) == (1, False)  # from scratch
    assert values(few, pretrained=True, body_rate=0.5, freeze_norms=False) == (0.5, False)


def test_a_frozen_body_keeps_every_bit_and_sees_each_slice_once(monkeypatch):
    passed, forward = [], Cnn.forward

    def counted(self, images):
        passed.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Cnn, "forward", counted)
    frozen = config(body_rate=0, epochs=5)
    slices, hu = make_slices(10, 4)
    split = fold_rows(slices, (np.arange(len(slices)) // 4) % 2, 0)[0], np.empty(0, np.int64)
    trained = train_cnn(slices, split, reader(hu), frozen, 0, Hooks(log=lambda line: None))
    assert sum(passed) == len(split[0]) == 20
    before, after = trained.model.backbone.get_classifier(), trained.state()
    fresh = build_model(frozen, train_loop.derive_seed(0, "weights")).backbone.state_dict()
    changed = {name for name in fresh if not torch.equal(fresh[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"} and before.weight.requires_grad
    losses = [entry["train_loss"] for entry in trained.curve]
    assert losses[-1] < losses[0]


def test_embeddings_that_are_kept_train_the_same_head_as_slices(monkeypatch):
    frozen = config(body_rate=0, **PLAIN)
    kept = train(frozen).state()
    monkeypatch.setattr(train_loop, "is_frozen", lambda config: False)  # the slices, in each step
    passed = train(frozen).state()
    for name, value in kept.items():
        torch.testing.assert_close(value, passed[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("values", [{"body_rate": 0}, {"body_rate": 0.1, "freeze_norms": True}])
def test_a_held_training_continues_from_its_checkpoint_to_the_same_bits(values):
    saved = []
    hooks = Hooks(save=saved.append, log=lambda line: None)
    whole = train(config(dropout=0.2, ema=0.9, **values), hooks=hooks).state()
    again = train(config(dropout=0.2, ema=0.9, **values), checkpoint=saved[0]).state()
    assert saved[0].state["epoch"] == 2
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_frozen_norms_keep_weights_and_statistics():
    held = config(body_rate=1.0, freeze_norms=True)
    model = build_model(held, 0)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    trainer = Trainer(model, held, 1, 0, print)
    trainer.step(torch.randint(-100, 200, (8, 1, 32, 32), dtype=torch.int16), torch.ones(8, 6), 8)
    changed = {n for n, v in model.backbone.state_dict().items() if not torch.equal(v, before[n])}
    assert "conv1.0.weight" in changed and "fc.weight" in changed
    assert not any("bn" in name or "running" in name for name in changed)


def test_the_body_learns_at_its_share_of_the_rate():
    held = config(body_rate=0.01, warmup=0, weight_decay=0)
    model = build_model(held, 0)
    before = {name: value.detach().clone() for name, value in model.backbone.named_parameters()}
    trainer = Trainer(model, held, 10, 0, print)
    trainer.step(torch.randint(-100, 200, (8, 1, 32, 32), dtype=torch.int16), torch.ones(8, 6), 8)
    # AdamW's first step moves each weight by the rate
    after = {name: value.detach() for name, value in model.backbone.named_parameters()}
    moved = {name: float((value - before[name]).abs().max()) for name, value in after.items()}
    assert moved["fc.weight"] == pytest.approx(held.lr, rel=0.01)
    assert moved["conv1.0.weight"] == pytest.approx(0.01 * held.lr, rel=0.01)


def test_the_share_is_a_factor_of_the_rates_of_layers():
    model = build_model(config(), 0)
    groups = param_groups_layer_decay(model.backbone, 0.02, layer_decay=0.5)
    before = {id(weight): g["lr_scale"] for g in groups for weight in g["params"]}
    split = with_body_rate(groups, model, config(body_rate=0.1))
    head = {id(weight) for weight in model.backbone.get_classifier().parameters()}
    after = {id(weight): g["lr_scale"] for g in split for weight in g["params"]}
    assert after.keys() == before.keys() and len(set(before.values())) > 2
    for weight, scale in after.items():
        share = 1 if weight in head else 0.1
        assert scale == pytest.approx(before[weight] * share)


def test_what_the_rule_decides_is_logged(tmp_path):
    from safetensors.torch import save_file

    save_file(start(config()), tmp_path / "w.safetensors")
    lines = []
    train(config(pretrained=str(tmp_path / "w.safetensors")), hooks=Hooks(log=lines.append))
    assert len(lines) == 1 and "body_rate 0, freeze_norms True" in lines[0]
