"""One training step: learner, losses, augmentation, averages, learnt bit widths."""
