"""One training step: learner, losses, augmentation, averages, learnt bit widths."""

# Of a training step: raise it when the same batch, weights and settings give other weights.
VERSION = 1
