"""The simulated schedule of gold: rule, bars, and the table of docs/scaling.md."""

import pytest
from conftest import ROOT

from benchmarks.scaling.gold_schedule import duration, gold_schedules, missed_bars, page_rows
from benchmarks.scaling.gold_units import StatedUnit, cnn_hours
from benchmarks.scaling.simulation import simulate
from pipeline.engines.placement import Machine
from pipeline.units.unit import Resources

PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def schedules():
    return gold_schedules()


def units(*seconds, takes=None, needs=()):
    takes = takes or Resources(1)
    return [StatedUnit(f"{each}", takes, each, needs) for each in seconds]


def test_units_start_in_their_order_as_soon_as_there_is_room():
    """By hand: 5 and 3 start; 4 follows at 3, ends at 7; 2 follows at 5, ends at 7."""
    assert simulate([Machine(2, 0)], units(5.0, 3.0, 4.0, 2.0)) == 7
    assert simulate([Machine(1, 0)] * 2, units(5.0, 3.0, 4.0, 2.0)) == 7
    assert simulate([Machine(1, 0)], units(5.0, 3.0, 4.0, 2.0)) == 14


def test_devices_memory_and_needs_limit_what_runs_at_once():
    gpu = units(2.0, 2.5, takes=Resources(1, 1))
    assert simulate([Machine(16, 0, ("0",))], gpu) == 4.5
    assert simulate([Machine(16, 0, ("0", "1"))], gpu) == 2.5
    heavy = units(2.0, 2.5, takes=Resources(1, 0, 60))
    assert simulate([Machine(16, 100)], heavy) == 4.5
    first, then = units(2.0), units(2.5, needs=("2.0",))
    assert simulate([Machine(16, 100)], [*then, *first]) == 4.5


def test_the_hours_of_a_fit_are_those_of_the_published_rate():
    """By hand: 752,803 x 4/5 slices in 4 epochs at 488.25 images/s x (300/384)^2."""
    fit, held_out, test = cnn_hours()["efficientnetv2"]
    assert fit == pytest.approx(752803 * 4 / 5 * 4 / (488.25 * (300 / 384) ** 2) / 3600, abs=1e-4)
    assert held_out == pytest.approx(752803 / 5 * 2 / 1191.03 / 3600)
    assert test == pytest.approx(121232 * 2 / 1191.03 / 3600)


def test_the_bars_are_met(schedules):
    assert missed_bars(schedules) == []


def test_a_missed_bar_is_named(schedules):
    slow = [schedule._replace(linear_fits=0.9 * schedule.fits) for schedule in schedules]
    assert missed_bars(slow) == [
        f"training on {count} GPUs: 0.900 of linear, the bar is 0.95" for count in (10, 20)
    ]
    slow = [schedule._replace(linear=0.7 * schedule.hours) for schedule in schedules]
    assert missed_bars(slow) == ["the whole run on 10: 0.700 of linear, the bar is 0.8"]


def test_the_page_has_the_table_of_the_simulation(schedules):
    rows = page_rows(schedules)
    assert len(rows) == 12 and [row for row in rows if row not in PAGE.splitlines()] == []


def test_durations_have_two_digits_or_three():
    assert [duration(60 * minutes) for minutes in (4.87, 31.6, 101)] == [
        "4.9 min",
        "32 min",
        "1.7 h",
    ]
