"""Plan an example competition: the bleeds, slice layout, patient and defects of each study."""

from dataclasses import dataclass

import numpy as np

from ct.labels import SUBTYPES

BLEEDING_SHARE = 0.58  # of the studies
BLEEDS_PER_STUDY = 1.4  # of those with a bleed, on average
# share of studies with each irregular layout, at least one study each
LAYOUTS = {"half_low": 0.2, "half_high": 0.2, "gap": 0.07, "double": 0.03}


@dataclass(frozen=True)
class StudyPlan:
    """The content of one study of an example competition."""

    number: int
    test: bool  # in the test set
    kinds: tuple[str, ...]  # of its bleeds, some of SUBTYPES
    layout: str  # of its slices: "regular" or one of LAYOUTS
    signed: bool  # 16-bit signed pixels, else 12-bit unsigned
    patient: str
    defects: int  # number of slices with the intercept defect
    truncated: bool  # the file of one slice is truncated


def plan_competition(studies: int, seed: int) -> list[StudyPlan]:
    """Return the plan of each study of a competition.

    Subtypes are dealt out in turn, so that even with few studies each gets its share; every sixth
    study of that order is in the test set. The defects are in train: one truncated file, and at
    least one study with the intercept defect.
    """
    rng = np.random.default_rng([seed, 2**32 - 1])
    kinds = _deal_bleeds(studies)
    is_test = np.arange(studies) % 6 == min(4, studies - 1)
    irregular: list[str] = []
    for name, share in LAYOUTS.items():
        irregular += [name] * max(1, round(share * studies))
    layouts = rng.permutation((irregular + ["regular"] * studies)[:studies])
    signed = rng.permutation(np.arange(studies) % 5 < 2)
    train = rng.permutation(np.flatnonzero(~is_test))
    signed[train[0]] = False
    defective = {int(train[0])}
    for i in train[1:]:
        if not signed[i] and rng.random() < 0.04:
            defective.add(int(i))
    patients = [random_id(rng, 8) for _ in range(studies)]
    for study, other in zip(train[1::10].tolist(), train[2::10].tolist(), strict=False):
        patients[study] = patients[other]  # a follow-up study
    patients[int(rng.choice(np.flatnonzero(is_test)))] = patients[int(train[-1])]
    order = rng.permutation(studies).tolist()
    return [
        StudyPlan(
            number=number,
            test=bool(is_test[i]),
            kinds=kinds[i],
            layout=str(layouts[i]),
            signed=bool(signed[i]),
            patient=patients[i],
            defects=int(rng.integers(1, 3)) if i in defective else 0,
            truncated=i == int(train[-1]),
        )
        for number, i in enumerate(order)
    ]


def random_id(rng: np.random.Generator, digits: int) -> str:
    """Return an identifier of the competition's form: "ID_" and `digits` hex digits."""
    return "ID_" + rng.bytes(8).hex()[:digits]


def _deal_bleeds(studies: int) -> list[tuple[str, ...]]:
    """Return the kinds of bleed of each study; studies without a bleed, (), come last."""
    bleeding = max(1, round(BLEEDING_SHARE * studies))
    kinds: list[tuple[str, ...]] = [(SUBTYPES[i % 5],) for i in range(bleeding)]
    for i in range(bleeding, round(BLEEDS_PER_STUDY * bleeding)):
        kind = SUBTYPES[i % 5]
        first = next(j for j in range(bleeding) if len(kinds[j]) == 1 and kinds[j][0] != kind)
        kinds[first] = (*kinds[first], kind)
    return kinds + [()] * (studies - bleeding)
