"""A unit of work of milliseconds, which fails where two processes do it at the same time."""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.units.unit import Unit


@dataclass(frozen=True)
class FakeUnit(Unit):
    """Notes each of its runs in a file; it is done when it has its receipt."""

    label: str
    after: tuple[str, ...] = ()  # labels of the units that it needs
    opens: bool = False
    seconds: float = 0.0
    ever_done: bool = True

    @property
    def name(self):
        return f"work/{self.label}"

    @property
    def needs(self):
        return tuple(f"work/{label}" for label in self.after)

    @property
    def extends_plan(self):
        return self.opens

    def path(self, kind):
        return Path(self.root) / f"{self.label}.{kind}"

    def why_not_done(self, verify=False):
        if not self.path("receipt").exists():
            return "not made yet"
        return "damaged" if verify and self.path("damage").exists() else ""

    def run(self, log, bar):
        self.path("running").touch(exist_ok=False)  # another process does it at this moment
        for label in self.after:
            assert Path(self.root, f"{label}.receipt").exists(), f"{self.label} before {label}"
        time.sleep(self.seconds)
        with self.path("runs").open("a") as file:
            file.write(".")
        self.path("damage").unlink(missing_ok=True)
        if self.ever_done:
            self.path("receipt").touch()
        self.path("running").unlink()

    def runs(self):
        """How often it has run."""
        return len(self.path("runs").read_text()) if self.path("runs").exists() else 0


def fake_units(root, labels, **fields):
    """A FakeUnit for each label."""
    return [FakeUnit(str(root), label, **fields) for label in labels]
