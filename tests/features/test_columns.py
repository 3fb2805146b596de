"""Columns of the feature matrix: the scopes of the stackers, and a description of every feature."""

from every_family import RICH

from ct.labels import LABELS
from features.build import feature_names
from features.columns import SCOPES, describe, scope_columns, slice_columns
from features.config import FeatureConfig
from features.geometry import GEOMETRY, METADATA
from features.rolling_windows import SIDED_KINDS
from features.study import OTHER_KINDS, STUDY_KINDS

MODELS = ("resnet", "vgg")


def test_each_scope_contains_the_one_before_and_reads_the_label_and_any():
    names = feature_names(MODELS, FeatureConfig(reach=1, smooth_mm=(5,)))
    columns = {
        scope: [names[i] for i in scope_columns(names, "epidural", scope)] for scope in SCOPES
    }
    kinds = ("", "_by_resnet", "_by_vgg", "_spread", "_z-1", "_z+1", "_smooth5mm")
    assert sorted(columns["context"]) == sorted(
        label + kind for label in ("any", "epidural") for kind in kinds
    )
    study = [f"{x}_{kind}" for x in ("any", "epidural") for kind in STUDY_KINDS]
    assert sorted(columns["study"]) == sorted([*columns["context"], *study, *GEOMETRY])
    assert columns["all"] == names
    assert all(scope == sorted(scope, key=names.index) for scope in columns.values())


def test_scopes_of_the_rich_set():
    """Features of the whole series, study or patient, and the metadata, start with "study"."""
    names = feature_names(MODELS, RICH)
    columns = {
        scope: {names[i] for i in scope_columns(names, "subdural", scope)} for scope in SCOPES
    }
    wide = {
        f"{label}_{kind}"
        for label in ("any", "subdural")
        for kind in (*STUDY_KINDS, *SIDED_KINDS, *OTHER_KINDS)
    }
    assert columns["study"] - columns["context"] == wide | set(METADATA)
    assert {name.partition("_")[0] for name in columns["context"]} == {"any", "subdural"}
    kinds = (
        "chain",
        "probe",
        "probe_by_vgg",
        "dz+1",
        "z-1_by_resnet",
        "min2",
        "max1",
        "smooth_best",
        "spread",
    )
    assert {f"subdural_{kind}" for kind in kinds} <= columns["context"]
    assert columns["all"] == set(names)


def test_the_columns_of_a_slice_without_its_neighbours():
    """The mean logit, each CNN's, the mean of the probes, and the place of the slice."""
    names = feature_names(MODELS, RICH)
    logits, place = slice_columns(names)
    kinds = ("", "_by_resnet", "_by_vgg", "_probe")
    assert [[names[i] for i in row] for row in logits] == [
        [f"{label}{kind}" for kind in kinds] for label in LABELS
    ]
    assert {names[i] for i in place} == {"position_rel", "gap_below_mm", "gap_above_mm"}
    logits, place = slice_columns([*LABELS, "any_z+1"])
    assert logits.tolist() == [[0], [1], [2], [3], [4], [5]] and place.shape == (0,)


def test_a_model_may_be_called_like_a_family():
    names = ["any", "any_by_x_study_max", "any_z+1_by_x_study_max", "any_study_max"]
    assert scope_columns(names, "any", "context").tolist() == [0, 1, 2]
    assert describe(names[2]) == "logit of any by x_study_max, 1 slice above"


def test_every_feature_is_described():
    names = feature_names(MODELS, RICH)
    lines = {name: describe(name) for name in names}
    assert len(set(lines.values())) == len(lines)
    assert not [line for line in lines.values() if "{" in line or "\n" in line]
    for name, line in {
        "any": "logit of any, mean over the CNNs",
        "any_z-1": "logit of any, 1 slice below",
        "subdural_z+2": "logit of subdural, 2 slices above",
        "any_z+1_by_vgg": "logit of any by vgg, 1 slice above",
        "any_dz-1": "logit of any minus the logit 1 slice below",
        "any_smooth2.5mm": "logit of any, Gaussian mean along z, sigma 2.5 mm",
        "any_smooth8mm": "logit of any, Gaussian mean along z, sigma 8 mm",
        "epidural_smooth_best": "logit of epidural, Gaussian mean along z, best sigma of the label "
        "(14.5 mm)",
        "epidural_by_vgg": "logit of epidural, CNN vgg",
        "any_min2": "minimum logit of any within 2 slices on either side",
        "any_above_std": "standard deviation of the logit of any over all slices above",
        "any_chain": "posterior logit of any, Markov chain along the series",
        "any_probe": "logit of any, linear probe of the embedding, mean over the CNNs",
        "any_probe_by_vgg": "logit of any, linear probe of the embedding, CNN vgg",
        "any_others_max": "maximum logit of any in the patient's other studies",
        "tilt_deg": GEOMETRY["tilt_deg"],
    }.items():
        assert lines[name] == line, name
