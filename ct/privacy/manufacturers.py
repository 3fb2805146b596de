"""The manufacturer of a scanner as a known word: the tag is free text (PS3.3 section C.7.5.1)."""

import re

from ct.privacy.defined_terms import UNKNOWN

# known word -> words of the tag, in capitals; a company's former name counts as the company
WORDS = {
    "GE": ("GE", "GEMS", "GEHC"),
    "SIEMENS": ("SIEMENS",),
    "PHILIPS": ("PHILIPS", "PICKER", "MARCONI", "ELSCINT"),
    "CANON": ("CANON", "TOSHIBA"),
    "FUJIFILM": ("FUJIFILM", "HITACHI"),
    "NEUROLOGICA": ("NEUROLOGICA", "SAMSUNG"),
    "NEUSOFT": ("NEUSOFT",),
    "UNITED IMAGING": ("UIH", "UNITED"),
    "MINFOUND": ("MINFOUND",),
    "ANKE": ("ANKE",),
}


def manufacturer_term(text: str) -> str:
    """Return a word of WORDS for the value of Manufacturer; "?" where unknown, "" where empty."""
    name = text.strip(" \0").upper().replace("G.E.", "GE")
    words = set(re.findall("[A-Z]+", name))
    known = [term for term, of_term in WORDS.items() if words & set(of_term)]
    return known[0] if known else UNKNOWN if name else ""
