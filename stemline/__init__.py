"""stemline in Python: datasets, models, scores, and the steps of the command line, under names that stay.

    import stemline

    model = stemline.load_model("models:/stemline@champion")
    audio, sample_rate = stemline.read_audio("song.mp3")
    stems = model.separate(audio, sample_rate=sample_rate)

What is listed in `__all__` is public, and keeps its meaning within a major version (docs/reference/python.md). The
rooms below (`models`, `datasets`, `pipelines`, `flows`) may change in every release. Nothing is imported before it is
used, so `import stemline` takes milliseconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stemline.name_clashes import refuse_name_clashes

if TYPE_CHECKING:
    from datasets.errors import InputError
    from stemline.array_scores import score
    from stemline.pipeline_runs import Comparison, compare, configure, plan, promote, train
    from stemline.separator import Model, load_model, read_audio
    from stemline.stored_datasets import Crops, Dataset, Store, open_store

__all__ = [
    "Comparison",
    "Crops",
    "Dataset",
    "InputError",
    "Model",
    "Store",
    "compare",
    "configure",
    "load_model",
    "open_store",
    "plan",
    "promote",
    "read_audio",
    "score",
    "train",
]
_MODULES = {
    "datasets.errors": ("InputError",),
    "stemline.array_scores": ("score",),
    "stemline.pipeline_runs": ("Comparison", "compare", "configure", "plan", "promote", "train"),
    "stemline.separator": ("Model", "load_model", "read_audio"),
    "stemline.stored_datasets": ("Crops", "Dataset", "Store", "open_store"),
}


def __getattr__(name: str) -> Any:
    """A public name, from its module, which is imported now."""
    if name == "__version__":
        from importlib.metadata import version

        return version("stemline")
    for module, names in _MODULES.items():
        if name in names:
            refuse_name_clashes()
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'stemline' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
