"""Time, memory and disk of each stage; recipe, versions and digests that the run was made with."""

from typing import Any

import yaml

from ct.storage.receipt_reader import version_differences
from report.run_artifacts import Artifacts

DIGESTS = ("train files", "test files", "label csv", "zip archive", "slice list")  # ingest's inputs


def cost(art: Artifacts) -> dict[str, Any]:
    """Return seconds, peak memory and size on disk (GB) of each stage; {} without receipts.

    {"rows": a row a stage, "total": sum of seconds and sizes, largest memory}. A row also has the
    engine that ran the stage's units and the device of its CNNs, "" where a receipt lacks them.
    """
    if not art.receipts:
        return {}
    rows = []
    for stage, receipt in art.receipts.items():
        row = {
            "stage": stage,
            "seconds": receipt.get("seconds") or 0,
            "memory": (receipt.get("peak_memory_mb") or 0) / 1e3,
            "disk": sum(file["size"] for file in receipt.get("made", {}).values()) / 1e9,
            "finished": receipt.get("finished"),
            "engine": _engine(receipt),
            "device": _device(receipt),
        }
        rows.append(row)
    total = {
        "seconds": sum(row["seconds"] for row in rows),
        "disk": sum(row["disk"] for row in rows),
        "memory": max(row["memory"] for row in rows),
    }
    return {"rows": rows, "total": total}


def provenance(art: Artifacts) -> dict[str, Any]:
    """Return the recipe as text, versions and commits of all receipts, and digests of the data.

    "different_versions": a line for each package or commit that differs between stages;
    "not_repeatable": why a second training may give other numbers; "different_environments": a line
    for each CNN and pair of devices or precisions that its held-out and test predictions have
    """
    versions: dict[str, str] = {}
    for receipt in art.receipts.values():
        versions |= receipt.get("versions") or {}
    inputs = art.receipts.get("ingest", {}).get("read", {})
    return {
        "recipe": yaml.safe_dump(art.recipe, sort_keys=False, width=100, allow_unicode=True),
        "versions": sorted(versions.items()),
        "commits": sorted({r["commit"] for r in art.receipts.values() if r.get("commit")}),
        "different_versions": version_differences(art.receipts),
        "digests": [(name, inputs[name]) for name in DIGESTS if inputs.get(name)],
        "not_repeatable": art.receipts.get("train", {}).get("not_repeatable", []),
        "different_environments": different_environments(art),
    }


def different_environments(art: Artifacts) -> list[str]:
    """Return a line for each CNN and pair of environments, where those of one fold differ."""
    lines = []
    for cnn, environments in art.environments.items():
        folds_by_pair: dict[tuple[str, str], list[str]] = {}
        for k, of_fold in environments.items():
            texts = {name: " in ".join(of_fold[name]) for name in of_fold}
            if len(set(texts.values())) > 1:
                pair = texts["held out"], texts["test"]
                folds_by_pair.setdefault(pair, []).append(str(k))
        for (held_out, test), folds in folds_by_pair.items():
            plural = "s" * (len(folds) > 1)
            lines.append(f"{cnn} fold{plural} {', '.join(folds)}: {held_out}, then {test}")
    return lines


def _engine(receipt: dict[str, Any]) -> str:
    """Return the engine that ran a stage's units, and how many at once; "" if there is none."""
    if "engine" not in receipt:
        return ""
    at_once = receipt.get("units_at_once") or 1
    return receipt["engine"] + (f", {at_once} at once" if at_once > 1 else "")


def _device(receipt: dict[str, Any]) -> str:
    """Return device and precision of a stage that runs CNNs, "" of other stages.

    Either is a list where the jobs of the stage differ.
    """
    if "precision" not in receipt:
        return ""
    values = [receipt["device"], receipt["precision"]]
    return ", ".join(" or ".join([value] if isinstance(value, str) else value) for value in values)
