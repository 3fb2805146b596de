"""The journal of a study: interrupted at any moment, damaged, or of an older version."""

import json
import os
import random

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import pipeline.optuna_studies.trial_journal
from ct.storage.file_formats import write_text
from pipeline.optuna_studies.booster_search import is_usable
from pipeline.optuna_studies.trial_journal import Journal, open_study
from stage2_stack.tuning.booster_trials import run_trials
from stage2_stack.tuning.search_space import SPACE

optuna.logging.set_verbosity(optuna.logging.CRITICAL)
TRIALS = 7


class FakeFolds:
    """Stands for InnerFolds: the loss is a function of the settings."""

    def evaluate(self, params, report=None):
        loss = float(
            np.log(params["learning_rate"] * params["num_leaves"]) ** 2 + params["lambda_l2"] / 100
        )
        for step in (1, 2):
            if report:
                report(step, loss * step)
        return loss, int(params["num_leaves"])


def outcome(study):
    return [
        (t.params, t.value, t.state, t.user_attrs, t.intermediate_values)
        for t in study.get_trials()
        if t.state != TrialState.FAIL
    ]


def opened(path, lines=None):
    """Open the study of the inputs {"a": 1}; what it logs is appended to `lines`."""
    return open_study(path, {"a": 1}, (lines if lines is not None else []).append, is_usable)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return (bytes of a journal, of its seal, outcome of the study, bytes of an older journal)."""
    path = tmp_path_factory.mktemp("whole") / "a.journal"
    study = opened(path)
    run_trials(study, FakeFolds(), TRIALS, seed=5)
    old = path.with_name("old.journal")
    storage = JournalStorage(JournalFileBackend(str(old)))
    run_trials(
        optuna.create_study(study_name="tune", storage=storage, direction="minimize"),
        FakeFolds(),
        TRIALS,
        seed=5,
    )
    return (
        path.read_bytes(),
        path.with_name("a.journal.seal").read_bytes(),
        outcome(study),
        old.read_bytes(),
    )


def write_journal(folder, journal, seal=None):
    """Write a journal of a study with the inputs of `opened`. Returns its path."""
    path = folder / "a.journal"
    path.write_bytes(journal)
    write_text(path.with_suffix(".inputs.json"), json.dumps({"a": 1}))
    if seal is not None:
        path.with_name("a.journal.seal").write_bytes(seal)
    return path


def mutations(whole, count, seed):
    """Yield (kind of damage, bytes) of `whole`, damaged at random."""
    rng = random.Random(seed)
    lines = whole.splitlines(keepends=True)
    for number in range(count):
        at, line = rng.randrange(len(whole) - 1), rng.randrange(len(lines))
        kinds = [
            ("flip", whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]),
            ("cut", whole[:at]),
            ("twice", b"".join([*lines[: line + 1], *lines[line:]])),
            ("gone", b"".join([*lines[:line], *lines[line + 1 :]])),
            ("zeros", whole[:at] + bytes(200) + whole[at + 200 :]),
            ("empty", b""),
            (
                "types",
                b"".join(
                    [
                        *lines[:line],
                        rng.choice(
                            [b"[]\n", b"7\n", b'"x"\n', b"null\n", b"{}\n", b"[" * 5000 + b"\n"]
                        ),
                        *lines[line:],
                    ]
                ),
            ),
            (
                "range",
                whole.replace(b'"trial_id":1', b'"trial_id":99', 3).replace(
                    b'"op_code":5', b'"op_code":77', 1
                ),
            ),
            ("letters", whole[:at] + b"\xff\xfe" + whole[at + 2 :]),
        ]
        yield kinds[number % len(kinds)]


def test_a_sealed_journal_is_used_only_with_the_bytes_that_were_sealed(uninterrupted, tmp_path):
    journal, seal, expected, _ = uninterrupted
    for number, (kind, damaged) in enumerate(mutations(journal, 36, seed=1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines, path = [], write_journal(folder, damaged, seal)
        study = opened(path, lines)
        if damaged != journal:
            assert (
                len(lines) == 1 and "a.journal is damaged" in lines[0] and "begins anew" in lines[0]
            ), kind
            assert not study.trials
        run_trials(study, FakeFolds(), TRIALS, seed=5)
        assert outcome(opened(path)) == expected, kind


@pytest.mark.parametrize("seal", [b"", b"12", b"x y\n", b"\xff\xfe\n", b"999999 0123\n"])
def test_a_damaged_seal_is_not_accepted(uninterrupted, tmp_path, seal):
    lines = []
    assert not opened(write_journal(tmp_path, uninterrupted[0], seal), lines).trials
    assert len(lines) == 1 and "begins anew" in lines[0]


DAMAGED = [b"", b'{"a": 3}', b'{"a": 1', b"\xff", b"[" * 5000, None]


@pytest.mark.parametrize("note", DAMAGED)
def test_a_damaged_note_of_the_inputs_loses_no_trial(uninterrupted, tmp_path, note):
    """The digest of the inputs is also in the seal, so the note is written again."""
    path, lines = write_journal(tmp_path, uninterrupted[0], uninterrupted[1]), []
    marker = path.with_suffix(".inputs.json")
    marker.unlink() if note is None else marker.write_bytes(note)
    assert outcome(opened(path, lines)) == uninterrupted[2] and not lines
    assert json.loads(marker.read_bytes()) == {"a": 1}
    # other inputs are not damage
    assert not open_study(path, {"a": 2}, lines.append, is_usable).trials and not lines


@pytest.mark.parametrize("note", [note for note in DAMAGED if note != b'{"a": 3}'])
def test_a_damaged_note_with_a_seal_without_inputs_is_logged(uninterrupted, tmp_path, note):
    path, lines = (
        write_journal(tmp_path, uninterrupted[0], b" ".join(uninterrupted[1].split()[:2])),
        [],
    )
    marker = path.with_suffix(".inputs.json")
    marker.unlink() if note is None else marker.write_bytes(note)
    assert not opened(path, lines).trials
    assert lines == ["  a.inputs.json is damaged or missing; this search begins anew"]
    run_trials(opened(path, lines), FakeFolds(), TRIALS, seed=5)
    assert outcome(opened(path, lines)) == uninterrupted[2] and len(lines) == 1


def test_an_older_seal_is_continued_and_gets_its_inputs(uninterrupted, tmp_path):
    path, lines = (
        write_journal(tmp_path, uninterrupted[0], b" ".join(uninterrupted[1].split()[:2])),
        [],
    )
    run_trials(opened(path, lines), FakeFolds(), TRIALS + 1, seed=5)
    seal = path.with_name("a.journal.seal").read_bytes()
    assert not lines and seal.split()[2:] == uninterrupted[1].split()[2:] and len(seal.split()) == 3


def test_a_seal_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """Otherwise a power cut could leave it empty, and the journal would count as damaged."""
    paths, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: paths.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: paths.append(str(b)) or replace(a, b))
    Journal(tmp_path / "a.journal").append_logs([{"op_code": 6, "state": int(TrialState.COMPLETE)}])
    assert paths == [
        str(tmp_path / name) for name in ("a.journal", "a.journal.seal.part", "a.journal.seal")
    ]


def test_a_half_removed_journal_is_not_taken_for_one_of_an_older_version(
    uninterrupted, tmp_path, monkeypatch
):
    path = write_journal(
        tmp_path, uninterrupted[0].replace(b'"value":', b'"valve":', 1), uninterrupted[1]
    )
    calls = []

    def cut(path):
        calls.append(path)
        if len(calls) == 3:  # after optuna's lock and the journal, before its seal
            raise KeyboardInterrupt
        path.unlink(missing_ok=True)

    monkeypatch.setattr(pipeline.optuna_studies.trial_journal, "discard", cut)
    with pytest.raises(KeyboardInterrupt):
        opened(path)
    monkeypatch.undo()
    assert (
        path.with_name("a.journal.seal").exists() and not path.exists() and not opened(path).trials
    )


def test_a_whole_journal_of_an_older_version_is_used(uninterrupted, tmp_path):
    lines = []
    study = opened(write_journal(tmp_path, uninterrupted[3]), lines)
    assert not lines and outcome(study) == uninterrupted[2]
    run_trials(study, FakeFolds(), TRIALS + 1, seed=5)
    assert (tmp_path / "a.journal.seal").exists() and len(
        opened(tmp_path / "a.journal").trials
    ) == TRIALS + 1


def test_a_damaged_journal_of_an_older_version_is_logged_and_begun_anew(uninterrupted, tmp_path):
    """Without a seal a changed digit is not noticed; all other damage is, or it does no harm."""
    logged = 0
    for number, (kind, damaged) in enumerate(mutations(uninterrupted[3], 45, seed=2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        lines, path = [], write_journal(folder, damaged)
        study = opened(path, lines)
        run_trials(study, FakeFolds(), TRIALS, seed=5)
        assert (
            len([t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)])
            >= TRIALS
        ), kind
        assert len(lines) <= 1
        logged += len(lines)
    assert logged > 15


def test_a_trial_that_did_not_end_is_cut_off(uninterrupted, tmp_path):
    path = write_journal(tmp_path, uninterrupted[0], uninterrupted[1])
    opened(path).ask(SPACE)
    assert path.stat().st_size > len(uninterrupted[0])
    assert outcome(opened(path)) == uninterrupted[2]
    assert (
        path.read_bytes().startswith(uninterrupted[0])
        and b'"op_code":4' not in path.read_bytes()[len(uninterrupted[0]) :]
    )


def test_a_study_interrupted_at_any_moment_is_continued(uninterrupted, tmp_path, monkeypatch):
    """The interrupt comes in the middle of a write, each in turn; then the trial is failed."""
    moment, pwrite = 0, os.pwrite
    while True:
        folder, calls = tmp_path / str(moment), []
        folder.mkdir()

        def cut(handle, data, at, calls=calls, moment=moment):
            calls.append(1)
            if len(calls) == moment:
                pwrite(handle, data[: len(data) // 2], at)
                raise KeyboardInterrupt
            return pwrite(handle, data, at)

        monkeypatch.setattr(os, "pwrite", cut)
        try:
            run_trials(opened(folder / "a.journal"), FakeFolds(), TRIALS, seed=5)
            if moment:
                break
        except (KeyboardInterrupt, UnboundLocalError):  # optuna turns some into the second
            pass
        monkeypatch.setattr(os, "pwrite", pwrite)
        lines = []
        run_trials(opened(folder / "a.journal", lines), FakeFolds(), TRIALS, seed=5)
        assert not lines and outcome(opened(folder / "a.journal")) == uninterrupted[2], moment
        moment += 7 if moment else 1
    assert moment > 40


def test_a_full_disk_is_a_machine_fault_and_loses_no_trial(uninterrupted, tmp_path, monkeypatch):
    path = write_journal(tmp_path, uninterrupted[0], uninterrupted[1])
    study, pwrite = opened(path), os.pwrite

    def full(handle, data, at):
        pwrite(handle, data[:5], at)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        study.ask()
    monkeypatch.undo()
    lines = []
    assert outcome(opened(path, lines)) == uninterrupted[2] and not lines


def test_a_journal_that_is_a_link_is_replaced_and_its_target_stays(uninterrupted, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(uninterrupted[3])
    path = tmp_path / "run" / "a.journal"
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    write_text(path.with_suffix(".inputs.json"), json.dumps({"a": 1}))
    run_trials(opened(path), FakeFolds(), TRIALS + 1, seed=5)
    assert elsewhere.read_bytes() == uninterrupted[3] and not path.is_symlink()
    with pytest.raises(OSError):
        link = tmp_path / "run" / "b.journal"
        link.symlink_to(elsewhere)
        journal = Journal(link)
        link.unlink()
        link.symlink_to(elsewhere)
        journal.append_logs([{"op_code": 4}])
