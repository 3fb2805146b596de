"""A byte flipped on the disk, size and time unchanged, is found and named before it is used."""

import json
import os
import shutil

import kept_runs
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

import run
from ct.errors import InputError
from ct.pixel_cache.reader import PixelCache
from ct.run_dir import RunDir
from ct.storage.file_formats import read_table, write_table, write_text
from ct.storage.receipt_reader import read_receipt
from ct.storage.sealed_files import seal
from pipeline.freshness import stamp
from pipeline.integrity import check_content, damaged_files, receipt_paths
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_runner import stage_states
from pipeline.training.checkpoint_file import write_checkpoint
from stage1_cnn.state_tensors import TrainingState

RUN = kept_runs.names("run")
# files that no stage makes, and the stages' receipts
NOT_MADE = ("key", "recipe.yaml", ".lock", "receipts/", "search/")
OF_TRIALS = (".journal", ".inputs.json", ".receipt.json", "train.json", "predict.json")
MADE = [name for name in RUN if not name.startswith(NOT_MADE) and not name.endswith(OF_TRIALS)]
READERS = {  # verb -> how the names of the files begin that it reads and that change its result
    "score": (
        "slices",
        "folds",
        "stage1/cnn/fold1/weights",
        "stage2/blend",
        "stage2/boosters",
        "stage2/calibration.json",
        "stage2/features/names",
        "stage2/features/chain",
        "stage2/features/probes",
        "stage2/oof",
    ),
    "export-model": (
        "slices",
        "folds",
        "stage1/cnn/fold1/weights",
        "stage2/blend",
        "stage2/boosters",
        "stage2/calibration.json",
        "stage2/features/names",
        "stage2/oof",
    ),
    "stack": (
        "slices",
        "folds",
        "stage2/features/train",
        "stage2/features/test",
        "stage2/features/names",
        "stage2/configs",
    ),
    "tune": ("slices", "folds", "stage2/features/train"),
    "submit": ("slices", "quarantine", "stage2/test"),
    "report": (
        "slices",
        "quarantine",
        "ingest.json",
        "folds",
        "pixels/",
        "stage1/cnn/oof",
        "stage1/cnn/fold0/curve",
        "stage1/cnn/fold0/test.parquet",
        "stage2/oof",
        "stage2/test.parquet",
        "stage2/scores",
        "stage2/trials",
        "stage2/calibrated",
        "stage2/importances",
        "stage2/contributions",
        "stage2/tuning",
        "stage2/configs",
        "stage2/features/names",
    ),
    "predict": ("slices", "pixels/", "stage1/cnn/fold1/weights"),
    "features": (
        "slices",
        "folds",
        "stage1/cnn/oof",
        "stage1/cnn/fold0/held_out",
        "stage1/cnn/fold0/test",
    ),
}
READS = [
    (verb, name) for verb, starts in READERS.items() for name in MADE if name.startswith(starts)
]


def flip(path, share=0.6):
    """Flip one bit in the middle of a file; its size and time stay."""
    before, bytes_ = os.stat(path), bytearray(path.read_bytes())
    bytes_[int(len(bytes_) * share)] ^= 1
    path.write_bytes(bytes_)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def words_of(verb, kept):
    if verb == "score":
        return [f"--run={kept}", f"--data={kept.parent}", f"--to={kept.parent.parent / 'out'}"]
    return [f"--run={kept}"] + [f"--to={kept.parent / 'model'}"] * (verb == "export-model")


