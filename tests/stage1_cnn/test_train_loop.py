"""Training: learns a planted signal, is repeatable, continues a checkpoint, recovers memory."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cnn_slices import make_slices, reader
from scipy.special import expit

from ct.errors import InputError
from ct.labels import LABELS, WEIGHTS
from ct.metrics import weighted_log_loss
from stage1_cnn import train_loop
from stage1_cnn.batches.dataset import (
    epoch_steps,
    fold_rows,
    neighbour_rows,
    training_targets,
    with_soft_labels,
)
from stage1_cnn.config import CnnConfig
from stage1_cnn.distributed import Process
from stage1_cnn.inference import predict
from stage1_cnn.model import Cnn, build_model
from stage1_cnn.optimizer import learning_rate
from stage1_cnn.train_loop import Hooks, NotANumber, train_cnn
from stage1_cnn.training_methods.held_body import positive_patients
from stage1_cnn.training_step import Trainer, weighted_bce

ROOT = Path(__file__).resolve().parents[2]


def config(**values):
    """Return a CnnConfig that trains in a second."""
    small = {
        "name": "a",
        "backbone": "test_resnet",
        "threads": 1,
        "batch": 16,
        "epochs": 1,
        "windows": ("brain",),
        "lr": 3e-3,
    }
    return CnnConfig(**(small | values))


def data(patients=10, each=4):
    """Return slices, their images, and two folds by patient."""
    slices, hu = make_slices(patients, each)
    return slices, hu, (np.arange(len(slices)) // each) % 2


def train(slices, hu, fold, k, config, seed=0, hooks=None, checkpoint=None):
    """Train on every fold but `k`."""
    return train_cnn(
        slices, fold_rows(slices, fold, k), reader(hu), config, seed, hooks, checkpoint
    )


def digest(state):
    """Return a hash of all weights."""
    return hashlib.sha256(
        b"".join(state[name].numpy().tobytes() for name in sorted(state))
    ).hexdigest()


def test_too_few_training_slices_are_an_input_error():
    slices, hu, fold = data(2)
    slices[list(LABELS)] = np.float32(np.nan)
    with pytest.raises(InputError, match="0 readable slices with labels"):
        train(slices, hu, fold, 1, config())


def test_the_loss_is_the_metric():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(20, 6)), (rng.random((20, 6)) < 0.3).astype(float)
    loss = weighted_bce(torch.tensor(logits), torch.tensor(labels), torch.tensor(WEIGHTS))
    assert loss.item() == pytest.approx(weighted_log_loss(labels, 1 / (1 + np.exp(-logits))))


def test_a_slice_counts_by_its_weight():
    logits, labels, weights = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [0.25]]), 2.0
    first, second = np.log1p(np.exp(-1.0)), np.log1p(np.exp(2.0)) - 0.25 * 2
    plain = weighted_bce(logits, labels, torch.tensor([weights]))
    assert plain.item() == pytest.approx(weights * (first + second) / 2)
    targets = torch.cat([labels, torch.tensor([[1.0], [0.5]])], 1)
    weighed = weighted_bce(logits, targets, torch.tensor([weights]))
    assert weighed.item() == pytest.approx(weights * (first + 0.5 * second) / 2)


def test_soft_labels_are_trained_on_as_slices_that_count_less():
    slices, hu, fold = data()
    rows = np.flatnonzero(fold == 1)[:8]
    own = slices[list(LABELS)].to_numpy()[rows]
    states = []
    for labels, weight in ((own, 1.0), (own, 0.5), (1 - own, 0.5)):
        table = with_soft_labels(slices, rows, labels, weight)
        assert training_targets(table)[rows].tolist() == np.c_[labels, [weight] * 8].tolist()
        states.append(digest(train(table, hu, fold, 0, config(mixup=0.4)).state()))
    assert states[0] == digest(train(slices, hu, fold, 0, config(mixup=0.4)).state())
    assert len(set(states)) == 3
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        with_soft_labels(slices, rows, own + 0.5, 0.5)


def test_a_soft_label_is_drawn_as_positive_above_one_half():
    slices, _, fold = data()
    training = np.flatnonzero(fold == 1)
    rows, soft = training[:8], np.full((8, len(LABELS)), 0.4)
    soft[:2] = 0.6
    slices.loc[slices.index[training], list(LABELS)] = np.float32(0)
    slices.loc[slices.index[rows], list(LABELS)] = np.float32(np.nan)
    slices.loc[slices.index[rows], "split"] = "test"
    table = with_soft_labels(slices, rows, soft, 0.5)
    half = config(positive_share=0.5, batch=99)
    (drawn,) = epoch_steps(table, training, half, seed=0, epoch=1, world_size=1)
    assert np.isin(drawn, rows[:2]).sum() == len(training) // 2
    assert positive_patients(table, training) == 0  # patients of train alone decide what is held


def test_a_label_stays_what_it_is_whatever_is_mixed_into_it():
    """The rule for pretrained bodies and `positive_share` count labels, not targets."""
    slices, _, fold = data()
    training = np.flatnonzero(fold == 1)
    labels = slices[list(LABELS)].to_numpy()[training]
    mixed = 0.8 * 0.35 + 0.2 * labels  # teachers that predict .35 everywhere
    assert mixed.max() < 0.5
    table = with_soft_labels(slices, training, mixed, 1.0)
    assert positive_patients(table, training) == positive_patients(slices, training) > 1
    half = config(positive_share=0.5, batch=99)
    drawn = [epoch_steps(each, training, half, 0, 1, 1)[0].tolist() for each in (slices, table)]
    assert drawn[0] == drawn[1]


def test_the_rate_rises_then_falls_to_nearly_nothing():
    c = config(lr=1.0, warmup=0.2)
    rates = [learning_rate(step, 50, c) for step in range(50)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)  # half way down the cosine
    assert 0 < rates[-1] < 0.01
    assert (np.diff(rates[10:]) < 0).all()
    assert learning_rate(0, 1, config(lr=1.0, warmup=0.0)) == 1.0


def test_a_planted_blob_is_learned():
    slices, hu, fold = data(40)
    trained = train(slices, hu, fold, 0, config(epochs=6))  # 30 steps
    losses = [epoch["train_loss"] for epoch in trained.curve]
    assert losses[-1] < 0.5 * losses[0]
    held = np.flatnonzero(fold == 0)
    labels = slices[list(LABELS)].to_numpy()[held]
    logits, _ = predict(
        trained.model, held[:, None], np.ones(len(held), bool), reader(hu), config()
    )
    probs = expit(logits)
    assert trained.curve[-1]["held_out_loss"] == pytest.approx(
        weighted_log_loss(labels, probs), rel=1e-5
    )
    assert probs[labels == 1].mean() > probs[labels == 0].mean() + 0.3


def test_the_hooks_and_the_slices_that_are_read():
    slices, hu, fold = data()
    slices.iloc[2, slices.columns.get_loc("readable")] = False
    slices.iloc[3, [slices.columns.get_loc(label) for label in LABELS]] = np.nan
    steps, entries, calls = [], [], []
    hooks = Hooks(lambda *step: steps.append(step), entries.append)
    trained = train_cnn(
        slices,
        fold_rows(slices, fold, 0),
        reader(hu, calls),
        config(epochs=2, neighbours=1),
        0,
        hooks,
    )
    assert 2 not in {number for call in calls for number in call}
    assert [step[:3] for step in steps] == [(1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 2)]
    assert entries == trained.curve
    assert trained.curve[1]["train_loss"] == pytest.approx((steps[2][3] + steps[3][3]) / 2)
    assert [list(epoch) for epoch in trained.curve] == [
        ["epoch", "lr", "train_loss", "held_out_loss", "seconds"]
    ] * 2
    assert np.isfinite([list(epoch.values()) for epoch in trained.curve]).all()
    assert trained.micro_batch == 16


def test_held_out_labels_do_not_reach_the_weights():
    slices, hu, fold = data()
    first = train(slices, hu, fold, 0, config())
    slices.loc[slices.index[fold == 0], list(LABELS)] = np.float32(np.nan)
    hidden = train(slices, hu, fold, 0, config())
    assert digest(first.state()) == digest(hidden.state())
    assert hidden.curve[-1]["held_out_loss"] is None


@pytest.mark.parametrize("patients", [2, 9])  # 4 training slices; 16 + 1 after one is lost
def test_small_and_uneven_training_sets_work(patients):
    slices, hu, fold = data(patients)
    fold[:] = np.arange(len(slices)) // 4 == 0
    if patients == 9:
        slices, hu, fold = slices.iloc[:21], hu[:21], fold[:21]
    assert np.isfinite(train(slices, hu, fold, 1, config()).curve[0]["held_out_loss"])


def test_a_loss_that_is_not_a_number_names_its_slices(monkeypatch):
    slices, hu, fold = data()
    monkeypatch.setattr(
        "stage1_cnn.training_step.weighted_bce",
        lambda logits, labels, weights: logits.sum() * float("nan"),
    )
    with pytest.raises(
        NotANumber,
        match=r"is nan in epoch 1, step 1, at a batch with the slices s\d+, s\d+, s\d+ and 13",
    ) as error:
        train(slices, hu, fold, 0, config())
    batch = error.value.batch
    assert (batch["epoch"], batch["step"], batch["loss"], len(batch["slice_ids"])) == (
        1,
        1,
        "nan",
        16,
    )
    assert set(batch["slice_ids"]) <= set(slices.index[fold == 1])


def test_weights_that_are_not_finite_stop_the_training():
    slices, hu, fold = data()

    def refuse(checkpoint):
        raise AssertionError("saved")

    step = Trainer.step

    def last(self, hu, labels, total):
        loss = step(self, hu, labels, total)
        with torch.no_grad():
            self.model.backbone.get_classifier().bias.fill_(float("nan"))
        return loss

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(NotANumber, match="NaN or infinite after epoch 1, because of its last"),
    ):
        patch.setattr(Trainer, "step", last)
        train(slices, hu, fold, 0, config(batch=20), hooks=Hooks(save=refuse))


EVERYTHING = {
    "epochs": 2,
    "dropout": 0.3,
    "neighbours": 1,
    "hu_shift": 2,
    "hu_noise": 1,
    "erase": 0.5,
    "reverse": True,
    "mixup": 0.4,
    "positive_share": 0.5,
    "ema": 0.9,
    "batch": 6,
    "accumulate": 2,
}

FRESH = """
import sys; sys.path[:0] = ["tests", "tests/stage1_cnn", "."]
from test_train_loop import EVERYTHING, config, data, digest, train
slices, hu, fold = data()
print(digest(train(slices, hu, fold, 1, config(**EVERYTHING), seed=3).state()))
"""


def test_a_training_gives_the_same_bits_after_other_work_and_in_a_new_process():
    slices, hu, fold = data()
    other = train(slices, hu, fold, 0, config(**EVERYTHING), seed=3)
    torch.randn(100)
    torch.manual_seed(99)
    state = train(slices, hu, fold, 1, config(**EVERYTHING), seed=3).state()
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert fresh.stdout.split() == [digest(state)]
    assert digest(other.state()) != digest(state)
    assert digest(train(slices, hu, fold, 1, config(**EVERYTHING), seed=4).state()) != digest(state)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        EVERYTHING | {"crop_head": True, "layer_decay": 0.7, "grad_checkpointing": True},
        {"precision": "bf16"},
        {"precision": "fp16", "ema": 0.5, "average_epochs": 2},
    ],
    ids=str,
)
def test_a_training_continued_from_any_step_ends_with_the_same_bits(changes):
    slices, hu, fold = data()
    changed, saved = config(**{"batch": 6, "epochs": 2} | changes), []
    whole = train(slices, hu, fold, 0, changed, hooks=Hooks(save=saved.append, save_seconds=0.0))
    assert len(saved) >= 6  # after every step and every epoch
    assert {(c.state["epoch"], c.state["step"]) for c in saved} >= {(1, 1), (2, 0), (2, 1), (3, 0)}
    for checkpoint in saved:
        json.dumps(checkpoint.state)  # plain values
        again = train(slices, hu, fold, 0, changed, checkpoint=checkpoint)
        assert digest(again.state()) == digest(whole.state())
        assert _timeless(again.curve) == _timeless(whole.curve)


@pytest.mark.parametrize(
    ("before", "now", "batch"), [(1, 2, 2), (2, 1, 2), (2, 4, 2), (4, 1, 2), (4, 1, 3), (3, 1, 4)]
)
def test_a_training_continued_by_other_processes_keeps_its_schedule_and_its_slices(
    before, now, batch, monkeypatch
):
    slices, hu, fold = data()
    settings, saved = config(batch=batch, epochs=3), []
    train_rows, _ = fold_rows(slices, fold, 0)

    def among(processes, hooks=None, checkpoint=None):
        """Train in the first of so many processes; it reads its share of each step."""
        monkeypatch.setattr(train_loop, "this_process", lambda: Process(0, processes))
        trained = train(slices, hu, fold, 0, settings, hooks=hooks, checkpoint=checkpoint)
        return [entry["lr"] for entry in trained.curve]

    def first_slices(processes, step):
        steps = epoch_steps(slices, train_rows, settings, 0, 1, processes)
        return [row for rows in steps[:step] for row in rows]

    among(before, Hooks(save=saved.append, save_seconds=0.0))
    unbroken = among(now)
    steps = len(epoch_steps(slices, train_rows, settings, 0, 1, now))
    assert len(saved) > 3
    for checkpoint in saved:
        state = checkpoint.state_among(now, steps)
        assert state["done"] == (state["epoch"] - 1) * steps + state["step"]
        assert state["step"] <= steps
        done = first_slices(before, checkpoint.state["step"])
        kept = first_slices(now, state["step"])
        assert kept == done[: len(kept)] and len(done) - len(kept) < batch * now
        if kept:
            mean = checkpoint.state["loss_sum"] / checkpoint.state["step"]
            assert np.isclose(state["loss_sum"] / state["step"], mean)
        if checkpoint.state["epoch"] <= settings.epochs:
            assert among(now, checkpoint=checkpoint)[-1] == unbroken[-1] < settings.lr / 2


def _timeless(curve):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in curve]


NO_AUGMENTATION = {"flip": False, "rotate": 0, "scale": 0, "shift": 0}
# layer norm: the output for a slice does not depend on its batch
NO_BATCH_NORM = {"backbone": "test_convnext", "image_size": 64, **NO_AUGMENTATION}


def test_accumulated_batches_are_one_large_batch():
    slices, hu, fold = data()
    large = train(slices, hu, fold, 0, config(batch=12, epochs=2, **NO_BATCH_NORM)).state()
    small = train(
        slices, hu, fold, 0, config(batch=4, accumulate=3, epochs=2, **NO_BATCH_NORM)
    ).state()
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_the_moving_average_is_kept():
    slices, hu, fold = data()
    plain, saved = train(slices, hu, fold, 0, config(batch=4)).state(), []
    averaged = train(
        slices,
        hu,
        fold,
        0,
        config(batch=4, ema=0.5),
        hooks=Hooks(save=saved.append, save_seconds=0.0),
    ).state()
    assert digest(plain) != digest(averaged)
    name = (
        "stem.conv1.weight"
        if "stem.conv1.weight" in plain
        else next(n for n in plain if n.endswith("weight"))
    )
    # the last checkpoint repeats that of the last step
    steps = [c.tensors[f"model.backbone.{name}"] for c in saved[:-1]]
    mean = steps[0]  # the first step replaces the initial weights
    for number, value in enumerate(steps[1:], 2):
        decay = min(0.5, 1 - number ** (-2 / 3))
        mean = decay * mean + (1 - decay) * value
    torch.testing.assert_close(averaged[name], mean)


class Narrow(Cnn):
    """A Cnn on a device whose memory holds three slices."""

    def forward(self, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(images)


def test_out_of_memory_halves_the_batch_and_logs_a_line(monkeypatch):
    slices, hu, fold = data()
    monkeypatch.setattr(
        "stage1_cnn.train_loop.build_model", lambda *args: Narrow(build_model(*args).backbone)
    )
    monkeypatch.setattr(
        "stage1_cnn.train_loop.predict",
        lambda model, rows, *rest: (np.full((len(rows), 6), 0.5), None),
    )
    lines, saved = [], []
    hooks = Hooks(log=lines.append, save=saved.append)
    narrow = train(slices, hu, fold, 0, config(batch=8, **NO_BATCH_NORM), hooks=hooks)
    assert narrow.micro_batch == 2 and saved[-1].state["micro"] == 2
    assert [line.split(", ")[1].split(" slices")[0] for line in lines] == [
        "from here on 4",
        "from here on 2",
    ]
    assert "batch norm uses 2" in lines[-1]
    monkeypatch.undo()
    wide = train(slices, hu, fold, 0, config(batch=8, **NO_BATCH_NORM)).state()
    for name, value in narrow.state().items():  # the same slices in each step give the same weights
        torch.testing.assert_close(value, wide[name], atol=2e-4, rtol=1e-3, msg=name)


def test_where_two_slices_do_not_fit_the_error_names_what_to_lower(monkeypatch):
    slices, hu, fold = data()
    monkeypatch.setattr(
        Narrow, "forward", lambda self, images: (_ for _ in ()).throw(torch.OutOfMemoryError("no"))
    )
    monkeypatch.setattr(
        "stage1_cnn.train_loop.build_model", lambda *args: Narrow(build_model(*args).backbone)
    )
    with pytest.raises(InputError, match="2 slices do not fit into the memory of cpu; lower batch"):
        train(slices, hu, fold, 0, config(), hooks=Hooks(log=lambda line: None))


def test_no_forward_pass_of_a_step_has_a_single_slice():
    sizes = []
    model = build_model(config(), 0)
    trainer = Trainer(model, config(batch=4), 1, 0, print)
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    for n in (2, 3, 5, 7, 9):
        trainer.step(torch.zeros(n, 1, 32, 32, dtype=torch.int16), torch.zeros(n, 6), n)
    assert min(sizes) >= 2 and sum(sizes) == 26


@pytest.mark.slow
def test_a_compiled_training_learns_the_same():
    slices, hu, fold = data()
    plain = train(slices, hu, fold, 0, config(batch=10)).curve
    compiled = train(slices, hu, fold, 0, config(batch=10, compile=True)).curve
    assert compiled[-1]["train_loss"] == pytest.approx(plain[-1]["train_loss"], rel=0.02)


def test_neighbours_past_the_end_repeat_the_end_in_training_too():
    slices, hu, fold = data()
    assert neighbour_rows(slices, 1)[0].tolist() == [0, 0, 1]
    assert np.isfinite(train(slices, hu, fold, 0, config(neighbours=1)).curve[0]["train_loss"])
