"""The database of stage2.storage, whose trials several machines may share: tried before any work,
its faults one line each.
"""

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Iterator

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from ct.errors import InputError, printable
from ct.privacy.redaction import mask_passwords
from pipeline.older_versions import without_later_fields

# seconds between signs of life of a trial, and without one until it counts as dead
HEARTBEAT, GRACE = 30, 120
PATIENCE = 60  # seconds that a worker waits for SQLite's lock; others wait in their server
TRIES = 3  # machines that begin at once may make the tables at once
FAULTS = (SQLAlchemyError, StorageInternalError)
REMEDY = "give a URL such as postgresql://user:password@host/name or sqlite:////folder/file.db, or leave it empty"
# of optuna and of drivers, as it is opened
UNFIT = (*FAULTS, ImportError, ValueError, TypeError, RuntimeError, OSError)


def check_store(url: str) -> None:
    """Open the database at `url`, as optuna takes it, and make its tables. Raises InputError where
    that cannot be.
    """
    for number in range(TRIES):
        try:
            if _is_in_memory(url):
                break
            RDBStorage(url).engine.dispose()
            return
        except UNFIT as error:
            if isinstance(error, DBAPIError) and "exists" in str(error) and number + 1 < TRIES:
                time.sleep(1)  # another machine makes them
                continue
            raise InputError(
                f"stage2.storage = {printable(url)}: no database for trials can be opened there ({_reason(error)}); {REMEDY}"
            ) from None
    raise InputError(
        f"stage2.storage = {printable(url)}: a database in memory ends with its process, and no other sees it; {REMEDY}"
    )


def _is_in_memory(url):
    """Return whether a database is SQLite's without a file, as it tells itself: its URL has many
    forms.
    """
    if make_url(url).get_backend_name() != "sqlite":
        return False
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        files = {name: file for _, name, file in connection.exec_driver_sql("PRAGMA database_list")}
    return not files["main"]


def open_shared(url: str, name: str, inputs: dict) -> optuna.Study:
    """Open an optuna study that minimises in a database, which several machines may work on.

    url: as optuna takes it; name: what is tuned; inputs: as of open_study, other ones are another
    study. A trial whose process shows no sign of life is failed and tried again by whoever is next.
    """
    digest = hashlib.blake2b(
        json.dumps(without_later_fields(inputs), sort_keys=True).encode(), digest_size=8
    ).hexdigest()
    patient = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        again = {"heartbeat_stale_trial_callback": RetryHeartbeatStaleTrialCallback(max_retry=3)}
        storage = RDBStorage(
            url, patient, heartbeat_interval=HEARTBEAT, grace_period=GRACE, **again
        )
    return optuna.create_study(
        study_name=f"{name}-{digest}", storage=storage, direction="minimize", load_if_exists=True
    )


@contextlib.contextmanager
def store_faults(url: str) -> Iterator[None]:
    """Turn what goes wrong with a database in the middle of the work into InputError; of no
    database, nothing.
    """
    try:
        yield
    except FAULTS as error:
        if not url:
            raise
        raise InputError(
            f"stage2.storage = {printable(url)}: the database does not answer any more ({_reason(error)}); "
            "the same command continues once it does"
        ) from None


def _reason(error):
    """Return the first line of the driver's own words, without a password."""
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return printable(mask_passwords(lines[0]), 160)