@pytest.mark.parametrize(("verb", "name"), READS)
def test_what_a_verb_reads_is_verified_before_it_is_used(kept, verb, name, capsys):
    flip(kept / name)
    if verb in STAGES:
        (kept / "receipts" / f"{verb}.json").unlink()  # it has to work
    before = {
        path: path.read_bytes()
        for path in kept.rglob("*")
        if path.is_file() and "receipts" not in path.parts
    }
    assert run.main([verb, *words_of(verb, kept)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{name} is damaged" in err and "or `all`" in err
    after = {
        path: path.read_bytes()
        for path in kept.rglob("*")
        if path.is_file() and "receipts" not in path.parts
    }
    assert {p: b for p, b in after.items() if p.name != ".lock"} == {
        p: b for p, b in before.items() if p.name != ".lock"
    }
    maker = next(
        stage
        for stage in STAGES
        if name in read_receipt(kept / "receipts" / f"{stage}.json")["made"]
    )
    # so that `all` makes it again
    assert stage_states(Run(kept))[maker] == ("stale", f"{name} is damaged")


def test_large_files_are_verified_only_for_verbs_that_read_them(kept):
    """Pixels of 750,000 slices take 49 GB, features 5 GB: `score` must not read them."""
    fold0 = "stage1/cnn/fold0"
    large = (
        "pixels/shard-00000.blosc2",
        "stage2/features/train.npy",
        f"{fold0}/weights.safetensors",
        f"{fold0}/held_out_embeddings.npy",
    )
    for name in large:
        flip(kept / name)
    check_content(
        RunDir(kept), "submit", ["ingest", "folds", "train", "predict", "features", "stack"]
    )
    readers = {"score": large[2], "stack": large[1], "search": large[0], "features": large[3]}
    for verb, name in readers.items():
        with pytest.raises(InputError, match=f"{name} is damaged"):
            check_content(RunDir(kept), verb, ["ingest", "folds", "train", "features"])


def test_shards_with_checksums_are_verified_while_decoding(kept):
    flip(kept / "pixels" / "shard-00000.blosc2")
    receipt = json.loads((kept / "receipts/ingest.json").read_text())
    checksums = read_table(kept / "pixels/index.parquet").assign(crc32=np.uint32(0))[["crc32"]]
    write_table(kept / "pixels/checksums.parquet", checksums)
    receipt["made"]["pixels/checksums.parquet"] = stamp(kept / "pixels/checksums.parquet")
    (kept / "receipts/ingest.json").write_text(json.dumps(receipt))
    check_content(RunDir(kept), "train", ["ingest"])


def test_the_remedy_in_the_line_of_a_damaged_shard_repairs_it(competition, tmp_path):
    r = tmp_path / "r"
    assert run.main(["new", f"--run={r}", "--recipe=micro", f"--data={competition}"]) == 0
    assert run.main(["ingest", f"--run={r}", "--workers=1"]) == 0
    shard = r / "pixels" / "shard-00000.blosc2"
    whole = shard.read_bytes()
    flip(shard)
    with pytest.raises(
        InputError, match="shard-00000.blosc2 is damaged .*remove it and run ingest"
    ):
        PixelCache(r / "pixels").read(np.arange(len(read_table(r / "slices.parquet"))))
    shard.unlink()
    assert run.main(["ingest", f"--run={r}", "--workers=1"]) == 0
    assert shard.read_bytes() == whole


def test_every_damaged_file_is_named(kept):
    r = RunDir(kept)
    assert damaged_files(r) == [] and len(MADE) > 40
    for name in MADE:
        known = {path: path.read_bytes() for path in receipt_paths(r)}
        flip(kept / name)
        assert [why for why, _ in damaged_files(r)] == [f"{name} is damaged"], name
        flip(kept / name)  # back
        for path, text in known.items():
            path.write_bytes(text)


def test_status_verify_names_damaged_files(kept, capsys):
    assert run.main(["status", f"--run={kept}", "--verify"]) == 0
    assert "every file was read" in capsys.readouterr().out
    flip(kept / "stage2/blend.json")
    assert run.main(["status", f"--run={kept}"]) == 0 and "damaged" not in capsys.readouterr().out
    assert run.main(["status", f"--run={kept}", "--verify"]) == 1
    out, err = capsys.readouterr()
    assert "  stage2/blend.json is damaged, made by `stack`" in out and "stale" in out
    assert "1 file damaged or gone, the first: stage2/blend.json is damaged" in err


def test_every_damaged_file_is_named_at_once(kept, capsys):
    for name in ("stage2/blend.json", "folds.parquet"):
        flip(kept / name)
    (kept / "stage2" / "oof.parquet").unlink()
    (kept / "receipts" / "submit.json").write_text("{")
    assert {why for why, _ in damaged_files(RunDir(kept))} == {
        "stage2/blend.json is damaged",
        "folds.parquet is damaged",
        "stage2/oof.parquet is gone",
        "receipts/submit.json is damaged",
    }
    assert run.main(["status", f"--run={kept}", "--verify", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["damaged"]) == 4


def test_unfinished_work_is_verified_too(kept, half, capsys):
    checkpoint = half / "stage1/cnn/fold1/checkpoint.safetensors"
    assert damaged_files(RunDir(half)) == []
    with safe_open(checkpoint, "pt") as file:
        header = file.metadata()
    state = TrainingState(load_file(checkpoint), json.loads(header["state"]))
    write_checkpoint(checkpoint, state, header["same"], {}, [])
    assert damaged_files(RunDir(half)) == []
    flip(checkpoint)
    assert damaged_files(RunDir(half)) == [
        ("stage1/cnn/fold1/checkpoint.safetensors is damaged", "")
    ]
    assert run.main(["tune", f"--run={kept}", "--trials=4", "--workers=1"]) == 0
    assert damaged_files(RunDir(kept)) == []
    flip(kept / "stage2/tune/any-fold1.journal")
    assert damaged_files(RunDir(kept)) == [("stage2/tune/any-fold1.journal is damaged", "")]


def test_only_damaged_files_are_made_again(finished, tmp_path, capsys):
    """Nothing is read again from the source, and what comes after the damage is as it was."""
    folder = shutil.copytree(finished, tmp_path / "r")
    before = {path: path.read_bytes() for path in (folder / "stage2").glob("*.*")}
    capsys.readouterr()
    flip(folder / "stage1/resnet/fold1/weights.safetensors")
    flip(folder / "stage2/features/train.npy")
    assert run.main(["status", f"--run={folder}", "--verify"]) == 1
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    out = capsys.readouterr().out
    assert out.count(", kept") == 1  # the CNN of fold 0
    assert "all: train, features made in" in out
    assert {path: path.read_bytes() for path in before} == before
    assert stage_states(Run(folder)) == dict.fromkeys(STAGES, ("fresh", ""))
    assert damaged_files(RunDir(folder)) == []


def test_damaged_files_of_an_older_version_are_made_again(kept, capsys):
    """Whatever bits this processor gives the new weights and features, up to `stack`."""
    flip(kept / "stage1/cnn/fold1/weights.safetensors")
    flip(kept / "stage2/features/train.npy")
    assert run.main(["status", f"--run={kept}", "--verify"]) == 1
    for stage in ("train", "predict", "features", "tune", "stack"):
        assert run.main([stage, f"--run={kept}", "--workers=1"]) == 0
    assert capsys.readouterr().out.count(", kept") == 1  # the CNN of fold 0
    assert damaged_files(RunDir(kept)) == []


def test_a_damaged_unit_is_not_kept_when_its_stage_works_again(kept, capsys):
    """Damaged weights of a fold, not noticed before, enter no new receipt."""
    flip(kept / "stage1/cnn/fold0/weights.safetensors")
    (kept / "receipts/train.json").unlink()
    assert run.main(["train", f"--run={kept}"]) == 0
    assert capsys.readouterr().out.count(", kept") == 1
    assert damaged_files(RunDir(kept)) == []


def test_a_damaged_result_of_tune_is_not_used(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "r")
    path = folder / "stage2/tune/any-fold1.json"
    whole = path.read_bytes()
    flip(path)
    (folder / "receipts/tune.json").unlink()
    assert run.main(["tune", f"--run={folder}", "--workers=1"]) == 0
    assert path.read_bytes() == whole


def test_a_restored_file_is_fresh_again(kept, capsys):
    whole = (kept / "stage2/blend.json").read_bytes()
    flip(kept / "stage2/blend.json")
    assert run.main(["status", f"--run={kept}", "--verify"]) == 1
    (kept / "stage2/blend.json").write_bytes(whole)
    assert run.main(["status", f"--run={kept}", "--verify"]) == 0


def test_a_damaged_model_folder_is_refused_file_by_file(older_version, tmp_path, capsys):
    names = [
        path.relative_to(older_version / "model")
        for path in (older_version / "model").rglob("*")
        if path.is_file()
    ]
    assert len(names) >= 7
    for name in names:
        model = shutil.copytree(older_version / "model", tmp_path / name.name.replace(".", "-"))
        flip(model / name, 0.97 if name.name == "model.json" else 0.6)  # its last digest
        words = [
            "score",
            f"--model={model}",
            f"--data={older_version / 'dicom'}",
            f"--to={tmp_path / 'out'}",
        ]
        assert run.main(words) == 1, name
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and (str(name) in err or name.name == "model.json"), (name, err)


def test_folders_in_place_of_files_are_named(kept, capsys):
    """In place of receipts, outputs of stages, and sealed pieces of unfinished work."""
    for name in ("a", "b"):
        write_text(kept / "ingest.part" / name, "x")
        seal(kept / "ingest.part" / name)
    folders = [
        "receipts/submit.json",
        "stage1/cnn/fold0/train.json",
        "ingest.json",
        "stage2/blend.json",
        "ingest.part/a",
        "ingest.part/b.seal",
        "stage1/cnn/fold0/checkpoint.safetensors",
        "search/cnn-fold0.journal",
    ]
    write_text(kept / "search/cnn-fold0.journal.seal", "1 x")
    for name in folders:
        (kept / name).unlink(missing_ok=True)
        (kept / name).mkdir()
    assert run.main(["status", f"--run={kept}", "--verify"]) == 1
    out, err = capsys.readouterr()
    assert [
        name for name in folders if f"  {name.removesuffix('.seal')} is damaged" not in out
    ] == [], err
    assert err.count("\n") == 1 and f"{len(folders)} files damaged" in err


@pytest.mark.parametrize(
    "spoil", [flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()]
)
@pytest.mark.parametrize(
    "verb", ["submit", "score", "ingest", "export-model", "import-predictions", "tune"]
)
def test_a_key_other_than_ingests_is_refused(finished, competition, tmp_path, verb, spoil, capsys):
    r = shutil.copytree(finished, tmp_path / "run")
    spoil(r / "key")
    (r / "receipts" / "submit.json").unlink()
    words = {
        "score": [f"--data={competition / 'stage_2_test'}", f"--to={tmp_path / 'out'}"],
        "export-model": [f"--to={tmp_path / 'out'}"],
        "import-predictions": ["--name=a", f"--oof={tmp_path / 'oof.csv'}"],
    }.get(verb, [])
    (tmp_path / "oof.csv").write_text("slice_id\n")
    before = (r / "slices.parquet").read_bytes()
    assert run.main([verb, f"--run={r}", *words]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.endswith(
        "; put it back from a copy of the run, or make a new run\n"
    ), err
    assert f"{r / 'key'} is " in err
    assert (r / "slices.parquet").read_bytes() == before and (
        r / "receipts" / "ingest.json"
    ).is_file()
    assert run.main(["status", f"--run={r}", "--verify"]) == 1
    out = capsys.readouterr().out
    assert "key" in out
    assert stage_states(Run(r))["ingest"] == (
        "stale",
        "the key is damaged or gone, put it back from a copy of the run",
    )


def test_damaged_maps_are_refused_by_report_and_made_again_by_explain(kept, capsys):
    study = read_table(kept / "slices.parquet")["study_id"].iloc[0]
    assert run.main(["explain", f"--run={kept}", f"--studies={study}"]) == 0
    path = kept / "stage1/cnn/explain" / f"{study}.npy"
    whole = path.read_bytes()
    flip(path)
    assert damaged_files(RunDir(kept)) == [(f"stage1/cnn/explain/{study}.npy is damaged", "")]
    assert run.main(["report", f"--run={kept}"]) == 1
    assert f"{study}.npy, which is damaged; run `explain`" in capsys.readouterr().err
    assert run.main(["explain", f"--run={kept}", f"--studies={study}"]) == 0
    assert path.read_bytes() == whole and run.main(["report", f"--run={kept}"]) == 0


def test_a_damaged_receipt_is_never_a_traceback(kept):
    """Whatever byte of it changes: its stage is fresh still, or stale, or not made."""
    rng, paths = np.random.default_rng(0), receipt_paths(RunDir(kept))
    for number in range(60):
        path = paths[number % len(paths)]
        whole = path.read_bytes()
        spoilt = bytearray(whole)
        spoilt[rng.integers(len(whole))] = rng.choice(list(b'{}[]",:0\xff'))
        path.write_bytes(spoilt)
        damaged = [why for why, _ in damaged_files(RunDir(kept), marks=False)]
        assert (f"{path.relative_to(kept)} is damaged" in damaged) == (read_receipt(path) is None)
        assert {kind for kind, _ in stage_states(Run(kept)).values()} <= {
            "fresh",
            "stale",
            "missing",
        }
        path.write_bytes(whole)


def test_a_report_is_written_without_an_unreadable_receipt(kept):
    (kept / "receipts" / "submit.json").write_text('{"made": [')
    (kept / "receipts" / "report.json").unlink()
    assert run.main(["report", f"--run={kept}"]) == 0


def test_a_shard_that_was_removed_for_its_damage_is_made_again_by_ingest(kept):
    """The remedy that the line about a damaged shard names."""
    (kept / "pixels/shard-00000.blosc2").unlink()
    assert stage_states(Run(kept))["ingest"] == ("stale", "pixels/shard-00000.blosc2 is gone")
