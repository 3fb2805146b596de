"""What a series' free texts say about it, in known words alone: kernel, contrast agent, kind.

SeriesDescription and ContrastBolusAgent (PS3.3 sections C.7.3.1 and C.7.6.4) are typed by hand and
may hold names (PS3.15 annex E lists both), so a table holds only the words of this module.
"""

import re
import unicodedata

SOFT, SHARP, BONE, LUNG = "soft", "sharp", "bone", "lung"  # classes of kernels
# values of ContrastBolusAgent that sites write for a scan without contrast
NO_AGENT = {"", "NONE", "NO", "N", "C-", "WITHOUT", "0"}
# words about kernels in texts, and kernels that are named by words; the first that fits decides
KERNEL_WORDS = (
    (LUNG, "LUNG LUNGE LUNGEN POUMON PULMON PULMONAR POLMONE PULMAO PLUCA PLUCO CHST"),
    (
        BONE,
        "BONE BONES BONEPLUS BONY KNOCHEN FELSENBEIN OS OSSEUX OSSEUSE OSEO OSEA OSEOS HUESO "
        "HUESOS OSSO OSSOS OSSEO OSSEA OSSA BOT KNOGLE KNOGLER SKELETT KOSC KOSCI KOSTI KEMIK",
    ),
    (SHARP, "SHARP EDGE DETAIL ULTRA HIRES HRCT"),
    (
        SOFT,
        "SOFT SMOOTH STANDARD STND STD BRAIN CEREBRUM CEREBRAL HIRN WEICHTEIL WEICHTEILE WT "
        "PARENCHYM PARENCHYME PARENQUIMA CEREBRO CERVEAU CERVELLO ENCEFALO ENCEPHALE HERSENEN "
        "HJERNE HJARNA MOZG MOZEK BEYIN TISSUE BLANDO BLANDAS MOLLES TESSUTI",
    ),
)
KINDS = (  # kinds of series that are no plain axial slices -> pattern; the first that fits decides
    ("dose report", r"\bDOS(?:E|IS)\b|\bPATIENT PROTOCOL\b|\bSCREEN ?SAVE\b"),
    (
        "localizer",
        r"\bSCOUTS?\b|\bTOPO(?:GRAMM?|GRAMA)?\b|\bLOCALI[SZ]ER\b|\bLOCALIZADOR\b|\bSURVIEW\b"
        r"|\bSCANO(?:GRAM\w*|SCOPE)?\b|\bPILOT\b",
    ),
    ("bolus monitoring", r"\b(?:PRE)?MONITORING\b|\bTEST ?BOLUS\b|\bSMART ?PREP\b|\bTRACKER\b"),
    ("perfusion", r"\bPERF\w*|\bCTP\b|\bTTP\b|\bCB[FV]\b|\bMTT\b|\bTMAX\b"),
    ("subtraction", r"\bSUBTRA\w*|\bDSA\b"),
    ("projection", r"\bM(?:IN)?IPS?\b|\bVRT\b|\bVOLUME RENDER\w*|\bSSD\b|\bCURVED\b"),
    ("reformat", r"\bMPV?RS?\b|\bREFORMAT\w*|\bCOR(?:ONA\w*)?\b|\bKORONAR\w*|\bSAG(?:IT\w*)?\b"),
)
WITHOUT = (  # a contrast agent was not given
    r"\bC-(?!\w)|\b(?:WITHOUT|WO|W/O|OHNE|SANS|SIN|SENZA|SEM|ZONDER|UTAN|UDEN|UTEN|BEZ|NO|NON)"
    r"[ _.-]*(?:IV[ _.-]*)?(?:[CK]ONTRA\w*|CON\b|C\b|KM\b|MDC\b|MC\b|IV\b|INJ\w*|PDC\b)"
    r"|\bW/O\b|\bNONCON\w*|\bUNENHANCED\b|\bPLAIN\b|\bNATIV\w*|\bNE?CC?T\b|\bPRE[ _-]?CON\w*"
)
WITH = (  # a contrast agent was given
    r"\bC\+|\+C\b|\b[CK]ONTRA\w*|\bW/? ?CON\b|\bKM\b|\bMDC\b|\bENHANCED\b|\bCECT\b|\bCTA\b"
    r"|\bANGIO\w*|\bPOST[ _-]?(?:CON\w*|KM|IV|INJ\w*)|\bARTERI\w*|\bVENOUS\b|\bINJECTE\w*"
)
# before and after a contrast agent
BOTH = r"\bWITH (?:AND|&|\+) WITHOUT\b|\bW/? ?(?:AND|&|\+|/)? ?W/?O\b"
# number of a kernel of Siemens (H31s, J40s, Hr64) from which on it is sharp, and from which on bone
SIEMENS = re.compile(r"[BCHIJQU][A-Z]?(\d{2})[A-Z]?")
SIEMENS_SHARP, SIEMENS_BONE = 50, 60
# kernel of Canon and Toshiba (FC21, FC64): its first digit -> class
CANON = re.compile(r"FC(\d)\d[A-Z]?")
CANON_CLASSES = {"3": BONE, "5": LUNG, "7": SHARP, "8": BONE}  # the others are soft
PHILIPS = {  # kernel of Philips -> class
    **dict.fromkeys(("UA", "UB", "UC", "A", "B", "C", "EA", "EB", "XA", "XB", "XC"), SOFT),
    **dict.fromkeys(("YA", "YB", "YC", "YD", "YE", "D", "E", "EC", "ED"), BONE),
    **dict.fromkeys(("L", "LA", "LB"), LUNG),
}


