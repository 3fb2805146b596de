"""Label tables of many forms give the same labels; public ones are read in their layouts."""

import re

import numpy as np
import pandas as pd
import pytest

from ct.errors import InputError
from ct.label_tables.label_columns import key_kinds, label_columns
from ct.label_tables.label_match import match_labels, slice_labels
from ct.label_tables.own_labels import names_slices, read_own_labels, read_probabilities
from ct.label_tables.public_data import (
    is_image_of,
    read_label_table,
    read_truth,
    warning_of_competition,
)
from ct.labels import LABELS, SUBTYPES, read_labels
from ct.privacy.pseudonyms import pseudonym

KEY = b"key"
UIDS = ["1.2.1", "1.2.2", "1.2.3"]
PATHS = ["DOE/CT/IM1.dcm", "DOE/CT/IM2.dcm", "ROE/CT/IM3.dcm"]
POSITIVE = {"1.2.1": ("epidural",), "1.2.2": (), "1.2.3": ("subdural", "subarachnoid")}
SHORT = dict(zip(SUBTYPES, ("EDH", "IPH", "IVH", "SAH", "SDH"), strict=True))


def headers(paths=PATHS, uids=UIDS):
    """A header table: two studies, of the folders DOE and ROE."""
    people = [path.split("/")[0] for path in paths]
    columns = {
        f"{kind}_id": [pseudonym(f"{kind} {each}", KEY, kind) for each in people]
        for kind in ("patient", "study", "series")
    }
    index = pd.Index([pseudonym(uid, KEY, "slice") for uid in uids], name="slice_id")
    return pd.DataFrame(columns | {"path": paths}, index=index)


def wide(**keys):
    """The wide table of POSITIVE, columns in another order than LABELS."""
    rows = {SHORT[label]: [int(label in POSITIVE[uid]) for uid in UIDS] for label in SUBTYPES[::-1]}
    return pd.DataFrame(rows | keys)


def labels_of(tmp_path, table, names=None, slices=None, index=False, suffix="csv"):
    path = tmp_path / f"labels.{suffix}"
    write = table.to_parquet if suffix == "parquet" else table.to_csv
    write(path, index=index)
    read, slices = read_own_labels(path, names or {}), headers() if slices is None else slices
    match = match_labels(read, slices, KEY, "--labels")
    return match, slice_labels(match, read, slices)


def expected():
    values = [
        [float(bool(POSITIVE[u])), *(float(s in POSITIVE[u]) for s in SUBTYPES)] for u in UIDS
    ]
    index = headers().index
    return pd.DataFrame(np.array(values, np.float32), index=index, columns=list(LABELS))


