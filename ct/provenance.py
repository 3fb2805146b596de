"""Whether the stages of a run were made by the same code and the same packages. Differences make nothing stale."""


def differences(receipts: dict[str, dict]) -> list[str]:
    """Return a line for the code, and for each package, of which not all stages were made by the same version.

    receipts: {stage: receipt}, with "commit" and "versions" ({package: version}), as far as they have them
    """
    commits = {stage: receipt.get("commit") for stage, receipt in receipts.items() if receipt.get("commit")}
    versions = {stage: receipt["versions"] for stage, receipt in receipts.items() if receipt.get("versions")}
    packages = sorted({package for known in versions.values() for package in known})
    unlike = [("commit", commits)]
    unlike += [(package, {stage: known.get(package, "none") for stage, known in versions.items()}) for package in packages]
    return [f"made by different versions: {name} {_grouped(of)}" for name, of in unlike if len(set(of.values())) > 1]


def _grouped(versions):
    """Return "1.0 (ingest, folds), 1.1 (train)" of {stage: version}."""
    stages = {}
    for stage, version in versions.items():
        stages.setdefault(version, []).append(stage)
    return ", ".join(f"{version} ({', '.join(names)})" for version, names in stages.items())
