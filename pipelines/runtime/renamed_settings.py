"""Settings that were renamed: what an older version stored (configurations, parameters of runs) is still read."""

from collections.abc import Mapping
from typing import Any

# Old name: new name; a section stands for all settings in it. Renamed in 0.2.0.
RENAMED = {
    "train.hang_s": "train.worker_timeout_s",
    "train.elastic_look_s": "train.elastic_check_s",
    "train.copy_to": "train.backup_uri",
    "train.trouble": "train.recovery",
    "train.learner.final_fraction": "train.learner.min_lr_ratio",
    "train.learner.robust_drop": "train.learner.trim_loss_drop",
    "train.learner.robust_group": "train.learner.trim_loss_group",
    "train.learner.robust_after": "train.learner.trim_loss_after",
    "train.learner.singular": "train.learner.spectral_penalty",
    "model.start": "model.init_from",
    "evaluate.all_four": "evaluate.full_bss_eval",
    "retrain.pause_h": "retrain.min_interval_h",
    "retrain.moved_alias": "retrain.on_manual_promotion",
}


def current_name(name: str) -> str:
    """The dotted name that a setting has now: the same one where it was not renamed."""
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def current_names(flat: Mapping[str, str]) -> dict[str, str]:
    """Settings by dotted name, each under the name that it has now."""
    return {current_name(name): value for name, value in flat.items()}


def current_tree(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Nested settings, each key under the name that it has now; a renamed setting stays in its section."""
    return {
        current_name(f"{at}{key}").rpartition(".")[2]: current_tree(value, f"{at}{key}.")
        if isinstance(value, Mapping)
        else value
        for key, value in tree.items()
    }
