"""Read the receipts of a run's stages, and compare the versions of code and packages in them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_receipt(path: str | Path) -> dict[str, Any] | None:
    """Return the receipt at `path`, or None where there is none or it is damaged."""
    try:
        receipt = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return None
    return receipt if _is_receipt(receipt) else None


def _is_receipt(values: Any) -> bool:
    """Return whether JSON values have the form of a receipt; a damaged file may still be JSON."""
    if not isinstance(values, dict) or not all(
        isinstance(values.get(part), dict) for part in ("recipe", "read", "made")
    ):
        return False
    stamps = [stamp for stamp in values["made"].values() if isinstance(stamp, dict)]
    return len(stamps) == len(values["made"]) and all(
        {"digest", "size", "mtime_ns"} <= set(stamp) for stamp in stamps
    )


def version_differences(receipts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each package, and for the code, whose version differs between stages.

    receipts: {stage: receipt}; their "commit" and "versions" ({package: version}) may be missing

    Differences do not make a stage stale.
    """
    commits = {
        stage: receipt["commit"] for stage, receipt in receipts.items() if receipt.get("commit")
    }
    versions = {
        stage: receipt["versions"] for stage, receipt in receipts.items() if receipt.get("versions")
    }
    packages = sorted({package for installed in versions.values() for package in installed})
    by_name = [("commit", commits)]
    by_name += [
        (package, {stage: installed.get(package, "none") for stage, installed in versions.items()})
        for package in packages
    ]
    return [
        f"made by different versions: {name} {_grouped(by_stage)}"
        for name, by_stage in by_name
        if len(set(by_stage.values())) > 1
    ]


def _grouped(by_stage: Mapping[str, str]) -> str:
    """Return the text "1.0 (ingest, folds), 1.1 (train)" for {stage: version}."""
    stages: dict[str, list[str]] = {}
    for stage, version in by_stage.items():
        stages.setdefault(version, []).append(stage)
    return ", ".join(f"{version} ({', '.join(names)})" for version, names in stages.items())
