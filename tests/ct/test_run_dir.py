"""The run folder: the path of each file."""

from ct.run_dir import RunDir


def test_every_file_of_a_run_has_its_own_path(tmp_path):
    run = RunDir(str(tmp_path))
    assert run.receipt("tune") == tmp_path / "receipts" / "tune.json"
    assert run.fold("resnet", 2) == tmp_path / "stage1" / "resnet" / "fold2"
    assert run.oof("resnet") == tmp_path / "stage1" / "resnet" / "oof.parquet"
    every = [value for value in vars(run).values() if value != run.root]
    assert len(set(every)) == len(every) and all(path.is_relative_to(tmp_path) for path in every)
    assert list(tmp_path.iterdir()) == []  # nothing is created
