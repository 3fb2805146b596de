"""Whether the stages of a run were made by the same code and the same packages. Differences make
nothing stale.
"""

import json
from pathlib import Path


def differences(receipts: dict[str, dict]) -> list[str]:
    """Return a line for the code, and for each package, of which not all stages were made by the
    same version.

    receipts: {stage: receipt}, with "commit" and "versions" ({package: version}), as far as they
    have them
    """
    commits = {
        stage: receipt.get("commit") for stage, receipt in receipts.items() if receipt.get("commit")
    }
    versions = {
        stage: receipt["versions"] for stage, receipt in receipts.items() if receipt.get("versions")
    }
    packages = sorted({package for known in versions.values() for package in known})
    unlike = [("commit", commits)]
    unlike += [
        (package, {stage: known.get(package, "none") for stage, known in versions.items()})
        for package in packages
    ]
    return [
        f"made by different versions: {name} {_grouped(of)}"
        for name, of in unlike
        if len(set(of.values())) > 1
    ]


def _grouped(versions):
    """Return "1.0 (ingest, folds), 1.1 (train)" of {stage: version}."""
    stages = {}
    for stage, version in versions.items():
        stages.setdefault(version, []).append(stage)
    return ", ".join(f"{version} ({', '.join(names)})" for version, names in stages.items())


def read_receipt(path: str | Path) -> dict | None:
    """Return the receipt at `path`, or None where there is none that reads."""
    try:
        known = json.loads(Path(path).read_text(encoding="utf-8"))
    except (
        FileNotFoundError,
        IsADirectoryError,
        ValueError,
        RecursionError,
    ):  # ValueError: cut off, or no text
        return None
    return known if _is_receipt(known) else None


def _is_receipt(known):
    """Return whether plain values are those of a receipt: a damaged one may be JSON all the
    same.
    """
    if not isinstance(known, dict) or not all(
        isinstance(known.get(part), dict) for part in ("recipe", "read", "made")
    ):
        return False
    stamps = [stamp for stamp in known["made"].values() if isinstance(stamp, dict)]
    return len(stamps) == len(known["made"]) and all(
        {"digest", "size", "mtime_ns"} <= set(stamp) for stamp in stamps
    )