FORMS = {
    "uid": {"SOPInstanceUID": UIDS},
    "path": {"path": PATHS},
    "windows path": {"file": [path.replace("/", "\\") for path in PATHS]},
    "file": {"image": ["IM1.dcm", "IM2.dcm", "IM3.dcm"]},
    "no suffix": {"name": ["IM1", "IM2", "IM3"], "age": [1, 2, 3]},
    "pictures of the slices": {"file_name": ["IM1.png", "IM2.png", "IM3.png"]},
    "unknown column": {"what": ["IM1", "IM2", "IM3"], "age": [1, 2, 3]},
    "study, too": {"StudyInstanceUID": ["study DOE", "study DOE", "study ROE"], "sop": UIDS},
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_wide_tables_with_any_key(tmp_path, form, suffix):
    match, labels = labels_of(tmp_path, wide(**FORMS[form]), suffix=suffix)
    assert (match.level, match.unused) == ("slice", 0)
    pd.testing.assert_frame_equal(labels, expected())


def test_an_index_column_and_rows_in_another_order(tmp_path):
    table = wide(file=["IM1.dcm", "IM2.dcm", "IM3.dcm"])[::-1]
    _, labels = labels_of(tmp_path, table, index=True)
    pd.testing.assert_frame_equal(labels, expected())
    named = wide().set_axis(["IM1", "IM2", "IM3"])  # pandas' to_csv: the index is the only key
    pd.testing.assert_frame_equal(labels_of(tmp_path, named, index=True)[1], expected())


@pytest.mark.parametrize("ids", [True, False])
def test_long_tables(tmp_path, ids):
    rows = [(u, SHORT[s], int(s in POSITIVE[u])) for u in UIDS for s in SUBTYPES]
    if ids:
        table = pd.DataFrame([(f"{u}_{s}", y) for u, s, y in rows], columns=["ID", "Label"])
    else:
        table = pd.DataFrame(rows, columns=["SOPInstanceUID", "type", "value"])
    pd.testing.assert_frame_equal(labels_of(tmp_path, table)[1], expected())
    scored = table.rename(columns={"value": "score_x"}).assign(sex="F")  # F is a word for 0, too
    pd.testing.assert_frame_equal(labels_of(tmp_path, scored)[1], expected())
    contrary = pd.concat([table, table[:1].assign(**{table.columns[-1]: 0})])
    with pytest.raises(InputError, match="row 1 contradicts another row, epidural has two values"):
        labels_of(tmp_path, contrary)


def test_names_of_the_recipe_and_an_any_that_contradicts(tmp_path):
    table = wide(sop=UIDS).rename(columns={"EDH": "x"}).assign(any=[0, 0, 1])
    with pytest.raises(InputError, match=r"no column for epidural.*`labels: \{epidural: COLUMN\}`"):
        labels_of(tmp_path, table)
    _, labels = labels_of(tmp_path, table, {"epidural": "x"})
    pd.testing.assert_frame_equal(labels, expected().assign(any=np.float32([0, 0, 1])))


def test_ich_is_any_only_beside_intraparenchymal():
    assert label_columns(["ICH", "EDH", "IPH"], {}, "t") == {
        "any": "ICH",
        "epidural": "EDH",
        "intraparenchymal": "IPH",
    }
    assert label_columns(["ICH", "EDH"], {}, "t")["intraparenchymal"] == "ICH"
    names = ["Subdural Hematoma", "extradural_haemorrhage", "Hemorrhage"]
    assert list(label_columns(names, {}, "t")) == ["any", "epidural", "subdural"]


@pytest.mark.parametrize("column", ["StudyInstanceUID", "folder", "patient"])
def test_labels_of_studies_are_told_from_labels_of_slices(tmp_path, column):
    values = ["study DOE", "study ROE"] if column[0] == "S" else ["DOE", "ROE"]
    table = wide(sop=UIDS)[[*SHORT.values()]][:2].assign(**{column: values})
    match, _ = labels_of(tmp_path, table)
    assert (match.level, match.row.tolist()) == ("study", [0, 0, 1])
    assert not names_slices(read_own_labels(tmp_path / "labels.csv", {}))


def test_names_that_repeat_need_a_folder(tmp_path):
    paths = ["DOE/1.dcm", "DOE/2.dcm", "ROE/1.dcm"]
    table = wide(file=["1.dcm", "2.dcm", "1.dcm"])
    with pytest.raises(InputError, match="occur in several folders|row 1 contradicts"):
        labels_of(tmp_path, table, slices=headers(paths))
    _, labels = labels_of(
        tmp_path, table.assign(patient=["DOE", "DOE", "ROE"]), slices=headers(paths)
    )
    pd.testing.assert_frame_equal(labels, expected())


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (wide(sop=["9", "8", "7"]), "none of its 3 rows names a slice"),
        (wide(sop=UIDS).assign(SDH=[0, 2, 1]), "SDH of row 2 is '2'; labels are 0 or 1"),
        (wide(sop=["1.2.1", "1.2.1", "1.2.3"]), "row 1 contradicts another row of the same name"),
        (wide(), "no column that names a slice"),
        (wide(sop=UIDS).assign(epidural=0), "the columns .* are both epidural"),
    ],
)
def test_faults_are_one_line_without_keys(tmp_path, table, line):
    with pytest.raises(InputError, match=line) as error:
        labels_of(tmp_path, table)
    assert "1.2.1" not in str(error.value) and "\n" not in str(error.value)


