"""Planted names in every tag, folder and file name leave the data in two files alone."""

import shutil

import pandas as pd
import pydicom
import pytest
from planted import PLANTED, every_tag, name_of, plant, planted_in
from pydicom.config import disable_value_validation
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

import run
from ct.storage.file_formats import read_table

PRIVATE = ("names.csv", "quarantine.csv")  # the only files that may hold names
COMPRESSED = (JPEGBaseline8Bit, JPEGLSLossless, JPEG2000Lossless, RLELossless)
IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
CODES = {
    "Modality": "CT",
    "BodyPartExamined": "HEAD",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
}


def damage(folder, sources, names, **codes):
    """Write unusable files under planted names: no DICOM, no Rows, a copy, bad codecs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name_of(100)).write_text(name_of(101))
    plant(sources[0], folder / name_of(102), names, Rows=None, **codes)
    plant(sources[0], folder / name_of(103), names, **codes)
    plant(
        sources[0],
        folder / name_of(104),
        names,
        SOPInstanceUID=name_of(105),
        PixelData=None,
        **codes,
    )
    plant(
        sources[0],
        folder / name_of(112),
        names,
        SOPInstanceUID=name_of(113),
        PhotometricInterpretation=name_of(114),
        **codes,
    )
    for number, (syntax, source) in enumerate(
        zip((*COMPRESSED, name_of(106)), sources[1:], strict=False), 107
    ):
        plant(source, folder / f"{name_of(number)}.dcm", names, syntax, **codes)


@pytest.fixture(scope="module")
def planted(competition, tmp_path_factory):
    """The micro competition with planted names everywhere but in the slice ids of its csv files."""
    data, names = tmp_path_factory.mktemp("planted") / "data", every_tag()
    inner = data / name_of(200) / name_of(201)
    for number, source in enumerate(sorted(competition.glob("stage_2_*/*.dcm"))):
        folder = inner / source.parent.name / f"{name_of(300 + number // 5)}"
        with disable_value_validation():
            there = pydicom.dcmread(source)
            ids = {tag: name_of(400) + there[tag].value for tag in IDENTIFIERS[:3]}
        plant(source, folder / f"{name_of(500 + number)}.{name_of(202)}", names, **ids)
    for csv in competition.glob("*.csv"):
        shutil.copy(csv, inner / csv.name)
    train = sorted((inner / "stage_2_train").rglob("*Z*QZ"))
    train = [path for path in train if path.is_file()]
    first = sorted(competition.glob("stage_2_train/*.dcm"))[0].stem
    # the competition's own, but for its end
    train[0] = train[0].rename(inner / "stage_2_train" / f"{first}.{name_of(203)}")
    damage(inner / "stage_2_train" / name_of(204), train[:1] + train[10:15], names)
    for path in train[10:15]:
        path.unlink()  # in its place there is now the damaged one
    return data


@pytest.fixture(scope="module")
def foreign_studies(competition, tmp_path_factory):
    """New studies: a head CT's code words, planted names in their place, damaged files."""
    data, names = tmp_path_factory.mktemp("foreign") / "data", every_tag()
    sources = sorted(competition.glob("stage_2_test/*.dcm"))
    for study, codes in enumerate((CODES, {})):
        for number, source in enumerate(sources):
            ids = [
                name_of(600 + study),
                name_of(610 + study),
                name_of(620 + study),
                name_of(700 + 10 * study + number),
            ]
            target = data / name_of(630 + study) / name_of(800 + 10 * study + number)
            plant(source, target, names, **dict(zip(IDENTIFIERS, ids, strict=True)), **codes)
    damage(data / name_of(640), [*sources, sources[0]], names, **CODES)
    return data


def call(capfd, *words, status=0):
    """Run a verb in this process; its output must hold no planted name."""
    assert run.main([*words]) == status, capfd.readouterr()
    printed = capfd.readouterr()
    assert not PLANTED.search((printed.out + printed.err).encode()), printed
    return printed


def check_quarantine(folder):
    """The quarantine names the files: the search below has something to find."""
    table = pd.read_csv(folder / "quarantine.csv")
    assert len(table) >= 8 and table["path"].str.contains("ZQX").all()
    assert (
        not table["reason"]
        .str.replace("same SOPInstanceUID as .*", "", regex=True)
        .str.contains("ZQX")
        .any()
    )
    assert table["reason"].str.contains("cannot be decoded").sum() >= 3


