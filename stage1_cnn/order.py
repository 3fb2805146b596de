"""Which slices are seen in which order."""

import torch


def batches(rows, batch, generator=None):
    """Cut the row numbers `rows` (n,) into arrays of `batch`; with a torch.Generator shuffled, for training.

    A shuffled rest of a single row is left out, since batch norm cannot train on it.
    """
    if generator is not None:
        rows = rows[torch.randperm(len(rows), generator=generator).numpy()]
        if len(rows) % batch == 1:
            rows = rows[:-1]
    return [rows[at : at + batch] for at in range(0, len(rows), batch)]
