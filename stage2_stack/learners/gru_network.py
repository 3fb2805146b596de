"""A small bidirectional recurrent network that reads a series slice by slice, for each label.

GRU: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014). Its output is
added to the starting logits, and its last layer starts at 0: an untrained network adds nothing.
The one module of stage two that needs torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ct.labels import LABELS, SUBTYPES, WEIGHTS
from stage2_stack.learners.learner import Floats, Ints, Values

OTHERS = len(SUBTYPES) - 1  # subtypes whose logits a label reads beside its own, largest first
WIDEST = 5.0  # standard deviations at which inputs are clipped
SERIES_AT_ONCE = 256  # in one batch of predictions

State = dict[str, Tensor]  # weights by name


class Series(NamedTuple):
    """s series of t slices or fewer, to fit or to predict."""

    x: Values  # (n, 6 * kinds + places) inputs of all rows, NaN where unknown
    kinds: int  # logits of each label among the inputs; the first is the CNNs' mean
    at: Ints  # (s, t) the rows of each series from bottom to top; -1 past its end
    use: NDArray[np.bool_]  # (s, t) rows that are fitted or predicted
    y: Floats | None  # (m, 6) of these rows, in their order; None to predict only
    base: Floats | None  # (m, 6) starting logits of these rows; None for added logits only


class SeriesNetwork(nn.Module):
    """Reads a series both ways, once for each label with the same weights; returns added logits.

    So a rare label learns from the common ones, as in pooled_lightgbm.py. It reads the label's own
    logits, those of `any`, the largest of the other subtypes, the slice's place, and a one-hot code
    of the label. The names of its attributes are the keys of stored files; `said_scale` is that of
    the logits.
    """

    def __init__(self, kinds: int, places: int, hidden: int, dropout: float = 0.0) -> None:
        """kinds, places: as in Series; hidden: width of each layer."""
        super().__init__()
        # (2, kinds) and (2, places): mean and standard deviation of the inputs
        self.said_scale: Tensor
        self.place_scale: Tensor
        self.register_buffer("said_scale", torch.tensor([[0.0], [1.0]]).repeat(1, kinds))
        self.register_buffer("place_scale", torch.tensor([[0.0], [1.0]]).repeat(1, places))
        self.enter = nn.Linear(_input_width(kinds, places), hidden)
        self.read = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.leave = nn.Linear(3 * hidden, 1)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return added logits (s, t, 6).

        x: (s, t, 6 * kinds + places), NaN where unknown; lengths: (s,) slices of each series
        """
        s, t, c = *x.shape[:2], len(LABELS)
        inputs = self.inputs(x).transpose(1, 2).reshape(s * c, t, -1)  # (s * 6, t, e)
        own = torch.relu(self.enter(inputs))  # (s * 6, t, hidden)
        lengths = lengths.repeat_interleave(c)
        packed = pack_padded_sequence(
            self.dropout(own), lengths, batch_first=True, enforce_sorted=False
        )
        around, _ = pad_packed_sequence(self.read(packed)[0], batch_first=True, total_length=t)
        added: Tensor = self.leave(self.dropout(torch.cat([own, around], dim=2)))
        return added.reshape(s, c, t).transpose(1, 2)

    def inputs(self, x: Tensor) -> Tensor:
        """Return the inputs of each label at each slice, (s, t, 6, e). x: as in `forward`."""
        (s, t, _), c, kinds = x.shape, len(LABELS), self.said_scale.shape[1]
        logits, place = x[:, :, : c * kinds].reshape(s, t, c, kinds), x[:, :, c * kinds :]
        no_logits, no_place = torch.isnan(logits).any(dim=3, keepdim=True), torch.isnan(place)
        logits = _standardise(logits, self.said_scale)
        place = _standardise(place, self.place_scale)
        subtypes = logits[:, :, None, 1:, 0].expand(s, t, c, c - 1)
        itself = torch.eye(c, dtype=torch.bool)[:, 1:].expand(s, t, c, c - 1)
        others = subtypes.masked_fill(itself, -torch.inf).sort(dim=3, descending=True).values
        place = torch.cat([place, no_place], dim=2)[:, :, None].expand(s, t, c, 2 * place.shape[2])
        one_hot = torch.eye(c).expand(s, t, c, c)
        of_any = logits[:, :, :1].expand_as(logits)
        return torch.cat([logits, of_any, others[..., :OTHERS], no_logits, place, one_hot], dim=3)


