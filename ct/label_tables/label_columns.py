"""Names of columns: which label a column holds, and what a column of keys names."""

import re
from collections.abc import Iterable, Mapping

from ct.errors import InputError, printable
from ct.labels import LABELS, SUBTYPES

# as `bare_name` returns them, without the words of WORDS at the end
NAMES = {
    "any": "any anytype bleeding bleed intracranial positive",
    "epidural": "epidural extradural edh eph",
    "intraparenchymal": "intraparenchymal parenchymal intracerebral iph",
    "intraventricular": "intraventricular ventricular ivh",
    "subarachnoid": "subarachnoid sah",
    "subdural": "subdural sdh",
}
LABEL_OF = {name: label for label, names in NAMES.items() for name in names.split()}
WORDS = re.compile(r"(?:ha?emorr?hages?|ha?ematomas?)$")
# intracranial or intracerebral hemorrhage: `any` beside intraparenchymal, which it is without
ICH = "ich"
# what a column of keys names, finest first; "index" columns count where there is no other
KEY_NAMES = {
    "slice": "sopinstanceuid sopuid sop instanceuid imageuid sliceuid",
    "file": "file filename filepath path image imagename imagefile imagepath dicom dicomfile",
    "id": "id imageid sliceid name key uid slice",
    "series": "seriesinstanceuid seriesuid seriesid series",
    "study": "studyinstanceuid studyuid studyid study examid exam scanid scan caseid case",
    "folder": "folder foldername directory dir",
    "patient": "patientid patient patientnumber subject subjectid",
}
KIND_OF = {name: kind for kind, names in KEY_NAMES.items() for name in names.split()}
INDEX = re.compile(r"(?:unnamed\d+|index|level\d+|)")
SLICE_KINDS = ("slice", "file", "id", "index")  # may name single slices


def bare_name(name: object) -> str:
    """Return a name in small letters and digits alone: "Epi-dural" is "epidural"."""
    return re.sub(r"[\W_]", "", str(name).lower())


def label_of_name(name: object) -> str | None:
    """Return the label that a name stands for, `ICH` for "ICH", or None."""
    bare = bare_name(name)
    if bare == ICH:
        return ICH
    short = WORDS.sub("", bare)
    return "any" if bare and not short else LABEL_OF.get(short)


def label_columns(columns: Iterable[str], names: Mapping[str, str], where: str) -> dict[str, str]:
    """Return {label: column} of a wide table; {} where no column is a label.

    names: {label: column} as the recipe's `labels` gives them, which go first; where: the flag, for
    the message

    "ICH" is intraparenchymal where no other column is, else `any`. Raises InputError for a column
    of `names` that is missing, and for two columns of one label.
    """
    columns = list(columns)
    for named, column in names.items():
        if column not in columns:
            raise InputError(
                f"{where} has no column {printable(column)}, which labels.{named} of the recipe "
                f"names; it has {printable(', '.join(columns))}"
            )
    found = dict(names)
    unclear = []
    for column in columns:
        label = label_of_name(column)
        if column in names.values() or label is None:
            continue
        if label == ICH:
            unclear.append(column)
        elif label not in names:
            _add(found, label, column, where)
    of_ich = "any" if "intraparenchymal" in found else "intraparenchymal"
    for column in unclear:
        if of_ich not in names:
            _add(found, of_ich, column, where)
    return {label: found[label] for label in LABELS if label in found}


def _add(found: dict[str, str], label: str, column: str, where: str) -> None:
    if label in found:
        raise InputError(
            f"{where}: the columns {printable(found[label])} and {printable(column)} are both "
            f"{label}; name one in the recipe, `labels: {{{label}: {printable(column)}}}`"
        )
    found[label] = column


def require_subtypes(found: Iterable[str], columns: Iterable[str], where: str) -> None:
    """Raise InputError where a subtype has no column. found: labels that have one."""
    if missing := [label for label in SUBTYPES if label not in set(found)]:
        raise InputError(
            f"{where} has no column for {', '.join(missing)}; it has "
            f"{printable(', '.join(map(str, columns)))}; name them in the recipe, "
            f"`labels: {{{missing[0]}: COLUMN}}`"
        )


def key_kinds(columns: Iterable[str]) -> dict[str, str]:
    """Return {column: kind} of the columns that may be keys, the finest kind first.

    columns: without those of labels. Kinds are those of KEY_NAMES, and "index". Where no name is
    known, each column may be a key of any kind ("id").
    """
    kinds = {column: KIND_OF.get(bare_name(column), "") for column in columns}
    known = {column: kind for column, kind in kinds.items() if kind}
    if known:
        order = list(KEY_NAMES)
        return dict(sorted(known.items(), key=lambda pair: order.index(pair[1])))
    named = {column: "id" for column in kinds if not INDEX.fullmatch(bare_name(column))}
    return named or dict.fromkeys(kinds, "index")
