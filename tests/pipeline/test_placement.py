"""Which units run at the same time on a machine."""

import pytest

from pipeline.engines.placement import Machine, Placement, at_once, threads_each
from pipeline.units.unit import Resources

GPU, CPU = Resources(2, 1), Resources(1)


def test_each_device_has_one_unit_and_gives_it_back():
    placement = Placement(Machine(16, 0, ("3", "5")))
    assert [placement.start(GPU) for _ in range(3)] == ["3", "5", None]
    placement.end(GPU, "5")
    assert placement.start(GPU) == "5"


def test_every_device_has_a_unit_also_where_cores_are_few():
    assert at_once(Machine(2, 0, ("cpu", "cpu")), [GPU] * 3) == 2


def test_without_a_device_a_unit_of_a_gpu_takes_its_cores():
    placement = Placement(Machine(4, 0))
    assert [placement.start(GPU) for _ in range(3)] == ["", "", None]


@pytest.mark.parametrize(
    ("machine", "takes", "count"),
    [
        (Machine(4, 0), CPU, 4),
        (Machine(4, 0, most=3), CPU, 3),
        (Machine(4, 0), Resources(3), 1),
        (Machine(16, 16_000), Resources(1, 0, 5_500), 2),
    ],
)
def test_cores_memory_and_the_chosen_number_limit_units(machine, takes, count):
    assert at_once(machine, [takes] * 20) == count


def test_a_unit_that_takes_more_than_there_is_runs_alone():
    placement, huge = Placement(Machine(4, 1_000)), Resources(8, 0, 9_000)
    assert placement.start(huge) == "" and placement.start(CPU) is None
    placement.end(huge, "")
    assert placement.start(CPU) == "" and placement.start(huge) is None


@pytest.mark.parametrize(
    ("cores", "units", "threads"),
    [(16, 30, 1), (64, 30, 2), (160, 30, 5), (320, 30, 8), (16, 1, 8), (1, 1, 1), (2, 0, 2)],
)
def test_threads_fill_the_cores_up_to_a_limit(cores, units, threads):
    assert threads_each(cores, units) == threads
