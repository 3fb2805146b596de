"""The database of stage2.storage, whose optuna trials several machines may share."""

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from ct.errors import InputError, printable
from ct.privacy.redaction import mask_database, mask_passwords
from pipeline.older_versions import without_later_fields

HEARTBEAT = 30  # seconds between two heartbeats of a running trial
GRACE = 120  # seconds without a heartbeat after which a trial counts as dead
LOCK_TIMEOUT = 60  # seconds to wait for SQLite's lock; other databases wait in their server
TRIES = 3  # machines that start together may create the tables together
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)
# of optuna and of drivers while a database is opened
OPENING_ERRORS = (*DATABASE_ERRORS, ImportError, ValueError, TypeError, RuntimeError, OSError)
REMEDY = (
    "give a URL such as postgresql://user:password@host/name or sqlite:////folder/file.db, "
    "or leave it empty"
)


def check_store(url: str) -> None:
    """Open the database at `url`, a URL of optuna, and create its tables.

    Raises InputError where that is not possible, and for a database in memory.
    """
    for number in range(TRIES):
        try:
            if _is_in_memory(url):
                break
            RDBStorage(url).engine.dispose()
            return
        except OPENING_ERRORS as error:
            if isinstance(error, DBAPIError) and "exists" in str(error) and number + 1 < TRIES:
                time.sleep(1)  # another machine creates them
                continue
            raise InputError(
                f"stage2.storage = {_shown(url)}: no database for trials can be opened there "
                f"({_reason(error, url)}); {REMEDY}"
            ) from None
    raise InputError(
        f"stage2.storage = {_shown(url)}: a database in memory ends with its process, "
        f"and no other process can read it; {REMEDY}"
    )


def _is_in_memory(url: str) -> bool:
    """Return whether a database is SQLite without a file.

    The database itself lists its files, because the URL has many forms.
    """
    if make_url(url).get_backend_name() != "sqlite":
        return False
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        files = {name: file for _, name, file in connection.exec_driver_sql("PRAGMA database_list")}
    return not files["main"]


def open_shared(url: str, name: str, inputs: dict[str, Any]) -> optuna.Study:
    """Open a minimising optuna study in a database, on which several machines may work.

    url: of optuna; name: of what is tuned; inputs: as in open_study; other inputs are another
    study. A trial without heartbeats is failed, and the next machine runs it again.
    """
    digest = hashlib.blake2b(
        json.dumps(without_later_fields(inputs), sort_keys=True).encode(), digest_size=8
    ).hexdigest()
    arguments = {"connect_args": {"timeout": LOCK_TIMEOUT}} if url.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = RDBStorage(
            url,
            arguments,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=3),
        )
    return optuna.create_study(
        study_name=f"{name}-{digest}", storage=storage, direction="minimize", load_if_exists=True
    )


@contextlib.contextmanager
def store_faults(url: str) -> Iterator[None]:
    """Raise InputError instead of errors of the database at `url` in the block.

    Without a database (url "") they are raised as they are.
    """
    try:
        yield
    except DATABASE_ERRORS as error:
        if not url:
            raise
        raise InputError(
            f"stage2.storage = {_shown(url)}: the database does not answer any more "
            f"({_reason(error, url)}); the same command continues once it does"
        ) from None


def _shown(url: str) -> str:
    return printable(mask_database(url))


def _reason(error: BaseException, url: str) -> str:
    """Return the first line of the driver's message, without passwords."""
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    line = lines[0].replace(url, mask_database(url)) if url else lines[0]
    return printable(mask_passwords(line), 160)
