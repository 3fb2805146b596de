"""A small bidirectional recurrent network that reads a series slice by slice, up and down, for all six labels at once.

GRU: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014). What it says is added to the starting
logits, and its last layer starts at 0: after no epoch it says just these. The one module of stage two that needs torch.
"""

from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ct.labels import LABELS, WEIGHTS
from stage2_stack.nested import View

PARAMS = {  # not tuned: as much as some hundred positive patients can teach
    "hidden": 32,
    "dropout": 0.3,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "batch": 16,  # series a step
    "average": 0.98,  # of the weights, from step to step
}
EPOCHS = 20  # that are looked at
WIDEST = 5.0  # standard deviations; what lies beyond is cut
ASKED = 256  # series that are predicted at once


class Series(NamedTuple):
    """Series of t slices or fewer: what the network learns from, or is asked of."""

    x: np.ndarray  # (n, d) float32, all rows there are, NaN where unknown
    at: np.ndarray  # (s, t) int, the rows of each series from bottom to top; -1 past its end
    use: np.ndarray  # (s, t) bool, rows that are learned from, or asked
    y: np.ndarray  # (m, 6) of these rows, in their order; None where unknown
    base: np.ndarray  # (m, 6) likewise, starting logits


class SeriesView(View):
    """The rows as a network for all labels sees them: as series, whose slices are read in their order."""

    def __init__(self, x, starts, raw, y, threads):
        """x: (n, d) float32; starts: int (s,), rising, the first row of each series; raw, y: (6, n) as of View."""
        self.x, self.raw, self.y, self.threads, self.learner = x, raw, y, threads, GRU()
        self.starts, self.lengths = starts, np.diff(np.append(starts, len(x)))

    def data(self, platts, rows):
        """Return the Series of some labelled rows, rising; slices of theirs that are not among them are read, no more."""
        return self._series(rows, self.y[:, rows].T, self.base(platts, rows).T)

    def logits(self, models, platts, rows, rounds=None):
        """Return the logits (6, m) of some rows, rising, mean over models, after `rounds` epochs (None: all)."""
        base = self.base(platts, rows)
        asked = self._series(rows, None, base.T)
        return base + np.mean([self.learner.added(model, asked, self.threads, rounds) for model in models], axis=0).T

    def _series(self, rows, y, base):
        of = np.unique(np.searchsorted(self.starts, rows, side="right") - 1)
        step = np.arange(self.lengths[of].max(initial=0))
        at = np.where(step < self.lengths[of, None], self.starts[of, None] + step, -1)
        wanted = np.zeros(len(self.x) + 1, bool)  # the last is that of -1
        wanted[rows] = True
        return Series(self.x, at, wanted[at], y, base)


class Reader(nn.Module):
    """The network: standardises a slice's numbers, reads them both ways, adds to six logits."""

    def __init__(self, inputs, hidden, dropout=0.0):
        super().__init__()
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        self.enter = nn.Linear(2 * inputs, hidden)
        self.read = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.leave = nn.Linear(3 * hidden, len(LABELS))
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x, lengths):
        """Return (s, t, 6) of x (s, t, d), NaN where unknown; lengths: (s,)."""
        unknown = torch.isnan(x)
        x = torch.where(unknown, 0.0, (x - self.centre) / self.spread).clamp(-WIDEST, WIDEST)
        own = torch.relu(self.enter(torch.cat([x, unknown.float()], dim=2)))
        packed = pack_padded_sequence(self.dropout(own), lengths, batch_first=True, enforce_sorted=False)
        around, _ = pad_packed_sequence(self.read(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.leave(self.dropout(torch.cat([own, around], dim=2)))


class GRU:
    """Learner of SeriesView; a model is the list of the averaged weights after each epoch."""

    suffix = ".safetensors"

    def fit(self, data, params, rounds, seed, threads, valid=()):
        """Train `rounds` epochs on a Series. Returns (model, curves): weighted log loss on each `valid`, (v, rounds)."""
        with _torch(threads, seed):
            net = _new_reader(data, params)
            model = list(_epochs(net, data, params, rounds, np.random.default_rng(seed)))
        curves = [[_loss(v, self.added([state], v, threads)) for state in model] for v in valid]
        return model, np.array(curves).reshape(len(valid), rounds)

    def added(self, model, asked, threads, rounds=None):
        """Return what is added to the logits of the asked rows of a Series, (m, 6), after `rounds` epochs (None: all)."""
        state, made = model[rounds - 1 if rounds else -1], np.empty((asked.use.sum(), len(LABELS)))
        net, done = Reader(len(state["centre"]), state["leave.weight"].shape[1] // 3).eval(), 0
        net.load_state_dict(state)
        with _torch(threads), torch.inference_mode():
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
    """Return a Reader that standardises as the rows of the training series ask for."""
    x = data.x[data.at[data.at >= 0]].astype(np.float64)
    net = Reader(x.shape[1], params["hidden"], params["dropout"])
    known = ~np.isnan(x).all(axis=0)
    centre, spread = np.zeros(x.shape[1]), np.ones(x.shape[1])
    centre[known], spread[known] = np.nanmean(x[:, known], axis=0), np.nanstd(x[:, known], axis=0)
    net.centre.copy_(torch.from_numpy(centre))
    net.spread.copy_(torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)))
    return net


def _epochs(net, data, params, epochs, rng):
    """Train a Reader, and yield the average of its weights after each epoch.

    The rate is the same in all steps, so that a shorter training is the beginning of a longer one.
    """
    first = np.cumsum(data.use.sum(axis=1)) - data.use.sum(axis=1)  # of each series' rows in y and base
    y, base = (torch.from_numpy(np.ascontiguousarray(values, np.float32)) for values in (data.y, data.base))
    weights, step = torch.from_numpy(WEIGHTS.astype(np.float32)), 0
    optimizer = torch.optim.AdamW(net.parameters(), params["learning_rate"], weight_decay=params["weight_decay"])
    average = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(epochs):
        net.train()
        order = rng.permutation(len(data.at))
        for some in range(0, len(order), params["batch"]):
            chosen = np.sort(order[some : some + params["batch"]])
            x, lengths, use = _batch(data, chosen)
            rows = np.concatenate([np.arange(first[s], first[s] + data.use[s].sum()) for s in chosen])
            loss = binary_cross_entropy_with_logits(base[rows] + net(x, lengths)[use], y[rows], reduction="none")
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
    """Return (x (s, t, d), lengths (s,), use (s, t)) of some series, without steps that none of them reaches."""
    at = data.at[some]
    lengths = (at >= 0).sum(axis=1)
    at, use = at[:, : lengths.max()], data.use[some][:, : lengths.max()]
    x = np.where((at >= 0)[:, :, None], data.x[at], np.float32(0))
    return torch.from_numpy(x), torch.from_numpy(lengths), torch.from_numpy(use)


def _loss(data, added):
    """Return the weighted log loss of the rows of a Series, to whose starting logits (m, 6) something is added."""
    z = data.base + added
    return float(np.mean(np.logaddexp(0, z) - data.y * z, axis=0) @ WEIGHTS)


@contextmanager
def _torch(threads, seed=None):
    """Give torch so many threads and, where it learns, a seed; both are afterwards what they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
