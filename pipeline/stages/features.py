"""The stage `features`: the matrix of features from the predictions of the CNNs."""

from ct.storage.file_formats import read_table, write_json
from features.build import build_features, feature_names
from features.columns import describe
from pipeline.stage_data.cross_fitting import cross_fitted, new_array
from pipeline.stage_data.run_tables import load_predictions


def features(run, receipt):
    """Build X of the train slices from out-of-fold opinions, and of the test slices once per fold's
    CNNs.
    """
    slices, config, k_folds = read_table(run.dir.slices), run.recipe.features, run.recipe.folds.k
    folder = run.dir.stage2 / "features"
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    said = load_predictions(run, train.index)
    names = feature_names(list(said), config)
    with run.bar(1 + k_folds, "features", "table") as bar:
        fitted, fitted_test = cross_fitted(run, train, test, said)
        with new_array(folder / "train.npy", (len(train), len(names))) as X:
            build_features(train, said, config, **fitted, out=X)
        bar.update()
        with new_array(folder / "test.npy", (k_folds, len(test), len(names))) as X:
            for k in range(k_folds):
                build_features(
                    test, load_predictions(run, test.index, k), config, **fitted_test[k], out=X[k]
                )
                bar.update()
    write_json(folder / "names.json", {name: describe(name) for name in names})
    receipt.made = [folder]
    run.log(
        f"  {len(names)} features of {len(train)} train slices and of {len(test)} test slices x {k_folds} folds"
    )
