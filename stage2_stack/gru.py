"""A small bidirectional recurrent network that reads a series slice by slice, up and down, for each
of the six labels.

GRU: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014). What it says is
added to the starting logits, and its last layer starts at 0: after no epoch it says just these. The
one module of stage two that needs torch.
"""

from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ct.labels import LABELS, SUBTYPES, WEIGHTS
from features.columns import slice_columns
from stage2_stack.nested_cv import View

PARAMS = {  # not tuned: as much as some hundred positive patients can teach
    "hidden": 32,
    "dropout": 0.2,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "batch": 16,  # series a step
    "average": 0.98,  # of the weights, from step to step
}
EPOCHS = 12  # that are looked at
OTHERS = len(SUBTYPES) - 1  # subtypes whose logits a label hears, the largest first
WIDEST = 5.0  # standard deviations; what lies beyond is cut
ASKED = 256  # series that are predicted at once


class Series(NamedTuple):
    """Series of t slices or fewer: what the network learns from, or is asked of."""

    x: np.ndarray  # (n, 6 * kinds + places) float32, all rows there are, NaN where unknown
    kinds: int  # of logits of each label, the first of them those that it starts from
    at: np.ndarray  # (s, t) int, the rows of each series from bottom to top; -1 past its end
    use: np.ndarray  # (s, t) bool, rows that are learned from, or asked
    y: np.ndarray  # (m, 6) of these rows, in their order; None where unknown
    base: np.ndarray  # (m, 6) likewise, starting logits


class SeriesView(View):
    """The rows as a network for all labels sees them: as series, whose slices are read in their
    order.
    """

    def __init__(self, X, names, starts, raw, y, threads):
        """X: (n, f) float32, columns `names`; starts: int (s,), rising, the first row of each
        series; threads: of torch

        raw, y: (6, n) as of View
        """
        said, place = slice_columns(names)
        self.x, self.kinds = X[:, [*said.ravel(), *place]], said.shape[1]
        self.raw, self.y, self.threads, self.learner = raw, y, threads, GRU()
        self.starts, self.lengths = starts, np.diff(np.append(starts, len(X)))

    def data(self, platts, rows):
        """Return the Series of some labelled rows, rising; slices of theirs that are not among them
        are read, no more.
        """
        return self.series(rows, self.y[:, rows].T, self.base(platts, rows).T)

    def logits(self, models, platts, rows, rounds=None):
        """Return the logits (6, m) of some rows, rising, mean over models, after `rounds` epochs
        (None: all).
        """
        base = self.base(platts, rows)
        asked = self.series(rows, None, base.T)
        return (
            base
            + np.mean(
                [self.learner.added(model, asked, self.threads, rounds) for model in models], axis=0
            ).T
        )

    def contributions(self, models, rows):
        """Return None: a network's contributions take many passes."""

    def series(self, rows, y, base):
        """Return the Series of some rows, rising, with their labels and starting logits (m, 6)."""
        of = np.unique(np.searchsorted(self.starts, rows, side="right") - 1)
        step = np.arange(self.lengths[of].max(initial=0))
        at = np.where(step < self.lengths[of, None], self.starts[of, None] + step, -1)
        wanted = np.zeros(len(self.x) + 1, bool)  # the last is that of -1
        wanted[rows] = True
        return Series(self.x, self.kinds, at, wanted[at], y, base)


class Reader(nn.Module):
    """The network: reads a series both ways once for each label, with the same weights for all, and
    adds to its logit.

    So a rare label learns from the common ones, as in pooled.py: it sees its own logits, those of
    `any`, the largest of the other subtypes, the slice's place, and which label it is.
    """

    def __init__(self, kinds, places, hidden, dropout=0.0):
        super().__init__()
        # mean and spread
        self.register_buffer("said_scale", torch.tensor([[0.0], [1.0]]).repeat(1, kinds))
        self.register_buffer("place_scale", torch.tensor([[0.0], [1.0]]).repeat(1, places))
        self.enter = nn.Linear(2 * kinds + OTHERS + 1 + 2 * places + len(LABELS), hidden)
        self.read = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.leave = nn.Linear(3 * hidden, 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x, lengths):
        """Return (s, t, 6) of x (s, t, 6 * kinds + places), NaN where unknown; lengths: (s,)."""
        s, t, c = *x.shape[:2], len(LABELS)
        # (s * 6, t, hidden)
        own = torch.relu(self.enter(self._seen(x).transpose(1, 2).reshape(s * c, t, -1)))
        lengths = lengths.repeat_interleave(c)
        packed = pack_padded_sequence(
            self.dropout(own), lengths, batch_first=True, enforce_sorted=False
        )
        around, _ = pad_packed_sequence(self.read(packed)[0], batch_first=True, total_length=t)
        return (
            self.leave(self.dropout(torch.cat([own, around], dim=2)))
            .reshape(s, c, t)
            .transpose(1, 2)
        )

    def _seen(self, x):
        """Return what each label sees of each slice, (s, t, 6, e)."""
        (s, t, _), c, kinds = x.shape, len(LABELS), self.said_scale.shape[1]
        said, place = x[:, :, : c * kinds].reshape(s, t, c, kinds), x[:, :, c * kinds :]
        unknown, away = torch.isnan(said).any(dim=3, keepdim=True), torch.isnan(place)
        said, place = (
            _scaled(values, scale)
            for values, scale in ((said, self.said_scale), (place, self.place_scale))
        )
        subtypes = said[:, :, None, 1:, 0].expand(s, t, c, c - 1)
        itself = torch.eye(c, dtype=torch.bool)[:, 1:].expand(s, t, c, c - 1)
        others = (
            subtypes.masked_fill(itself, -torch.inf)
            .sort(dim=3, descending=True)
            .values[..., :OTHERS]
        )
        place = torch.cat([place, away], dim=2)[:, :, None].expand(s, t, c, 2 * place.shape[2])
        which = torch.eye(c).expand(s, t, c, c)
        return torch.cat(
            [said, said[:, :, :1].expand_as(said), others, unknown, place, which], dim=3
        )


