"""Kernels of several makers, contrast agents and kinds of series, by words of several languages."""

import pytest

from ct.privacy.series_words import (
    BONE,
    LUNG,
    SHARP,
    SOFT,
    agent_given,
    contrast_named,
    kernel_class,
    kernel_of_text,
    kind_of_series,
)


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ("H30s H31f H10s J40s J37s Hr40f Hr38 Hc40f Br40d Qr40 C30s Hr40f\\3 B20f", SOFT),
        ("H50s B50f Hr59", SHARP),
        ("H60s H70h J70h Hr64 Hr68h U90u B80f Ur77u Br64d", BONE),
        ("Bl57d Bl64", LUNG),
        ("STANDARD SOFT STND BRAIN", SOFT),
        ("DETAIL EDGE", SHARP),
        ("BONE BONEPLUS HD_BONE", BONE),
        ("LUNG CHST", LUNG),
        ("UA UB UC B", SOFT),
        ("YA YB YC D", BONE),
        ("L", LUNG),
        ("FC21 FC23 FC26 FC64 FC68 FC08-H FC43", SOFT),
        ("FC30 FC31 FC35 FC80 FC81", BONE),
        ("FC50 FC51 FC56", LUNG),
        ("H_SOFT_B", SOFT),
        ("H_BONE_A", BONE),
        ("ID_0000000b Q 4711 DOE^JANE", ""),
    ],
)
def test_kernels(kernels, expected):
    for kernel in kernels.split():
        assert kernel_class(kernel) == expected, kernel
    assert kernel_class("") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Schädel nativ Knochen 1.0", BONE),
        ("CRANE OS 1MM", BONE),
        ("Cráneo hueso", BONE),
        ("Kopf Weichteil 5.0 H31s", SOFT),
        ("HEAD 5.0 Hr64 bone", BONE),
        ("Head 5.0 J40s", SOFT),
        ("AXIAL BRAIN BONE ALGO", BONE),
        ("Parenchyme 3mm", SOFT),
        ("Polmone", LUNG),
        ("Doe Jane 4711", ""),
    ],
)
def test_kernels_in_descriptions(text, expected):
    assert kernel_of_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Head W/O contrast 5mm", False),
        ("CCT nativ", False),
        ("Schädel ohne KM", False),
        ("CRANE SANS INJECTION", False),
        ("CRANEO SIN CONTRASTE", False),
        ("CRANIO SENZA MDC", False),
        ("NON-CONTRAST HEAD", False),
        ("HEAD C-", False),
        ("NCCT", False),
        ("CTA head", True),
        ("Angio Kopf", True),
        ("Head C+", True),
        ("Post contrast", True),
        ("CRANEO CON CONTRASTE", True),
        ("Schädel mit KM", True),
        ("WITH AND WITHOUT CONTRAST", None),
        ("HEAD W/WO CONTRAST", None),
        ("Head W/O", False),
        ("Head 5mm", None),
        ("POST FOSSA", None),
        ("", None),
    ],
)
def test_contrast_in_descriptions(text, expected):
    assert contrast_named(text) is expected


@pytest.mark.parametrize(
    "agent", ["", " ", "NONE", "no", "without", "ohne KM", "C-", "Sin contraste"]
)
def test_no_agent(agent):
    assert not agent_given(agent)


@pytest.mark.parametrize("agent", ["OMNIPAQUE 350", "APPLIED", "Iomeprol", "IV", "CONTRAST"])
def test_an_agent(agent):
    assert agent_given(agent)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Topogramm 0.6 T20f", "localizer"),
        ("Scout", "localizer"),
        ("Surview", "localizer"),
        ("Dose Report", "dose report"),
        ("MIP axial 10mm", "projection"),
        ("Head_COR_3mm", "reformat"),
        ("Schädel MPR sagittal", "reformat"),
        ("Perfusion CBF", "perfusion"),
        ("PreMonitoring", "bolus monitoring"),
        ("Head 5.0 corrected", ""),
        ("AXIAL 5MM", ""),
    ],
)
def test_kinds(text, expected):
    assert kind_of_series(text) == expected
