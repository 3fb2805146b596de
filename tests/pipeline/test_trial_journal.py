"""The journal of a study: killed, damaged in any way, of an older version; interrupted at any
moment.
"""

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
from pipeline.optuna_studies.trial_journal import Journal, open_study
from pipeline.stages.tune import is_usable
from stage2_stack.tuning.booster_trials import run_trials
from stage2_stack.tuning.search_space import SPACE

optuna.logging.set_verbosity(optuna.logging.CRITICAL)
TRIALS = 7


class MadeUp:
    """Stands for InnerFolds: a loss that is a function of the settings."""

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
    ]  # noqa: E501


def opened(path, said=None):
    return open_study(path, {"a": 1}, (said if said is not None else []).append, is_usable)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The bytes of a journal with its seal, the outcome of its study, and the bytes of an older
    version's journal.
    """
    path = tmp_path_factory.mktemp("whole") / "a.journal"
    study = opened(path)
    run_trials(study, MadeUp(), TRIALS, seed=5)
    old = path.with_name("old.journal")
    storage = JournalStorage(JournalFileBackend(str(old)))
    run_trials(
        optuna.create_study(study_name="tune", storage=storage, direction="minimize"),
        MadeUp(),
        TRIALS,
        seed=5,
    )
    return (
        path.read_bytes(),
        path.with_name("a.journal.seal").read_bytes(),
        outcome(study),
        old.read_bytes(),
    )


def put(folder, journal, seal=None):
    """Put a journal of a study with the inputs of `opened` into a folder. Returns its path."""
    path = folder / "a.journal"
    path.write_bytes(journal)
    write_text(path.with_suffix(".inputs.json"), json.dumps({"a": 1}))
    if seal is not None:
        path.with_name("a.journal.seal").write_bytes(seal)
    return path


def mutations(whole, count, seed):
    """Yield (what, bytes): flipped bytes, cuts, lines twice or gone, zeros, wrong types, numbers
    out of range.
    """
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
            ),  # noqa: E501
            (
                "range",
                whole.replace(b'"trial_id":1', b'"trial_id":99', 3).replace(
                    b'"op_code":5', b'"op_code":77', 1
                ),
            ),
            ("letters", whole[:at] + b"\xff\xfe" + whole[at + 2 :]),
        ]
        yield kinds[number % len(kinds)]


def test_a_sealed_journal_is_used_only_with_the_bytes_that_were_sealed(unbroken, tmp_path):
    journal, seal, want, _ = unbroken
    for number, (kind, damaged) in enumerate(mutations(journal, 36, seed=1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        said, path = [], put(folder, damaged, seal)
        study = opened(path, said)
        if damaged != journal:
            assert (
                len(said) == 1 and "a.journal is damaged" in said[0] and "begins anew" in said[0]
            ), kind
            assert not study.trials
        run_trials(study, MadeUp(), TRIALS, seed=5)
        assert outcome(opened(path)) == want, kind


@pytest.mark.parametrize("seal", [b"", b"12", b"x y\n", b"\xff\xfe\n", b"999999 0123\n"])
def test_a_damaged_seal_is_not_accepted(unbroken, tmp_path, seal):
    said = []
    assert not opened(put(tmp_path, unbroken[0], seal), said).trials
    assert len(said) == 1 and "begins anew" in said[0]


DAMAGED = [b"", b'{"a": 3}', b'{"a": 1', b"\xff", b"[" * 5000, None]


@pytest.mark.parametrize("note", DAMAGED)
def test_a_damaged_note_of_the_inputs_loses_no_trial(unbroken, tmp_path, note):
    """The digest of the inputs is in the seal, so that the note is written anew."""
    path, said = put(tmp_path, unbroken[0], unbroken[1]), []
    marker = path.with_suffix(".inputs.json")
    marker.unlink() if note is None else marker.write_bytes(note)
    assert outcome(opened(path, said)) == unbroken[2] and not said
    assert json.loads(marker.read_bytes()) == {"a": 1}
    # other inputs: no damage
    assert not open_study(path, {"a": 2}, said.append, is_usable).trials and not said


@pytest.mark.parametrize("note", [note for note in DAMAGED if note != b'{"a": 3}'])
def test_a_damaged_note_with_a_seal_without_inputs_is_logged(unbroken, tmp_path, note):
    path, said = put(tmp_path, unbroken[0], b" ".join(unbroken[1].split()[:2])), []
    marker = path.with_suffix(".inputs.json")
    marker.unlink() if note is None else marker.write_bytes(note)
    assert not opened(path, said).trials
    assert said == ["  a.inputs.json is damaged or missing; this search begins anew"]
    run_trials(opened(path, said), MadeUp(), TRIALS, seed=5)
    assert outcome(opened(path, said)) == unbroken[2] and len(said) == 1


def test_an_older_seal_is_continued_and_gets_its_inputs(unbroken, tmp_path):
    path, said = put(tmp_path, unbroken[0], b" ".join(unbroken[1].split()[:2])), []
    run_trials(opened(path, said), MadeUp(), TRIALS + 1, seed=5)
    seal = path.with_name("a.journal.seal").read_bytes()
    assert not said and seal.split()[2:] == unbroken[1].split()[2:] and len(seal.split()) == 3


def test_a_seal_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    """After a power cut it would be empty, and the whole journal count as damaged."""
    seen, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: seen.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: seen.append(str(b)) or replace(a, b))
    Journal(tmp_path / "a.journal").append_logs([{"op_code": 6, "state": int(TrialState.COMPLETE)}])
    assert seen == [
        str(tmp_path / name) for name in ("a.journal", "a.journal.seal.part", "a.journal.seal")
    ]


def test_a_half_removed_journal_is_not_taken_for_one_of_an_older_version(
    unbroken, tmp_path, monkeypatch
):
    path = put(tmp_path, unbroken[0].replace(b'"value":', b'"valve":', 1), unbroken[1])
    calls = []

    def cut(what):
        calls.append(what)
        if len(calls) == 3:  # optuna's lock, and one of the journal and its seal
            raise KeyboardInterrupt
        what.unlink(missing_ok=True)

    monkeypatch.setattr(pipeline.optuna_studies.trial_journal, "discard", cut)
    with pytest.raises(KeyboardInterrupt):
        opened(path)
    monkeypatch.undo()
    assert (
        path.with_name("a.journal.seal").exists() and not path.exists() and not opened(path).trials
    )


def test_a_whole_journal_of_an_older_version_is_used(unbroken, tmp_path):
    said = []
    study = opened(put(tmp_path, unbroken[3]), said)
    assert not said and outcome(study) == unbroken[2]
    run_trials(study, MadeUp(), TRIALS + 1, seed=5)
    assert (tmp_path / "a.journal.seal").exists() and len(
        opened(tmp_path / "a.journal").trials
    ) == TRIALS + 1


def test_a_damaged_journal_of_an_older_version_is_logged_and_begun_anew(unbroken, tmp_path):
    """Without a seal a changed digit passes; all else is begun anew or continued, and the search
    comes to its end.
    """
    lines = 0
    for number, (kind, damaged) in enumerate(mutations(unbroken[3], 45, seed=2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        said, path = [], put(folder, damaged)
        study = opened(path, said)
        run_trials(study, MadeUp(), TRIALS, seed=5)
        assert (
            len([t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)])
            >= TRIALS
        ), kind
        assert len(said) <= 1
        lines += len(said)
    assert lines > 15


def test_a_trial_that_did_not_end_is_cut_off(unbroken, tmp_path):
    path = put(tmp_path, unbroken[0], unbroken[1])
    opened(path).ask(SPACE)
    assert path.stat().st_size > len(unbroken[0])
    assert outcome(opened(path)) == unbroken[2]
    assert (
        path.read_bytes().startswith(unbroken[0])
        and b'"op_code":4' not in path.read_bytes()[len(unbroken[0]) :]
    )


def test_a_study_interrupted_at_any_moment_is_continued(unbroken, tmp_path, monkeypatch):
    """The interrupt comes in the middle of each write in turn; optuna then writes that the trial
    has failed.
    """
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
            run_trials(opened(folder / "a.journal"), MadeUp(), TRIALS, seed=5)
            if moment:
                break
        except (
            KeyboardInterrupt,
            UnboundLocalError,
        ):  # the second is what optuna makes of some of the first
            pass
        monkeypatch.setattr(os, "pwrite", pwrite)
        said = []
        run_trials(opened(folder / "a.journal", said), MadeUp(), TRIALS, seed=5)
        assert not said and outcome(opened(folder / "a.journal")) == unbroken[2], moment
        moment += 7 if moment else 1
    assert moment > 40


def test_a_full_disk_is_a_machine_fault_and_loses_no_trial(unbroken, tmp_path, monkeypatch):
    path = put(tmp_path, unbroken[0], unbroken[1])
    study, pwrite = opened(path), os.pwrite

    def full(handle, data, at):
        pwrite(handle, data[:5], at)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        study.ask()
    monkeypatch.undo()
    said = []
    assert outcome(opened(path, said)) == unbroken[2] and not said


def test_a_journal_that_is_a_link_is_replaced_and_its_target_stays(unbroken, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(unbroken[3])
    path = tmp_path / "run" / "a.journal"
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    write_text(path.with_suffix(".inputs.json"), json.dumps({"a": 1}))
    run_trials(opened(path), MadeUp(), TRIALS + 1, seed=5)
    assert elsewhere.read_bytes() == unbroken[3] and not path.is_symlink()
    with pytest.raises(OSError):
        link = tmp_path / "run" / "b.journal"
        link.symlink_to(elsewhere)
        journal = Journal(link)
        link.unlink()
        link.symlink_to(elsewhere)
        journal.append_logs([{"op_code": 4}])
