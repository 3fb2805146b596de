"""Only known words of a tag's text are shown, and no value that a library's message quotes."""

import pytest
from pydicom.uid import AllTransferSyntaxes

from ct.privacy.defined_terms import (
    body_part_terms,
    image_type_terms,
    known_transfer_syntax,
    modality_term,
)
from ct.privacy.redaction import without_quoted_values


@pytest.mark.parametrize(
    ("text", "word"),
    [("CT", "CT"), (" mr\0", "MR"), ("", ""), (" ", ""), ("SMITH", "?"), ("CT MR", "?")],
)
def test_modality(text, word):
    assert modality_term(text) == word


@pytest.mark.parametrize(
    "part", ["HEAD", "c-spine", "C SPINE", "HEAD/NECK", "NECK AND CHEST", "KOPF", "ABD_PELVIS"]
)
def test_known_body_parts_are_shown_in_capitals(part):
    assert body_part_terms(part) == part.upper()


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        ("HEADLEY JOHN", "HEAD"),
        ("HEAD W CONTRAST", "HEAD"),
        ("DR BRAIN SMITH", "BRAIN"),
        ("CHEST SMITH", "?"),
        ("DOE^JANE", "?"),
        ("HEAD, seen by Dr Doe", "?"),
        ("", ""),
        ("A", "?"),
    ],
)
def test_of_other_body_parts_only_a_head_is_shown(part, shown):
    """The word of the head stays; the rest may be a name."""
    assert body_part_terms(part) == shown


def test_image_types():
    assert (
        image_type_terms(["ORIGINAL", "primary", "AXIAL", "DOE"]) == "ORIGINAL\\PRIMARY\\AXIAL\\?"
    )
    assert image_type_terms([""]) == "" and image_type_terms(["CT LOCALIZER DOE"]) == "LOCALIZER"


def test_transfer_syntaxes_are_those_of_the_dictionary():
    assert all(known_transfer_syntax(syntax) == str(syntax) for syntax in AllTransferSyntaxes)
    assert (
        known_transfer_syntax("DOE^JANE")
        == known_transfer_syntax("1.2.4711")
        == known_transfer_syntax("1.2.840.10008.5.1.4.1.1.2")
        == "?"
    )


PHOTOMETRIC = "(0028,0004) 'Photometric Interpretation'"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (f"A {PHOTOMETRIC} value of 'DOE' is invalid", f"A {PHOTOMETRIC} value"),
        (f"Unknown {PHOTOMETRIC} value 'O'DOE'", f"Unknown {PHOTOMETRIC} value"),
        (f"Missing required element: {PHOTOMETRIC}", f"Missing required element: {PHOTOMETRIC}"),
        (
            "Unable to reshape the pixel array as a value of DOE for it",
            "Unable to reshape the pixel array as a value",
        ),
        ("could not convert string to float: 'DOE'", "could not convert string to float"),
        ('invalid literal: "DOE"', "invalid literal"),
        ("'DOE' is not in list", "damaged"),
        ("gdcm cannot open /home/doe/x.dcm", "gdcm cannot open (path)"),
        (
            "fewer bytes than expected (19 vs 24 bytes)",
            "fewer bytes than expected (19 vs 24 bytes)",
        ),
    ],
)
def test_a_message_ends_where_it_quotes_a_value(message, shown):
    assert without_quoted_values(message) == shown
