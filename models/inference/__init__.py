"""From a mixture to its sources: overlap-add, bags, exported graphs."""

# Of overlap-add and levels: raise it when the same network and mixture give other sources.
VERSION = 1
# How estimates are brought to sum to the mixture (`mixture_consistency.py`)
CONSISTENCY_MODES = ("off", "residual", "mask")
