"""Time, memory and disk of each stage; recipe, versions and digests that the run was made with."""

from typing import Any

import yaml

from ct.storage.receipt_reader import version_differences
from report.run_artifacts import Artifacts

DIGESTS = ("train files", "test files", "label csv", "zip archive", "slice list")  # ingest's inputs


def cost(art: Artifacts) -> dict[str, Any]:
    """Return seconds, peak memory and size on disk (GB) of each stage; {} without receipts.

    {"rows": a row a stage, "total": sum of seconds and sizes, largest memory}
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
    "not_repeatable": why a second training may give other numbers
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
    }
