"""The ablation table: the loss of each component alone, of stage one, and of the blend."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss, mean_intervals
from stage2_stack.components import COMPONENTS
from stage2_stack.components.component import load_component
from stage2_stack.stacker import LabelStack

BLEND = ("blend", "weights and what is kept on the other folds' nested predictions")


def ablation(
    stacks: Mapping[str, LabelStack],
    y: NDArray[np.float64],
    labelled: NDArray[np.bool_],
    patients: NDArray[Any],
    seed: int,
) -> list[dict[str, Any]]:
    """Score each component and the blend on the held-out rows that are labelled.

    stacks: label -> LabelStack; y: (n, 6); labelled, patients: (n,)

    Returns one step for each, from the calibrated mean of the CNNs to the blend: {"component",
    "name", "tuned_on", "loss": {name: loss}, "gain": {name: {"gain", "low", "high"}}}, where name
    is "weighted" or a label. The gain is over the first step, with its 95 % interval. Where a
    component does not predict a label, the calibrated mean of the CNNs counts.
    """
    y, patients = y[labelled], patients[labelled]

    def losses_of(probabilities: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.asarray(log_loss(y, np.column_stack(probabilities)[labelled]))

    start = losses_of([stacks[label].component_oof["raw"] for label in LABELS])
    used = {name for label in LABELS for name in stacks[label].component_oof}
    steps = []
    for name in COMPONENTS:
        if name in used:
            component = load_component(name)
            losses = losses_of(
                [
                    stacks[label].component_oof.get(name, stacks[label].calibrated)
                    for label in LABELS
                ]
            )
            scores = _scores(losses, start, patients, seed)
            steps.append(_step(name, component.title, component.tuned_on, scores))
    blend = losses_of([stacks[label].oof for label in LABELS])
    steps.append(_step("blend", *BLEND, _scores(blend, start, patients, seed)))
    return steps


def _step(component: str, title: str, tuned_on: str, scores: dict[str, Any]) -> dict[str, Any]:
    return {"component": component, "name": title, "tuned_on": tuned_on, **scores}


def _scores(
    losses: NDArray[np.float64], start: NDArray[np.float64], patients: NDArray[Any], seed: int
) -> dict[str, Any]:
    """Return the mean "loss" and "gain" over `start` of losses (m, 6), by label and weighted."""
    return {
        "loss": {
            "weighted": float(losses.mean(axis=0) @ WEIGHTS),
            **dict(zip(LABELS, losses.mean(axis=0).tolist(), strict=True)),
        },
        "gain": mean_intervals(start - losses, "gain", patients, seed),
    }
