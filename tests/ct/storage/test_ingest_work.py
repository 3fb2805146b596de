"""The work folder of ingest: unfinished work survives an interruption while its inputs stay."""

import pytest

from ct.storage.ingest_work import resumable_folder


class Broken(Exception):
    """Raised inside a block."""


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_unfinished_work_is_kept_while_its_inputs_are_the_same(tmp_path, error):
    inputs = {"source": "d1", "size": 64, "nested": {"a": (1, 2), "b": None}}
    with pytest.raises(error), resumable_folder(tmp_path / "w.part", inputs) as work:
        (work / "piece").write_text("one")
        raise error
    with pytest.raises(error), resumable_folder(tmp_path / "w.part", inputs) as work:
        assert (work / "piece").read_text() == "one"
        raise error
    with pytest.raises(error), resumable_folder(tmp_path / "w.part", inputs | {"size": 65}) as work:
        assert names(work) == ["inputs.json"]
        (work / "piece").write_text("two")
        raise error
    (tmp_path / "w.part" / "inputs.json").write_text('{"size"')  # as after a full disk
    lines = []
    with resumable_folder(tmp_path / "w.part", inputs | {"size": 65}, lines.append) as work:
        assert names(work) == ["inputs.json"]
    assert lines == [
        "  w.part was made from other inputs, or is damaged; the interrupted work starts again"
    ]
    with resumable_folder(tmp_path / "w.part", inputs, lines.append):
        assert len(lines) == 1  # no line where there was no work
    assert names(tmp_path) == []
