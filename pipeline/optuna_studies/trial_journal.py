"""The journal of an optuna study: a file that one process writes and the next one verifies.

After each trial the journal is flushed to the disk, then its seal is written: the number of bytes,
their digest, and the digest of the study's inputs. Bytes after the sealed ones belong to a trial
that did not end and are cut off. Optuna's own lock is not needed: the lock of the run folder keeps
other processes out.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ct.storage.atomic_write import as_full_disk, discard, flush, replacing
from ct.storage.digests import new_digest, text_digest
from ct.storage.file_formats import write_text
from ct.storage.sealed_files import seal_path
from pipeline.older_versions import with_older_values, without_later_fields

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Journal(BaseJournalBackend):
    """The operations of a study, a line of JSON each.

    inputs: digest of the study's inputs, for the seal. Raises ValueError where the file holds other
    bytes than were sealed.
    """

    def __init__(self, path: Path, inputs: str = "") -> None:
        self.path, self.seal, self.inputs = path, seal_path(path), inputs
        content = path.read_bytes() if path.exists() else b""
        whole = _sealed(self.seal, content)
        self.digest, self.size = new_digest(whole), len(whole)
        self.logs = [json.loads(line) for line in whole.splitlines()]
        if path.is_symlink() or len(whole) < len(content):
            with replacing(path) as part:
                part.write_bytes(whole)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from number `log_number_from` on."""
        yield from self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations after the existing ones.

        The next call writes over what an interrupted call left.
        """
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        data = "".join(f"{line}\n" for line in lines).encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _write_all(handle, data, self.size)
            digest = self.digest.copy()
            digest.update(data)
            if ended := any(log.get("state") in ENDED for log in logs):
                os.fsync(handle)
        except OSError as error:
            raise as_full_disk(error, self.path) or error from None
        finally:
            os.close(handle)
        self.digest, self.size = digest, self.size + len(data)
        # as a later process reads them: tuples become lists
        self.logs = [*self.logs, *(json.loads(line) for line in lines)]
        if ended:
            self._write_seal()

    def _write_seal(self) -> None:
        """Write the size and the digest of the journal, and the digest of its inputs."""
        # not lasting: after a power cut the previous seal is as good
        with replacing(self.seal, lasting=False) as part:
            part.write_text(
                f"{self.size} {self.digest.hexdigest()} {self.inputs}\n", encoding="utf-8"
            )
            flush(part)  # an empty seal would not be as good


def open_study(
    path: Path,
    inputs: dict[str, Any],
    log: Callable[[str], None] = print,
    is_complete: Callable[[FrozenTrial], bool] = lambda trial: True,
) -> Study:
    """Open a minimising optuna study in a file; continue it unless its inputs have changed.

    inputs: plain values, everything that the result of a trial depends on. The number of trials is
    not among them: more trials continue the same study. log: called with one line where the file is
    damaged and a new study begins; is_complete: whether a finished trial has all its attributes,
    for a journal of an older version, which has no seal
    """
    marker, digest = path.with_suffix(".inputs.json"), _inputs_digest(inputs)
    if not _is_noted(marker, inputs):
        if digest != _sealed_inputs(path):
            if _is_damaged(marker) and path.exists():
                log(f"  {marker.name} is damaged or missing; this search begins anew")
            _discard_journal(path)
        write_text(marker, json.dumps(inputs))
    # optuna's lock file, which an older version left when it was killed
    discard(path.with_name(path.name + ".lock"))
    try:
        study = _load_study(path, digest)
        if not seal_path(path).exists():
            _check_trials(study, is_complete)
        return study
    except (OSError, MemoryError):
        raise  # the machine's fault
    except Exception:  # on a damaged journal optuna raises errors of nearly every class
        log(f"  {path.name} is damaged; this search begins anew")
        _discard_journal(path)
        return _load_study(path, digest)


def is_whole(path: Path) -> bool:
    """Return whether a journal holds the bytes that were sealed.

    A journal of an older version has no seal and counts as whole.
    """
    try:
        _sealed(seal_path(path), path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return False
    return True


def _sealed(seal: Path, content: bytes) -> bytes:
    """Return the sealed bytes of a journal; without a seal, of an older version, its whole lines.

    Raises ValueError where they are not the bytes that were sealed.
    """
    if not seal.exists():
        return content[: content.rfind(b"\n") + 1]
    size, digest, *_ = seal.read_text(encoding="utf-8").split()
    if new_digest(content[: int(size)]).hexdigest() != digest or len(content) < int(size):
        raise ValueError("it holds other bytes than were written")
    return content[: int(size)]


def _is_noted(marker: Path, inputs: dict[str, Any]) -> bool:
    """Return whether the inputs noted beside a journal equal `inputs`.

    Settings that an older version lacked count with their older values.
    """
    if _is_damaged(marker):
        return False
    now = json.loads(json.dumps(inputs))
    return with_older_values(json.loads(marker.read_bytes()), now) == now


def _is_damaged(marker: Path) -> bool:
    """Return whether the note of the inputs is missing or not readable."""
    try:
        json.loads(marker.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return True
    return False


def _inputs_digest(inputs: dict[str, Any]) -> str:
    """Return the digest of a study's inputs, 32 hexadecimal digits.

    It stays the same after an update that adds settings.
    """
    text = json.dumps(without_later_fields(json.loads(json.dumps(inputs))), sort_keys=True)
    return text_digest(text)


def _sealed_inputs(path: Path) -> str:
    """Return the digest of the inputs in the seal of a journal; "" where there is none."""
    try:
        return (seal_path(path).read_text(encoding="utf-8").split() + [""] * 3)[2]
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _load_study(path: Path, inputs: str) -> Study:
    """Read or create the study of a journal. inputs: digest of its inputs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(Journal(path, inputs))
    return optuna.create_study(
        study_name="tune", storage=storage, direction="minimize", load_if_exists=True
    )


def _discard_journal(path: Path) -> None:
    """Remove a journal and its seal."""
    discard(path)  # first: without its seal it would count as one of an older version
    discard(seal_path(path))


def _check_trials(study: Study, is_complete: Callable[[FrozenTrial], bool]) -> None:
    """Raise ValueError where the trials of a journal without a seal are not what optuna writes."""
    if study.direction != StudyDirection.MINIMIZE:
        raise ValueError("it does not minimise")
    trials = study.get_trials(deepcopy=False)
    if len({trial.datetime_start for trial in trials}) < len(trials):
        raise ValueError("it holds a trial twice")
    for trial in trials:
        losses: list[Any] = list(trial.intermediate_values.values())
        if trial.state == TrialState.COMPLETE:
            losses.append(trial.value)
        if any(type(loss) not in (int, float) or not math.isfinite(loss) for loss in losses):
            raise ValueError(f"trial {trial.number} has a loss that is not a finite number")
        for name, domain in trial.distributions.items():
            if not domain._contains(domain.to_internal_repr(trial.params[name])):
                raise ValueError(f"trial {trial.number} has a value outside the space")
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and not is_complete(trial):
            raise ValueError(f"trial {trial.number} is incomplete")


def _write_all(handle: int, data: bytes, offset: int) -> None:
    """Write all of `data` at a byte offset, and end the file there."""
    written = 0
    while written < len(data):  # a disk that fills up takes a part, then refuses the rest
        written += os.pwrite(handle, data[written:], offset + written)
    os.ftruncate(handle, offset + len(data))
