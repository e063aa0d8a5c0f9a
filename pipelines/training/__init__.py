"""Training on Ray Train, from the estimate to the finished run."""