def kernel_class(kernel: str) -> str:
    """Return the class of a ConvolutionKernel (PS3.3 section C.8.2.1): SOFT, SHARP, BONE, LUNG, "".

    kernel: several values are joined by backslashes; each maker has names of its own, which the
    standard leaves open, and "" is returned for an unknown one
    """
    for value in _folded(kernel).split("\\"):
        name = value.strip()
        if kernel := PHILIPS.get(name) or kernel_of_text(name):
            return kernel
    return ""


def kernel_of_text(text: str) -> str:
    """Return the class of kernel that a text names, "" for none; by a word, or as in "H31s"."""
    folded = _folded(text)
    words = set(re.findall("[A-Z]+", folded))
    named = (kernel for kernel, known in KERNEL_WORDS if words & {*known.split()})
    numbered = (_numbered_kernel(name) for name in re.findall("[A-Z0-9]+", folded))
    return next(named, "") or next(filter(None, numbered), "")


def _numbered_kernel(name: str) -> str:
    """Return the class of a kernel of Canon or Siemens, "" for another name."""
    if match := CANON.fullmatch(name):
        return CANON_CLASSES.get(match[1], SOFT)
    if match := SIEMENS.fullmatch(name):
        if name[:2] == "BL":
            return LUNG
        number = int(match[1])
        return BONE if number >= SIEMENS_BONE else SHARP if number >= SIEMENS_SHARP else SOFT
    return ""


def kind_of_series(description: str) -> str:
    """Return which of KINDS a SeriesDescription names, "" for none."""
    text = _folded(description).replace("_", " ")
    return next((kind for kind, pattern in KINDS if re.search(pattern, text)), "")


def contrast_named(text: str) -> bool | None:
    """Return whether a text says that a contrast agent was given; None where it does not say.

    A text that says both, as "with and without contrast" does, does not say.
    """
    folded = _folded(text).replace("_", " ")
    if re.search(BOTH, folded):
        return None
    rest = re.sub(WITHOUT, " ", folded)
    without, given = rest != folded, bool(re.search(WITH, rest))
    return given if without != given else None


def agent_given(agent: str) -> bool:
    """Return whether a ContrastBolusAgent names an agent, and not that there was none."""
    return agent.strip(" \0").upper() not in NO_AGENT and contrast_named(agent) is not False


def _folded(text: str) -> str:
    """Return a text in capitals without accents."""
    return "".join(
        character
        for character in unicodedata.normalize("NFKD", text.upper())
        if not unicodedata.combining(character)
    )