def test_ingest_leaves_no_planted_name(planted, tmp_path, capfd):
    words = [f"--run={tmp_path / 'r'}", "--workers=1"]
    call(capfd, "new", words[0], "--recipe=micro", f"--data={planted}", "--allow-unlabelled")
    call(capfd, "ingest", *words)
    assert planted_in(tmp_path / "r", PRIVATE) == {}
    check_quarantine(tmp_path / "r")
    slices = read_table(tmp_path / "r" / "slices.parquet")
    assert len(slices) > 30 and slices["patient_id"].str.fullmatch("[0-9a-f]{12}").all()
    assert (slices["transfer_syntax"] == "?").any() and slices["path"].str.fullmatch(
        "stage_2_(train|test)/(ID_)?[0-9a-f]+"
    ).all()


@pytest.mark.parametrize("words", [[], ["--anyway"]])
def test_score_leaves_no_planted_name(finished, foreign_studies, tmp_path, capfd, words):
    call(
        capfd,
        "score",
        f"--run={finished}",
        f"--data={foreign_studies}",
        f"--to={tmp_path / 'out'}",
        "--workers=1",
        *words,
    )
    assert planted_in(tmp_path / "out", PRIVATE) == {}
    check_quarantine(tmp_path / "out")
    remarks = pd.read_csv(tmp_path / "out" / "remarks.csv")["what"]
    assert {
        "the modality is not a known one",
        "BodyPartExamined is not a known body part",
    } <= set(remarks)
    names = pd.read_csv(tmp_path / "out" / "names.csv")
    assert (
        names["sop_uid"].str.contains("ZQX").sum() == 12 and names["path"].str.contains("ZQX").all()
    )


def test_the_search_for_planted_names_finds_them(tmp_path):
    """In a path, in text of any case, in the cells, index and notes of a parquet table."""
    planted_table = pd.DataFrame({"a": [1]}, index=pd.Index([name_of(1)], name="id"))
    planted_table.to_parquet(tmp_path / "index.parquet", compression="zstd")
    pd.DataFrame({name_of(2): [1]}).to_parquet(tmp_path / "column.parquet", compression="zstd")
    pd.DataFrame({"a": [name_of(3)] * 50}).to_parquet(tmp_path / "cell.parquet", compression="zstd")
    pd.DataFrame({"a": ["ZQX"]}).to_parquet(tmp_path / "none.parquet")
    (tmp_path / "a.html").write_text(f"<b>{name_of(4).lower()}</b>")
    (tmp_path / "names.csv").write_text(name_of(5))
    (tmp_path / name_of(6)).mkdir()
    paths = planted_in(tmp_path, ("names.csv",))
    assert set(paths) == {"index.parquet", "column.parquet", "cell.parquet", "a.html", name_of(6)}


def test_no_verb_opens_a_connection(finished, foreign_studies, tmp_path, capfd, monkeypatch):
    """In the process of the verb; the recipe names no pretrained weights and no database."""
    connections = []

    def connect(self, address):
        connections.append(address)
        raise OSError("no network here")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(f"socket.socket.{name}", connect)
    folder = shutil.copytree(finished, tmp_path / "r")
    (folder / "receipts" / "report.json").unlink()
    call(capfd, "all", f"--run={folder}", "--workers=1")
    call(capfd, "export-model", f"--run={folder}", f"--to={tmp_path / 'model'}")
    call(
        capfd,
        "score",
        f"--model={tmp_path / 'model'}",
        f"--data={foreign_studies}",
        f"--to={tmp_path / 'out'}",
        "--workers=1",
    )
    assert connections == []


@pytest.mark.slow
def test_every_verb_leaves_no_planted_name(
    planted, foreign_studies, stacking, tmp_path, command, capfd
):
    """The longest two in processes of their own, with workers, bars and all."""
    folder, model = f"--run={tmp_path / 'r'}", tmp_path / "model"
    call(capfd, "new", folder, f"--recipe={stacking}", f"--data={planted}", "--allow-unlabelled")
    everything = command("all", folder, "--workers=2")
    call(capfd, "export-model", folder, f"--to={model}")
    scored = command(
        "score",
        f"--model={model}",
        f"--data={foreign_studies}",
        f"--to={tmp_path / 'out'}",
        "--workers=2",
    )
    for done in (everything, scored):
        assert done.returncode == 0 and not PLANTED.search((done.stdout + done.stderr).encode()), (
            done
        )
    study = read_table(tmp_path / "r" / "slices.parquet")["study_id"].iloc[0]
    for words in (
        ["status", "--json"],
        ["submit", "--stage=one"],
        ["search", "--trials=1"],
        ["report", f"--study={study}"],
    ):
        call(capfd, words[0], folder, *words[1:])
    assert planted_in(tmp_path, PRIVATE) == {}
    page = (tmp_path / "r" / "report.html").read_text()
    assert "same SOPInstanceUID as another file" in page and "cannot be decoded" in page
