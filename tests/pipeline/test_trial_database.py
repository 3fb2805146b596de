"""The database of stage2.storage: opened before any work, shared, shown without its password."""

import json
import shutil
import sqlite3
import threading

import optuna
import pytest
import yaml
from sqlalchemy.exc import OperationalError

import run
from ct.config import Config, validate
from ct.errors import InputError, printable
from ct.privacy.redaction import mask_passwords
from pipeline.freshness import first_difference, why_stale
from pipeline.optuna_studies.trial_database import check_store, open_shared, store_faults
from pipeline.receipt import Receipt
from pipeline.recipe import RECIPES
from report.path_removal import recipe_without_paths

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://ann:s3cret@db/optuna", "postgresql://ann:***@db/optuna"),
        ("postgresql+psycopg2://ann:s3/cr:et@db:5432/x", "postgresql+psycopg2://ann:***@db:5432/x"),
        ("'mysql://ann:my s3cret@db'", "'mysql://ann:***@db'"),
        (
            "no database at mysql://ann:s3cret@db: refused",
            "no database at mysql://ann:***@db: refused",
        ),
        (
            "postgresql://db/x?user=ann&password=s3cret&y=1",
            "postgresql://db/x?user=***&password=***&y=***",
        ),
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Dann%3BPWD%3Ds3cret",
            "mssql+pyodbc:///?odbc_connect=***",
        ),
        ("postgresql://ann:s3/cr@et@db/x", "postgresql://ann:***@db/x"),
        ("postgresql://ann:s3: cr et@db/x", "postgresql://ann:***@db/x"),
        (
            "storage = 'mysql://ann:s3: cr@et@db/x': refused",
            "storage = 'mysql://ann:***@db/x': refused",
        ),
        (
            "no redis://localhost:6379: give user:word@host",
            "no redis://localhost:6379: give user:word@host",
        ),
        ("sqlite:////home/ann/x.db", "sqlite:////home/ann/x.db"),
        ("me@x.org", "me@x.org"),
    ],
)
def test_a_password_is_masked_and_nothing_else(text, masked):
    assert mask_passwords(text) == masked == printable(text)
    assert mask_passwords({"a": [text, (text,), 1, None]}) == {"a": [masked, (masked,), 1, None]}


def invalid_urls(tmp_path):
    """Return {URL: part of the message}."""
    (tmp_path / "bad.db").write_text("this is no database at all, only a text file " * 9)
    return {
        f"postgresql+nodriver://ann:{SECRET}@localhost/optuna": "postgresql",
        "not a url": "not a url",
        f"not a url {SECRET}@": "***@",
        f"postgresql:/ann:{SECRET}@localhost/optuna": "***@localhost/optuna",
        f"postgresql:ann:{SECRET}@localhost/optuna": "***@localhost/optuna",
        f"ann:{SECRET}@localhost/optuna": "***@localhost/optuna",
        f"postgresql//ann:{SECRET}@localhost/optuna": "***@localhost/optuna",
        f" postgresql://ann:s3@{SECRET}@localhost/optuna": "***@localhost/optuna",
        f"host=db user=ann password={SECRET} dbname=o": "host=db user=ann password=***",
        f"host=db PWD = 's3 {SECRET}'": "host=db PWD = ***",
        "redis://localhost:6379": "redis",
        f"sqlite:///{tmp_path}/nowhere/x.db": "unable to open",
        f"sqlite:///{tmp_path}/bad.db": "not a database",
    }


def test_a_database_that_cannot_be_opened_raises_one_line(tmp_path):
    for url, message in invalid_urls(tmp_path).items():
        with pytest.raises(InputError, match="^stage2.storage = ") as caught:
            check_store(url)
        line = str(caught.value)
        assert line.isprintable() and message in line and SECRET not in line


@pytest.mark.parametrize(
    "rest",
    [
        "://",
        ":///:memory:",
        "+pysqlite://",
        ":///file::memory:?uri=true",
        ":///file:x?mode=memory&cache=shared&uri=true",
    ],
)
def test_a_database_in_memory_is_refused(rest):
    """Each worker would have a database of its own, without tables."""
    with pytest.raises(
        InputError, match="^stage2.storage = sqlite.*in memory.*; give a URL such as .*$"
    ):
        check_store(f"sqlite{rest}")


