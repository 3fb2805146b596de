"""The memory that a CNN's unit asks for grows with its batches and with the slice table."""

from ct.run_dir import RunDir
from pipeline.recipe import find_recipe, load_recipe
from pipeline.training.unit_resources import cnn_resources, count_slices


def test_ten_competitions_take_memory_on_the_cpu_and_beside_a_gpu():
    recipe = load_recipe(find_recipe("gold"))
    config, size = recipe.stage1.models[0], recipe.pixels.size
    few, many = (cnn_resources(config, size, slices) for slices in (0, 8_740_350))
    for name in ("memory_mb", "memory_with_gpu_mb"):
        assert 6600 < getattr(many, name) - getattr(few, name) < 9000
    assert (many.cores, many.gpus) == (few.cores, few.gpus) == (2, 1)
    smaller = cnn_resources(config.model_copy(update={"batch": 8}), size, 0)
    assert smaller.memory_mb < few.memory_mb / 2


def test_the_slices_are_counted_from_the_table(finished, tmp_path):
    assert count_slices(RunDir(finished)) == 40
    assert count_slices(RunDir(tmp_path)) == 0
