"""The engine of a shard: every n-th unit of a stage, while other processes do the others.

The processes share the run folder and nothing else. Each does its own units; a unit's lock and
receipt say what the others do and have done. No shard depends on another one to be there: what
several shards need, whoever comes first does.
"""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ct.errors import number_of
from pipeline.units.unit import Engine, Log, MakeBar, Unit, UnitsLeft
from pipeline.units.unit_lock import is_busy

PAUSE = 1.0  # seconds between two looks at a unit that another process does
TRIES = 10  # calls for one unit: others may do it first, again and again, but not for ever


class ShardEngine:
    """Runs the units of shard `number` of `count`, numbered from 1."""

    def __init__(self, number: int, count: int, local: Engine) -> None:
        """local: runs units on this machine, and leaves those that another process does."""
        self.name = number_of(count, "shard")
        self.number, self.count, self.local = number, count, local
        self._planned: list[str] = []

    def cores(self) -> int:
        """Return the processor cores of all shards, as if each had as many as this one."""
        return self.count * self.local.cores()

    def at_once(self) -> int:
        """Return how many units ran at the same time in the last call of `run`, at most."""
        return self.local.at_once()

    def plan(self, units: Sequence[Unit]) -> None:
        """Set the units that the shards divide: those done, too, so that each counts alike."""
        self._planned = [unit.name for unit in units]

    def run(self, units: Sequence[Unit], log: Log, bar: MakeBar) -> None:
        """Run the shard's own units, and others that they or the plan need and nobody does.

        units: those of the plan that are not done. Raises UnitsLeft where others are not done when
        all own ones are.
        """
        own = set(self._planned[self.number - 1 :: self.count])
        # damage that sizes and times do not show: it counts until this process has seen to it
        unseen = {unit.name for unit in units if not unit.why_not_done()}
        missing, tries = {unit.name: unit for unit in units}, Counter[str]()
        waits = False
        while wanted := self._wanted(missing, own | unseen):
            batch = _free(wanted, own | unseen, missing)
            if batch:
                self.local.run(batch, log, bar)
                unseen -= {unit.name for unit in batch}
                tries.update(unit.name for unit in batch)
                waits = False
            else:
                if not waits:
                    log(f"  waits for {wanted[0].name}, which another process does")
                    waits = True
                time.sleep(PAUSE)
            for unit in wanted:
                why = "not seen to yet" if unit.name in unseen else unit.why_not_done()
                if not why:
                    del missing[unit.name]
                elif tries[unit.name] == TRIES:
                    raise RuntimeError(f"{unit.name} was run {TRIES} times, but: {why}")
        left = [unit for unit in missing.values() if unit.why_not_done()]
        if left:
            raise UnitsLeft(len(left), len(self._planned))

    @staticmethod
    def _wanted(missing: Mapping[str, Unit], own: Collection[str]) -> list[Unit]:
        """Return the missing units that this shard cannot end without.

        They are its own, those after which there are more to plan, and those that these need.
        """
        names = {unit.name for unit in missing.values() if unit.name in own or unit.extends_plan}
        needed = set(names)
        while needed:
            needed = {name for each in needed for name in missing[each].needs if name in missing}
            needed -= names
            names |= needed
        return [unit for unit in missing.values() if unit.name in names]


def _free(wanted: Sequence[Unit], own: Collection[str], missing: Collection[str]) -> list[Unit]:
    """Return the units to run now: own ones, else others from the last one on.

    The other shards come from the first one on, and meet this one half way. What needs one of
    them comes in a later call, since another process may take that one in between.
    """
    ready = [unit for unit in wanted if not set(unit.needs).intersection(missing)]
    mine = [unit for unit in ready if unit.name in own and not is_busy(unit)]
    return mine or [unit for unit in reversed(ready) if unit.name not in own and not is_busy(unit)]
