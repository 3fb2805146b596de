"""What several tests share: the real data, a micro competition, and the command line."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import browser_steps
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
# one thread each for LightGBM and torch: several slow each other down on a busy machine
os.environ["OMP_NUM_THREADS"] = "1"
# nohup ignores SIGINT, and child processes inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
LONGEST_FILES = ("test_pages.py", "test_rsna_mini.py")
MICRO = {"studies": 8, "seed": 6, "size": 64, "slices": (5, 5)}  # 40 slices


def pytest_collection_modifyitems(items):
    """Run the longest slow files first, so that no process is left alone with them at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords or item.path.name not in LONGEST_FILES)


@pytest.fixture(autouse=True, scope="session")
def one_core():
    """Units run in the test's process, where it can replace functions.

    Without this, that would depend on the cores of the machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.engines.local_engine.cores", lambda: 1)
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder of real slices and tables; tests that need it skip where it is missing."""
    folder = Path(os.environ.get("ICH_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: set ICH_REAL_DATA to their folder ({folder} is not there)")
    return folder


@pytest.fixture(scope="session")
def competition(tmp_path_factory):
    """A micro competition: 40 DICOM slices in Kaggle's layout. Not to be changed; copy it first."""
    from ct.synthetic.example_competition import write_competition

    folder = tmp_path_factory.mktemp("competition") / "data"
    write_competition(folder, **MICRO)
    return folder


@pytest.fixture(scope="session")
def stacking(tmp_path_factory):
    """The recipe `micro`, but that labels of 40 slices are stacked without a significant gain."""
    recipe = yaml.safe_load((ROOT / "recipes" / "micro.yaml").read_text())
    recipe["stage2"]["confidence"] = 0
    path = tmp_path_factory.mktemp("recipe") / "stacking.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, competition, stacking):
    """A finished run of the recipe `stacking`. Not to be changed; copy it first."""
    import run

    folder = tmp_path_factory.mktemp("run") / "r"
    assert (
        run.main(["new", f"--run={folder}", f"--recipe={stacking}", f"--data={competition}"]) == 0
    )
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    return folder


@pytest.fixture(scope="session")
def older_version(tmp_path_factory):
    """Runs and a model of an older version (kept_runs.py). Not to be changed; copy them first."""
    import kept_runs

    return kept_runs.unpack(tmp_path_factory.mktemp("older_version"))


@pytest.fixture
def kept(older_version, tmp_path):
    """The finished run of an older version, to be changed."""
    return shutil.copytree(older_version / "run", tmp_path / "run")


@pytest.fixture
def half(older_version, tmp_path):
    """The half-trained run of an older version, to be changed."""
    return shutil.copytree(older_version / "half", tmp_path / "half")


@pytest.fixture(scope="session")
def chromium():
    """Chromium without a screen, driven by Selenium; started once a process."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'"
    )
    options, service = webdriver.ChromeOptions(), webdriver.ChromeService(browser_steps.DRIVER)
    options.binary_location = browser_steps.CHROMIUM
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """Chromium, wide and light; afterwards its console must be empty."""
    browser_steps.set_screen(chromium, 1280, "light")
    chromium.get("about:blank")
    chromium.get_log("browser")
    yield chromium
    assert chromium.get_log("browser") == []


@pytest.fixture
def command():
    """Run the command line in its own process, from any folder; return the finished process."""

    def call(*words, cwd=None):
        words = [sys.executable, str(ROOT / "run.py"), *map(str, words)]
        return subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)

    return call


def error_line(capsys):
    """Return what the command line printed on stderr: one line that begins with "error: "."""
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    return stderr


def copy_tree(folder):
    """Copy the files that git tracks, or would track, into a new folder; return it."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder
