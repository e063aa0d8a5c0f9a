"""Settings of an older version are read under the names that they have now."""

from pipelines.runtime.renamed_settings import current_name, current_names, current_tree


def test_settings_and_whole_sections_have_their_names_of_today() -> None:
    assert current_name("train.trouble.max_skipped") == "train.recovery.max_skipped"
    assert current_name("train.troubled") == "train.troubled"
    assert current_names({"model.start": "a", "train.steps": "2"}) == {"model.init_from": "a", "train.steps": "2"}
    tree = {"train": {"copy_to": "x", "learner": {"singular": {"rank": 2}}}, "model": {"start": "m"}}
    assert current_tree(tree) == {
        "train": {"backup_uri": "x", "learner": {"spectral_penalty": {"rank": 2}}},
        "model": {"init_from": "m"},
    }