def _scaled(values, scale):
    """Return values, the last axis standardised by a scale (2, c), 0 where unknown."""
    return torch.nan_to_num((values - scale[0]) / scale[1], nan=0.0).clamp(-WIDEST, WIDEST)


class GRU:
    """Learner of SeriesView; a model is the list of the averaged weights after each epoch."""

    # torch has one random state and one number of threads
    suffix, side_by_side = ".safetensors", False

    def fit(self, data, params, rounds, seed, threads, valid=()):
        """Train `rounds` epochs on a Series. Returns (model, curves): weighted log loss on each
        `valid`, (v, rounds).
        """
        with _torch(threads, seed):
            net = _new_reader(data, params)
            model = list(_epochs(net, data, params, rounds, np.random.default_rng(seed)))
        curves = [[_loss(v, self.added([state], v, threads)) for state in model] for v in valid]
        return model, np.array(curves).reshape(len(valid), rounds)

    def added(self, model, asked, threads, rounds=None):
        """Return what is added to the logits of the asked rows of a Series, (m, 6), after `rounds`
        epochs (None: all).
        """
        state, made = model[rounds - 1 if rounds else -1], np.empty((asked.use.sum(), len(LABELS)))
        sizes = (
            state["said_scale"].shape[1],
            state["place_scale"].shape[1],
            state["leave.weight"].shape[1] // 3,
        )
        with _torch(threads), torch.inference_mode():
            net, done = Reader(*sizes).eval(), 0
            net.load_state_dict(state)
            for some in range(0, len(asked.at), ASKED):
                x, lengths, use = _batch(asked, slice(some, some + ASKED))
                said = net(x, lengths)[use].numpy()
                made[done : done + len(said)] = said
                done += len(said)
        return made

    def gain(self, model):
        """Return None: a network has no gain of single columns."""

    def dump(self, model):
        """Return the last epoch's weights as safetensors."""
        return save(model[-1])

    def load(self, kept):
        """Read safetensors."""
        return [load(kept)]


def _new_reader(data, params):
    """Return a Reader that standardises as the training series ask for, each kind of logit alike
    for all labels.
    """
    x, c = data.x[data.at[data.at >= 0]].astype(np.float64), len(LABELS)
    said, place = x[:, : c * data.kinds].reshape(-1, data.kinds), x[:, c * data.kinds :]
    net = Reader(data.kinds, place.shape[1], params["hidden"], params["dropout"])
    for scale, values in ((net.said_scale, said), (net.place_scale, place)):
        for column, v in enumerate(values.T):
            if (known := v[~np.isnan(v)]).size:
                scale[:, column] = torch.tensor([known.mean(), max(known.std(), 1e-3)])
    return net


def _epochs(net, data, params, epochs, rng):
    """Train a Reader, and yield the average of its weights after each epoch.

    The rate is the same in all steps, so that a shorter training is the beginning of a longer one.
    """
    # of each series' rows in y and base
    first = np.cumsum(data.use.sum(axis=1)) - data.use.sum(axis=1)
    y, base = (
        torch.from_numpy(np.ascontiguousarray(values, np.float32)) for values in (data.y, data.base)
    )
    weights, step = torch.from_numpy(WEIGHTS.astype(np.float32)), 0
    optimizer = torch.optim.AdamW(
        net.parameters(), params["learning_rate"], weight_decay=params["weight_decay"]
    )
    average = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(epochs):
        net.train()
        order = rng.permutation(len(data.at))
        for some in range(0, len(order), params["batch"]):
            chosen = np.sort(order[some : some + params["batch"]])
            x, lengths, use = _batch(data, chosen)
            rows = np.concatenate(
                [np.arange(first[s], first[s] + data.use[s].sum()) for s in chosen]
            )
            loss = binary_cross_entropy_with_logits(
                base[rows] + net(x, lengths)[use], y[rows], reduction="none"
            )
            optimizer.zero_grad()
            (loss.mean(dim=0) @ weights).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            step += 1
            keep = min(params["average"], step / (step + 9))
            for name, value in net.state_dict().items():
                average[name].lerp_(value, 1 - keep)
        yield {name: value.clone() for name, value in average.items()}


def _batch(data, some):
    """Return (x (s, t, d), lengths (s,), use (s, t)) of some series, without steps that none of
    them reaches.
    """
    at = data.at[some]
    lengths = (at >= 0).sum(axis=1)
    at, use = at[:, : lengths.max()], data.use[some][:, : lengths.max()]
    x = np.where((at >= 0)[:, :, None], data.x[at], np.float32(0))
    return torch.from_numpy(x), torch.from_numpy(lengths), torch.from_numpy(use)


def _loss(data, added):
    """Return the weighted log loss of the rows of a Series, to whose starting logits (m, 6)
    something is added.
    """
    z = data.base + added
    return float(np.mean(np.logaddexp(0, z) - data.y * z, axis=0) @ WEIGHTS)


@contextmanager
def _torch(threads, seed=0):
    """Give torch so many threads and a seed; both are afterwards what they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