ONES = ("1", "1.0", " 1.00 ", "+1", "1e0", "01", "T", "true", "TRUE", "Yes", "y", "positive")
ZEROS = ("0", "0.0", "0.00", "-0", "0e0", "F", "false", "FALSE", "No", "n", "Negative")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_labels_are_words_or_numbers_in_any_form(tmp_path, suffix):
    texts = [*ONES, *ZEROS, "", "NaN", "n/a"]
    table = pd.DataFrame({"file": [f"{n}.dcm" for n in range(len(texts))]})
    table = table.assign(**dict.fromkeys(SUBTYPES, "0")).assign(EDH=texts).drop(columns="epidural")
    write = table.to_parquet if suffix == "parquet" else table.to_csv
    write(tmp_path / f"l.{suffix}")
    read = read_own_labels(tmp_path / f"l.{suffix}", {})["epidural"]
    expected = [1] * len(ONES) + [0] * len(ZEROS) + [np.nan] * 3
    np.testing.assert_array_equal(read, np.float32(expected))


@pytest.mark.parametrize("text", ["0.99999999", "1.00000001", "0.5", "-1", "inf", "?", "1 0", "11"])
def test_other_labels_are_refused_in_every_table(tmp_path, text):
    table = wide(file=PATHS).astype(str)
    table.loc[1, "SDH"] = text
    table.to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(InputError, match=f"SDH of row 2 is '{re.escape(text)}'; labels are 0 or 1"):
        read_own_labels(tmp_path / "l.csv", {})
    rows = [f"ID_1_{label},{text if label == 'any' else 0}" for label in LABELS]
    (tmp_path / "k.csv").write_text("\n".join(["ID,Label", *rows]))
    with pytest.raises(InputError, match="labels are 0 or 1"):
        read_labels(tmp_path / "k.csv")


def test_key_kinds_finest_first():
    assert list(key_kinds(["PatientID", "age", "file"])) == ["file", "PatientID"]
    assert key_kinds(["Unnamed: 0"]) == {"Unnamed: 0": "index"}


def test_cq500_is_the_majority_of_three_readers(tmp_path):
    names = ["ICH", "IPH", "IVH", "SDH", "EDH", "SAH"]
    reads = {f"R{r}:{name}": [0, 0] for r in (1, 2, 3) for name in names}
    for column in ("R1:ICH", "R3:ICH", "R2:SDH", "R3:SDH", "R1:EDH"):
        reads[column] = [0, 1]
    table = pd.DataFrame({"name": ["CQ500-CT-0", "CQ500-CT-12"], "Category": "B1"} | reads)
    table.to_csv(tmp_path / "reads.csv", index=False)
    labels = read_label_table(tmp_path / "reads.csv", "cq500", {})
    assert labels[list(LABELS)].to_numpy().tolist() == [[0] * 6, [1, 0, 0, 0, 0, 1]]
    paths = [
        "CQ500CT12 CQ500CT12/Unknown Study/CT Plain/CT000000.dcm",
        "CQ500CT12 CQ500CT12/Unknown Study/CT Plain/CT000001.dcm",
        "CQ500CT0 CQ500CT0/Unknown Study/CT Plain/CT000000.dcm",
    ]
    match = match_labels(labels, headers(paths), KEY, "--labels")
    assert (match.level, match.row.tolist()) == ("study", [1, 1, 0])


def test_bhx_boxes_become_labels_of_slices(tmp_path):
    rows = [
        ("1.2.1", "series DOE", "Epidural"),
        ("1.2.1", "series DOE", "Subdural"),
        ("1.2.3", "series ROE", "Chronic"),
    ]
    table = pd.DataFrame(rows, columns=["SOPInstanceUID", "SeriesInstanceUID", "labelName"])
    table["data"] = "{'x': 1, 'y': 2, 'width': 3, 'height': 4}"
    table["StudyInstanceUID"], table["labelType"] = "1", "MANUAL"
    table.to_csv(tmp_path / "b.csv")
    labels = read_label_table(tmp_path / "b.csv", "bhx", {})
    slices = headers()
    found = slice_labels(match_labels(labels, slices, KEY, "--labels"), labels, slices)
    values = found.reindex(slices.index).to_numpy()
    np.testing.assert_array_equal(
        values, [[1, 1, 0, 0, 0, 1], [0] * 6, [np.nan] * 6]
    )  # a box twice, no box in a listed series, chronic alone


