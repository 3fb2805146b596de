"""Known words of DICOM that may be shown. Any other text may be a person's name: "?" instead.

At some consoles people type the values of code tags by hand, and their 16 characters are enough for
a name. So only the words listed here reach tables, pages and the terminal.
"""

import re
import unicodedata

from pydicom import uid


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNKNOWN = "?"
MODALITIES = _words(  # PS3.3 section C.7.3.1.1.1, retired ones included
    "ANN AR AS ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX "
    "EC ECG EEG EMG EOG EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG "
    "MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF "
    "RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF "
    "ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC"
)
# the body part is a head where its text contains one of these (PS3.16 annex L) ...
HEADS = ("HEAD", "BRAIN", "SKULL", "CRAN")
# ... or one of these words
HEAD_WORDS = _words(
    "CABEZA CABECA CEREBRAL CEREBRO CEREBRUM CERVEAU CERVELLO CRANE CRANEO CRANIO ENCEFALO "
    "ENCEPHALE GEHIRN GLOWA HERSENEN HIRN HJERNE HLAVA HODE HOOFD HOVED HUVUD KAFA KOPF MOZG NEURO "
    "NEUROCRANE NEUROCRANIUM SCHADEL SCHAEDEL SCHEDEL TESTA TETE"
)
# PS3.16 annex L; usual abbreviations; the head and its parts in other languages
BODY_PARTS = HEAD_WORDS | _words(
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BILEDUCT BLADDER BRAIN BREAST "
    "BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN "
    "CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE "
    "DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER HAND "
    "HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER "
    "LSPINE LSSPINE LUNG MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN "
    "NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE "
    "RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL SPINE SPLEEN SSPINE STERNUM STOMACH "
    "SUBMANDIBULAR TESTIS THIGH THUMB THYMUS THYROID TLSPINE TMJOINT TOE TONGUE TRACHEA TSPINE "
    "UMBILICUS URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA ABD ANGIO BODY BONE "
    "CARDIAC CERVICAL CRANIAL CRANIUM FACIAL HEADANGIO HEADBRAIN JOINT LUMBAR "
    "LUMBARSPINE MANDIBLE ORBITS PARANASAL PETROUS SINUS SINUSES TEMPORAL TEMPORALBONE "
    "THORACIC THORAX TRUNK VESSELS WHOLE"
)
# words that may stand between body parts, before or after them
CONNECTING_WORDS = _words("AND WITH WITHOUT UPPER LOWER LEFT RIGHT")
# PS3.3 section C.8.2.1.1.1
IMAGE_TYPES = _words("ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER MPR REFORMATTED")
# PS3.3 section C.7.3.1.1.2
PATIENT_POSITIONS = _words(
    "HFP HFS HFDR HFDL FFP FFS FFDR FFDL LFP LFS RFP RFS AFDR AFDL PFDR PFDL"
)
# PS3.3 section C.11.1.1.2.1
RESCALE_TYPES = _words("OD HU US MGML Z_EFF ED EDW HU_MOD PCT")
TRANSFER_SYNTAXES = frozenset(
    number
    for number, entry in uid.UID_dictionary.items()  # type: ignore[attr-defined]  # not in __all__
    if entry[1] == "Transfer Syntax"
)
CODE_STRING = re.compile(r"[A-Z0-9 _/-]{1,16}")  # PS3.5 section 6.2


def modality_term(text: str) -> str:
    """Return the value of Modality in capitals; "?" where it is no defined term, "" where empty."""
    return _known(text, MODALITIES)


def body_part_terms(text: str) -> str:
    """Return the value of BodyPartExamined in capitals where all its words are known.

    Otherwise returns the word of HEADS or HEAD_WORDS that it contains, "?" where it contains none,
    "" where it is empty.
    """
    code = _without_accents(text.strip(" \0").upper())
    if not CODE_STRING.fullmatch(code):
        return UNKNOWN if code else ""
    words = re.findall("[A-Z0-9]+", code)
    if "".join(words) in BODY_PARTS or {*words} <= BODY_PARTS | CONNECTING_WORDS:
        return code
    named = [head for head in HEADS if head in code] + [w for w in words if w in HEAD_WORDS]
    return named[0] if named else UNKNOWN


def is_head(part: str) -> bool:
    """Return whether a body part, as `body_part_terms` returns it, is a head or contains one."""
    return any(head in part for head in HEADS) or bool(
        HEAD_WORDS & {*re.findall("[A-Z0-9]+", part)}
    )


def image_type_terms(values: list[str]) -> str:
    """Return the values of ImageType, joined by backslashes; "?" for each unknown value.

    A value that contains LOCALIZER becomes that word.
    """
    terms = []
    for value in values:
        terms.append("LOCALIZER" if "LOCALIZER" in value.upper() else _known(value, IMAGE_TYPES))
    return "\\".join(terms)


def patient_position_term(text: str) -> str:
    """Return the value of PatientPosition; "?" where it is no defined term, "" where empty."""
    return _known(text, PATIENT_POSITIONS)


def rescale_type_term(text: str) -> str:
    """Return the value of RescaleType; "?" where it is no defined term, "" where empty."""
    return _known(text, RESCALE_TYPES)


def known_transfer_syntax(syntax: str) -> str:
    """Return the UID of a transfer syntax; "?" where PS3.6 annex A does not list it."""
    return str(syntax) if str(syntax) in TRANSFER_SYNTAXES else UNKNOWN


def _without_accents(text: str) -> str:
    """Return a text without accents: the head is SCHÄDEL, TÊTE or CABEÇA in some archives."""
    letters = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _known(text: str, words: frozenset[str]) -> str:
    word = text.strip(" \0").upper()
    return word if not word or word in words else UNKNOWN