def weight_shapes(kinds: int, places: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of a stored SeriesNetwork of these sizes."""
    shapes: dict[str, tuple[int, ...]] = {
        "said_scale": (2, kinds),
        "place_scale": (2, places),
        "enter.weight": (hidden, _input_width(kinds, places)),
        "enter.bias": (hidden,),
        "leave.weight": (1, 3 * hidden),
        "leave.bias": (1,),
    }
    for direction in ("l0", "l0_reverse"):
        for part in ("ih", "hh"):
            shapes[f"read.weight_{part}_{direction}"] = (3 * hidden, hidden)
            shapes[f"read.bias_{part}_{direction}"] = (3 * hidden,)
    return shapes


def _input_width(kinds: int, places: int) -> int:
    """Return e, the number of inputs of a label at a slice."""
    return 2 * kinds + OTHERS + 1 + 2 * places + len(LABELS)


def _standardise(values: Tensor, scale: Tensor) -> Tensor:
    """Return values, the last axis standardised by a scale (2, c), 0 where unknown."""
    return torch.nan_to_num((values - scale[0]) / scale[1], nan=0.0).clamp(-WIDEST, WIDEST)


class GRU:
    """The learner of SeriesNetwork; a model is the list of the averaged weights of each epoch."""

    # torch has one random state and one number of threads for the whole process
    suffix, thread_safe = ".safetensors", False

    def fit(
        self,
        data: Series,
        params: Mapping[str, Any],
        rounds: int,
        seed: int,
        threads: int,
        valid: Sequence[Series] = (),
    ) -> tuple[list[State], Floats]:
        """Train `rounds` epochs on labelled Series.

        Returns (model, curves): weighted log loss on each of v `valid` after each epoch, (v,
        rounds).
        """
        with _torch_settings(threads, seed):
            net = _new_network(data, params)
            model = list(_train_epochs(net, data, params, rounds, np.random.default_rng(seed)))
        curves = [
            [_loss(v, self.added_logits([state], v, threads)) for state in model] for v in valid
        ]
        return model, np.array(curves).reshape(len(valid), rounds)

    def added_logits(
        self, model: list[State], values: Series, threads: int, rounds: int | None = None
    ) -> Floats:
        """Return the logits (m, 6) to add to the starting logits of a Series' used rows.

        rounds: epochs of the training; None: all
        """
        state = model[rounds - 1 if rounds else -1]
        added = np.empty((values.use.sum(), len(LABELS)))
        sizes = (
            state["said_scale"].shape[1],
            state["place_scale"].shape[1],
            state["leave.weight"].shape[1] // 3,
        )
        with _torch_settings(threads), torch.inference_mode():
            net, done = SeriesNetwork(*sizes).eval(), 0
            net.load_state_dict(state)
            for first in range(0, len(values.at), SERIES_AT_ONCE):
                x, lengths, use = _batch(values, slice(first, first + SERIES_AT_ONCE))
                logits = net(x, lengths)[use].numpy()
                added[done : done + len(logits)] = logits
                done += len(logits)
        return added

    def gain(self, model: list[State]) -> None:
        """Return None: a network has no gain of single columns."""

    def save(self, model: list[State]) -> bytes:
        """Return the last epoch's weights as safetensors."""
        return bytes(save(model[-1]))

    def load(self, raw: bytes) -> list[State]:
        """Read safetensors."""
        return [load(raw)]


def _new_network(data: Series, params: Mapping[str, Any]) -> SeriesNetwork:
    """Return a network whose scales are those of the training series' inputs.

    Each kind of logit has one scale for all labels.
    """
    x, c = data.x[data.at[data.at >= 0]].astype(np.float64), len(LABELS)
    logits, place = x[:, : c * data.kinds].reshape(-1, data.kinds), x[:, c * data.kinds :]
    net = SeriesNetwork(data.kinds, place.shape[1], params["hidden"], params["dropout"])
    for scale, values in ((net.said_scale, logits), (net.place_scale, place)):
        for column, v in enumerate(values.T):
            if (known := v[~np.isnan(v)]).size:
                scale[:, column] = torch.tensor([known.mean(), max(known.std(), 1e-3)])
    return net


def _train_epochs(
    net: SeriesNetwork,
    data: Series,
    params: Mapping[str, Any],
    epochs: int,
    rng: np.random.Generator,
) -> Iterator[State]:
    """Train the network, and yield the moving average of its weights after each epoch.

    The learning rate is constant, so that a shorter training is the beginning of a longer one.
    """
    # first row of each series in y and base
    first = np.cumsum(data.use.sum(axis=1)) - data.use.sum(axis=1)
    y, base = _float_tensor(data.y), _float_tensor(data.base)
    weights, step = _float_tensor(WEIGHTS), 0
    optimizer = torch.optim.AdamW(
        net.parameters(), params["learning_rate"], weight_decay=params["weight_decay"]
    )
    average = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(epochs):
        net.train()
        order = rng.permutation(len(data.at))
        for start in range(0, len(order), params["batch"]):
            chosen = np.sort(order[start : start + params["batch"]])
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


def _float_tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _batch(data: Series, chosen: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return (x (s, t, d), lengths (s,), use (s, t)) of some series.

    chosen: a slice or int array; t is cut to the longest of them
    """
    at = data.at[chosen]
    lengths = (at >= 0).sum(axis=1)
    at, use = at[:, : lengths.max()], data.use[chosen][:, : lengths.max()]
    x = np.where((at >= 0)[:, :, None], data.x[at], np.float32(0))
    return torch.from_numpy(x), torch.from_numpy(lengths), torch.from_numpy(use)


def _loss(data: Series, added: Floats) -> float:
    """Return the weighted log loss of labelled Series after `added` (m, 6)."""
    assert data.base is not None and data.y is not None
    z = data.base + added
    return float(np.mean(np.logaddexp(0, z) - data.y * z, axis=0) @ WEIGHTS)


@contextmanager
def _torch_settings(threads: int, seed: int = 0) -> Iterator[None]:
    """Set torch's threads and seed, and set both back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