def test_opening_is_repeated_while_another_machine_creates_the_tables(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/new.db"
    tries, real = [], optuna.storages.RDBStorage

    def raced(*args, **options):
        tries.append(args)
        if len(tries) == 1:
            real(*args, **options)
            raise OperationalError("", {}, Exception("table studies already exists"))
        return real(*args, **options)

    monkeypatch.setattr("pipeline.optuna_studies.trial_database.RDBStorage", raced)
    check_store(url)
    assert len(tries) == 2


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_two_workers_on_a_new_database(tmp_path):
    url, errors = f"sqlite:///{tmp_path}/new.db", []
    check_store(url)

    def work(number):
        try:
            study = open_shared(url, f"any-fold{number}", {"seed": 0})
            for value in range(3):
                study.tell(study.ask(), value)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(optuna.get_all_study_summaries(url)) == 4


@pytest.mark.filterwarnings("ignore:Heartbeat")
def test_a_database_that_fails_later_raises_one_line(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    study = open_shared(url, "any-fold0", {})
    with sqlite3.connect(tmp_path / "x.db") as database:
        for table in ("trials", "studies"):
            database.execute(f"drop table {table}")
    with (
        pytest.raises(InputError, match="does not answer any more .*the same command continues"),
        store_faults(url),
    ):
        study.ask()
    with pytest.raises(ZeroDivisionError), store_faults(url):
        1 / 0  # noqa: B018


def test_new_and_all_open_the_database_first(
    older_version, competition, tmp_path, capsys, monkeypatch
):
    recipe = yaml.safe_load((RECIPES / "micro.yaml").read_text())
    recipe["stage2"]["storage"] = f"sqlite:///{tmp_path}/nowhere/x.db"
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert (
        run.main(
            [
                "new",
                f"--run={tmp_path / 'r'}",
                f"--recipe={tmp_path / 'r.yaml'}",
                f"--data={competition}",
            ]
        )
        == 1
    )
    assert not (tmp_path / "r").exists() and capsys.readouterr().err.startswith(
        "error: stage2.storage = "
    )
    kept = shutil.copytree(older_version / "run", tmp_path / "kept")
    own = yaml.safe_load((kept / "recipe.yaml").read_text())
    own["stage2"]["storage"], own["seed"] = recipe["stage2"]["storage"], 1  # every stage is stale
    (kept / "recipe.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.setattr("pipeline.commands.all.run_all", lambda run: pytest.fail("it began"))
    assert run.main(["all", f"--run={kept}"]) == 1
    assert capsys.readouterr().err.startswith("error: stage2.storage = ")


def test_no_receipt_and_no_output_has_the_password(tmp_path):
    url = f"postgresql://ann:{SECRET}@db/optuna"
    part = {"stage2": {"storage": url, "trials": 3}}
    with Receipt(tmp_path, tmp_path / "r.json", "tune", part, {}):
        pass
    assert SECRET not in (tmp_path / "r.json").read_text() and part["stage2"]["storage"] == url
    assert why_stale(tmp_path, tmp_path / "r.json", part, {}) == ""
    assert "ann:***@db" in first_difference(part, {"stage2": {"storage": "", "trials": 3}})
    # as an older version wrote it
    old = json.loads((tmp_path / "r.json").read_text()) | {"recipe": part}
    (tmp_path / "r.json").write_text(json.dumps(old))
    assert why_stale(tmp_path, tmp_path / "r.json", part, {}) == ""
    other = {"stage2": {"storage": url.replace("db", "other"), "trials": 3}}
    line = why_stale(tmp_path, tmp_path / "r.json", other, {})
    assert line.startswith("recipe changed, stage2.storage") and SECRET not in line


@pytest.mark.parametrize("storage", [f"ann:{SECRET}@db/o", f"host=db password={SECRET}"])
def test_a_mistyped_url_is_masked_wherever_the_recipe_is_shown(storage):
    part = {"stage2": {"storage": storage, "trials": 3}}
    assert SECRET not in str(mask_passwords(part)) and "***" in str(mask_passwords(part))
    assert recipe_without_paths(part) == {"stage2": {"storage": "…", "trials": 3}}


def test_status_masks_the_password(older_version, tmp_path, capsys):
    kept = shutil.copytree(older_version / "run", tmp_path / "kept")
    own = yaml.safe_load((kept / "recipe.yaml").read_text())
    own["stage2"]["storage"] = f"postgresql://ann:{SECRET}@db/optuna"
    (kept / "recipe.yaml").write_text(yaml.safe_dump(own))
    for words in ([], ["--json"]):
        assert run.main(["status", f"--run={kept}", *words]) == 0
        out = capsys.readouterr().out
        assert SECRET not in out and "postgresql://ann:***@db" in out


def test_a_storage_of_another_type_is_not_shown(tmp_path, capsys):
    own = yaml.safe_load((RECIPES / "micro.yaml").read_text())
    own["stage2"]["storage"] = {"password": SECRET}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert (
        run.main(
            [
                "new",
                f"--run={tmp_path / 'r'}",
                f"--recipe={tmp_path / 'own.yaml'}",
                f"--data={tmp_path}",
            ]
        )
        == 1
    )
    err = capsys.readouterr().err
    assert SECRET not in err and "stage2.storage: " in err and err.count("\n") == 1


def test_a_wrong_value_is_shown_without_the_password():
    class Numbers(Config):
        port: int

    with pytest.raises(InputError) as caught:
        validate(Numbers, {"port": f"mysql://ann:{SECRET}@db"}, "recipe.yaml", strict=True)
    assert SECRET not in str(caught.value) and "ann:***@db" in str(caught.value)