def test_ct_ich_rows_are_slices_of_volumes(tmp_path):
    names = ["Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural"]
    table = pd.DataFrame(0, index=range(3), columns=names)
    table.insert(0, "PatientNumber", [49, 49, 50])
    table.insert(1, "SliceNumber", [1, 2, 1])
    table["No_Hemorrhage"], table["Fracture_Yes_No"] = [1, 0, 1], ""
    table.loc[1, "Epidural"] = 1
    table.to_csv(tmp_path / "h.csv", index=False)
    labels = read_label_table(tmp_path / "h.csv", "ct-ich", {})
    slices = headers(["ct_scans/049.nii#1", "ct_scans/049.nii#2", "ct_scans/050.nii.gz#1"])
    found = slice_labels(match_labels(labels, slices, KEY, "--labels"), labels, slices)
    assert found.to_numpy().tolist() == [[0] * 6, [1, 1, 0, 0, 0, 0], [0] * 6]
    assert is_image_of("ct-ich", "ct_scans/049.nii") and not is_image_of("ct-ich", "masks/049.nii")


def test_data_made_of_the_competition_is_warned_of():
    assert "training data" in warning_of_competition(["/data/BHSD/ct"])
    assert warning_of_competition(["/data/ours"]) == ""


def test_the_truth_of_an_evaluation_is_kaggles_csv_or_a_table_of_ones_own(tmp_path):
    rows = [(f"ID_1_{s}", int(s == "any")) for s in LABELS]
    pd.DataFrame(rows, columns=["ID", "Label"]).to_csv(tmp_path / "k.csv", index=False)
    assert read_truth(tmp_path / "k.csv", None, {})[list(LABELS)].to_numpy().tolist() == [
        [1, 0, 0, 0, 0, 0]
    ]
    wide(ID=UIDS, Label="x").to_csv(tmp_path / "w.csv", index=False)
    read = read_truth(tmp_path / "w.csv", None, {})
    np.testing.assert_array_equal(read[list(LABELS)], expected())


def probabilities(folder, **columns):
    table = pd.DataFrame({"slice_id": ["a", "b"], **dict.fromkeys(LABELS, 0.25)} | columns)
    table.to_csv(folder / "p.csv", index=False)
    return folder / "p.csv"


def test_probabilities_have_the_forms_of_labels(tmp_path):
    read = read_probabilities(probabilities(tmp_path, subdural=[0.1, 0.123456789012]))
    assert read["subdural"].tolist() == [0.1, 0.123456789012] and read["any"].tolist() == [0.25] * 2
    rows = [(f"{u}_{s}", 0.5) for u in UIDS for s in LABELS]
    pd.DataFrame(rows, columns=["ID", "Label"]).to_csv(tmp_path / "long.csv", index=False)
    long = read_probabilities(tmp_path / "long.csv")
    assert long["ID"].tolist() == UIDS and (long[list(LABELS)] == 0.5).all(axis=None)
    empty = dict.fromkeys(LABELS, [0.5, ""])
    assert read_probabilities(probabilities(tmp_path, **empty))["slice_id"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"any": [0.5, 1.2]}, "any of row 2 is '1.2'; a probability lies in"),
        ({"subdural": ["x", 0]}, "subdural of row 1 is 'x'; a probability lies in"),
        ({"any": [0.5, ""]}, "any of row 2 is missing; give all six"),
        (dict.fromkeys(LABELS, ["", ""]), "has no rows with probabilities"),
    ],
)
def test_wrong_probabilities_are_one_line(tmp_path, columns, line):
    with pytest.raises(InputError, match=line):
        read_probabilities(probabilities(tmp_path, **columns))
    without = pd.read_csv(probabilities(tmp_path)).drop(columns="any")
    without.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match="has no column any"):
        read_probabilities(tmp_path / "p.csv")
