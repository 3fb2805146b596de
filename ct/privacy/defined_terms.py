"""Code words of DICOM: what a text tag may hold to be shown. Anything else may be a name, and
becomes "?".

Tags for codes are filled by hand at some consoles, and their 16 letters are room enough for a name.
So a value goes on to tables, pages and terminal only as far as it is made of words that stand here.
"""

import re

from pydicom import uid


def _words(text):
    return frozenset(text.split())


UNKNOWN = "?"
MODALITIES = _words(  # PS3.3 section C.7.3.1.1.1, retired ones included
    "ANN AR AS ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX "
    "EC ECG EEG EMG EOG EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG "
    "MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF "
    "RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF "
    "ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC"
)
# one of them is in what BodyPartExamined holds of a head (PS3.16 annex L)
HEADS = ("HEAD", "BRAIN", "SKULL", "CRAN")
# PS3.16 annex L; usual abbreviations; words of other languages for the head and its parts
BODY_PARTS = _words(
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
    "CARDIAC CEREBRAL CEREBRUM CERVICAL CRANIAL CRANIUM FACIAL HEADANGIO HEADBRAIN JOINT LUMBAR "
    "LUMBARSPINE MANDIBLE NEURO ORBITS PARANASAL PETROUS SINUS SINUSES TEMPORAL TEMPORALBONE "
    "THORACIC THORAX TRUNK VESSELS WHOLE CABEZA CABECA CEREBRO CERVEAU CERVELLO CRANE CRANEO "
    "CRANIO ENCEFALO ENCEPHALE GEHIRN HERSENEN HJERNE HOOFD HODE HUVUD KOPF MOZG GLOWA SCHADEL "
    "SCHAEDEL SCHEDEL TESTA TETE"
)
# words between and beside those of parts
JOINING = _words("AND WITH WITHOUT UPPER LOWER LEFT RIGHT")
# PS3.3 section C.8.2.1.1.1
IMAGE_TYPES = _words("ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER")
SYNTAXES = frozenset(
    number for number, entry in uid.UID_dictionary.items() if entry[1] == "Transfer Syntax"
)
CODE = re.compile(r"[A-Z0-9 _/-]{1,16}")  # a code string, PS3.5 section 6.2


def modality_term(text: str) -> str:
    """Return the value of Modality in capitals; "" where it is empty, "?" where it is no defined
    term.
    """
    return _known(text, MODALITIES)


def body_part_terms(text: str) -> str:
    """Return the value of BodyPartExamined in capitals where all its words are known, and "" where
    it is empty.

    Of others that hold one of HEADS, that word; else "?".
    """
    code = text.strip(" \0").upper()
    if not CODE.fullmatch(code):
        return UNKNOWN if code else ""
    words = re.findall("[A-Z0-9]+", code)
    if "".join(words) in BODY_PARTS or {*words} <= BODY_PARTS | JOINING:
        return code
    return next((head for head in HEADS if head in code), UNKNOWN)


def image_type_terms(values: list[str]) -> str:
    """Return the values of ImageType, joined by a backslash; of one that is no defined term,
    LOCALIZER where it holds that word, else "?".
    """
    words = [_known(value, IMAGE_TYPES) for value in values]
    return "\\".join(
        "LOCALIZER" if "LOCALIZER" in value.upper() else word
        for value, word in zip(values, words, strict=True)
    )


def known_transfer_syntax(syntax: str) -> str:
    """Return the UID of a transfer syntax that pydicom's dictionary has (PS3.6 annex A); "?" for
    others.
    """
    return str(syntax) if str(syntax) in SYNTAXES else UNKNOWN


def _known(text, words):
    word = text.strip(" \0").upper()
    return word if not word or word in words else UNKNOWN
