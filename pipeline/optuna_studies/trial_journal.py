"""The journal of an optuna study: a file of one process at a time, whose bytes are verified before
a later process goes on.

After each trial the journal is flushed to the disk and its seal written: how many bytes it has,
their digest, and that of the study's inputs. What lies behind the sealed bytes is of a trial that
did not end, and is cut off. There is no lock of optuna's to wait for: the run folder's own keeps
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
from ct.storage.file_formats import write_text
from ct.storage.sealed_files import new_digest, seal_path
from pipeline.older_versions import with_older_values, without_later_fields

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Journal(BaseJournalBackend):
    """The operations of a study, a line of JSON each. Raises ValueError where a file holds other
    bytes than were sealed.

    inputs: digest of the study's inputs, for the seal
    """

    def __init__(self, path: Path, inputs: str = ""):
        self.path, self.seal, self.inputs = path, seal_path(path), inputs
        content = path.read_bytes() if path.exists() else b""
        whole = _sealed(self.seal, content)
        self.digest, self.size = new_digest(whole), len(whole)
        self.logs = [json.loads(line) for line in whole.splitlines()]
        if path.is_symlink() or len(whole) < len(content):
            with replacing(path) as part:
                part.write_bytes(whole)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from a number on."""
        yield from self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations behind those that are there; interrupted at any moment, the next call
        writes over what it left.
        """
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _write_all(handle, text.encode(), self.size)
            digest = self.digest.copy()
            digest.update(text.encode())
            if ended := any(log.get("state") in ENDED for log in logs):
                os.fsync(handle)
        except OSError as error:
            raise as_full_disk(error, self.path) or error from None
        finally:
            os.close(handle)
        self.digest, self.size, self.logs = (
            digest,
            self.size + len(text.encode()),
            self.logs + _as_read(text),
        )
        if ended:
            # after a power cut the seal before this one does as well
            with replacing(self.seal, lasting=False) as part:
                part.write_text(
                    f"{self.size} {self.digest.hexdigest()} {self.inputs}\n", encoding="utf-8"
                )
                flush(part)  # but not an empty one


def open_study(
    path: Path,
    inputs: dict,
    log: Callable[[str], None] = print,
    sound: Callable[[FrozenTrial], bool] = lambda trial: True,
) -> Study:
    """Open an optuna study that minimises: a file that a second call continues, unless its inputs
    have changed.

    inputs: plain values, all that a trial's outcome depends on. The number of trials is not among
    them: asking for more continues the same study. log: called with one line where what is there is
    damaged, and begun anew; sound: whether a complete or pruned trial of a journal of an older
    version, which has no seal, is as such trials are
    """
    marker, digest = path.with_suffix(".inputs.json"), _inputs_digest(inputs)
    if not _is_noted(marker, inputs):
        if digest != _sealed_inputs(path):
            if _is_damaged(marker) and path.exists():
                log(f"  {marker.name} is damaged or missing; this search begins anew")
            _forget(path)
        write_text(marker, json.dumps(inputs))
    # optuna's own, which an older version left when it was killed
    discard(path.with_name(path.name + ".lock"))
    try:
        study = _load_study(path, digest)
        if not seal_path(path).exists():
            _check_trials(study, sound)
        return study
    except (OSError, MemoryError):
        raise  # the machine's fault
    except Exception:  # optuna replays a damaged journal into nearly any of them
        log(f"  {path.name} is damaged; this search begins anew")
        _forget(path)
        return _load_study(path, digest)


def is_whole(path: Path) -> bool:
    """Return whether a journal holds the bytes that were sealed. One of an older version has no
    seal, and counts as whole.
    """
    try:
        _sealed(seal_path(path), path.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return False
    return True


def _sealed(seal: Path, content: bytes) -> bytes:
    """Return the bytes of whole trials; of an older version's journal, which has no seal, those of
    whole lines.

    Raises ValueError where they are not those that were sealed.
    """
    if not seal.exists():
        return content[: content.rfind(b"\n") + 1]
    size, digest, *_ = seal.read_text(encoding="utf-8").split()
    if new_digest(content[: int(size)]).hexdigest() != digest or len(content) < int(size):
        raise ValueError("it holds other bytes than were written")
    return content[: int(size)]


def _is_noted(marker: Path, inputs: dict) -> bool:
    """Return whether the note beside a journal is of `inputs`, settings that an older version
    lacked at their older values.
    """
    if _is_damaged(marker):
        return False
    now = json.loads(json.dumps(inputs))
    return with_older_values(json.loads(marker.read_bytes()), now) == now


def _is_damaged(marker: Path) -> bool:
    """Return whether there is no note, or none that can be read."""
    try:
        json.loads(marker.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return True
    return False


def _inputs_digest(inputs: dict) -> str:
    """Return the digest of a study's inputs, 32 hexadecimal digits: the same after an update that
    adds settings.
    """
    text = json.dumps(without_later_fields(json.loads(json.dumps(inputs))), sort_keys=True)
    return new_digest(text.encode()).hexdigest()


def _sealed_inputs(path: Path) -> str:
    """Return the digest of the inputs in the seal of a journal; "" where there is none, as in an
    older version's.
    """
    try:
        return (seal_path(path).read_text(encoding="utf-8").split() + [""] * 3)[2]
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _load_study(path: Path, inputs: str) -> Study:
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(Journal(path, inputs))
    return optuna.create_study(
        study_name="tune", storage=storage, direction="minimize", load_if_exists=True
    )


def _forget(path: Path) -> None:
    discard(path)  # first: without its seal it would count as an older version's
    discard(seal_path(path))


def _check_trials(study: Study, sound: Callable[[FrozenTrial], bool]) -> None:
    """Raise ValueError where the trials of a journal without a seal are not such as optuna
    leaves.
    """
    if study.direction != StudyDirection.MINIMIZE:
        raise ValueError("it does not minimise")
    trials = study.get_trials(deepcopy=False)
    if len({trial.datetime_start for trial in trials}) < len(trials):
        raise ValueError("a trial stands in it twice")
    for trial in trials:
        losses = [
            *trial.intermediate_values.values(),
            *([trial.value] if trial.state == TrialState.COMPLETE else []),
        ]
        if any(type(loss) not in (int, float) or not math.isfinite(loss) for loss in losses):
            raise ValueError(f"trial {trial.number} has a loss that is no number")
        for name, where in trial.distributions.items():
            if not where._contains(where.to_internal_repr(trial.params[name])):
                raise ValueError(f"trial {trial.number} has a value outside the space")
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and not sound(trial):
            raise ValueError(f"trial {trial.number} is incomplete")


def _write_all(handle: int, data: bytes, at: int) -> None:
    """Write all of `data` at the byte `at`, and end the file there."""
    written = 0
    while written < len(data):  # a disk that fills up takes a part, and refuses the next
        written += os.pwrite(handle, data[written:], at + written)
    os.ftruncate(handle, at + len(data))


def _as_read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
