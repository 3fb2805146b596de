"""The simulated schedule of `gold` on 1, 4, 10 and 20 machines of one GPU and 16 cores each."""

from typing import NamedTuple

from benchmarks.scaling.gold_units import fit_units, gold_stages
from benchmarks.scaling.simulation import Simulated, simulate, simulate_stages
from pipeline.engines.placement import Machine

MACHINES = (1, 4, 10, 20)
CORES, MEMORY_MB = 16, 128_000
PRICE = 0.40  # dollars an hour for one machine, an assumption: rental lists of March to May 2026
LEAST_TRAINING, LEAST_WHOLE = 0.95, 0.8  # bars, share of a linear gain

STAGES_OF_PAGE = [(name,) for name in ("ingest", "train", "predict", "features", "tune", "stack")]
SHORT = ("folds", "submit", "report")


class Schedule(NamedTuple):
    """A simulated run on so many machines."""

    machines: int
    stages: list[Simulated]
    fits: float  # hours of the 20 fits alone
    linear: float  # hours of the run on one machine over the number of machines
    linear_fits: float

    @property
    def hours(self) -> float:
        """Return the hours of the whole run."""
        return sum(stage.seconds for stage in self.stages) / 3600


def gold_schedules() -> list[Schedule]:
    """Return the schedules of MACHINES."""
    schedules: list[Schedule] = []
    for count in MACHINES:
        machines = [Machine(CORES, MEMORY_MB, ("0",))] * count
        simulated = simulate_stages(machines, gold_stages(count, CORES))
        fits = simulate(machines, fit_units()) / 3600
        first = schedules[0] if schedules else Schedule(1, simulated, fits, 0, 0)
        linear, linear_fits = first.hours / count, first.fits / count
        schedules.append(Schedule(count, simulated, fits, linear, linear_fits))
    return schedules


def schedule_table(schedules: list[Schedule]) -> list[str]:
    """Return the lines of the table, with what bounds each stage on the most machines."""
    lines = [f"{'gold, simulated':28}" + "".join(f"{s.machines:>9}" for s in schedules)]
    for number, stage in enumerate(schedules[0].stages):
        hours = "".join(f"{s.stages[number].seconds / 3600:8.2f}h" for s in schedules)
        bounds = f"{schedules[-2].stages[number].bound}; {schedules[-1].stages[number].bound}"
        lines.append(f"  {stage.name:26}{hours}  {bounds}")
    lines.append(f"  {'the whole run':26}" + "".join(f"{s.hours:8.2f}h" for s in schedules))
    shares = "".join(f"{s.linear / s.hours:9.3f}" for s in schedules)
    lines.append(f"  {'share of a linear gain':26}{shares}")
    shares = "".join(f"{s.linear_fits / s.fits:9.3f}" for s in schedules)
    lines.append(f"  {'the 20 fits alone':26}{shares}")
    prices = "".join(f"{s.machines * s.hours * PRICE:9.0f}" for s in schedules)
    return [*lines, f"  {f'dollars, {PRICE:.2f} an hour':26}{prices}"]


def page_rows(schedules: list[Schedule]) -> list[str]:
    """Return the rows of the table in docs/scaling.md."""
    rows = [["machines", *(str(schedule.machines) for schedule in schedules)]]
    for names in (*STAGES_OF_PAGE, SHORT):
        seconds = [
            sum(stage.seconds for stage in schedule.stages if stage.name in names)
            for schedule in schedules
        ]
        title = ", ".join(f"`{name}`" for name in names)
        rows.append([title, *map(duration, seconds)])
    rows.append(["the whole run", *(duration(3600 * schedule.hours) for schedule in schedules)])
    whole = [f"{schedule.linear / schedule.hours:.2f}" for schedule in schedules]
    fits = [f"{schedule.linear_fits / schedule.fits:.2f}" for schedule in schedules]
    rows.append(
        ["speed-up, as a share of the number of machines", *(share.lstrip("0") for share in whole)]
    )
    rows.append(["the same of the 20 fits alone", *(share.lstrip("0") for share in fits)])
    dollars = [f"${schedule.machines * schedule.hours * PRICE:.0f}" for schedule in schedules]
    return [f"| {' | '.join(row)} |" for row in (*rows, ["price", *dollars])]


def duration(seconds: float) -> str:
    """Return hours from 100 minutes on, else minutes, with two digits."""
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def missed_bars(schedules: list[Schedule]) -> list[str]:
    """Return a line for each bar that is missed."""
    missed = []
    for schedule in schedules:
        training = schedule.linear_fits / schedule.fits
        if schedule.machines >= 10 and training < LEAST_TRAINING:
            missed.append(
                f"training on {schedule.machines} GPUs: {training:.3f} of linear, "
                f"the bar is {LEAST_TRAINING:g}"
            )
        whole = schedule.linear / schedule.hours
        if schedule.machines == 10 and whole < LEAST_WHOLE:
            missed.append(f"the whole run on 10: {whole:.3f} of linear, the bar is {LEAST_WHOLE:g}")
    return missed
