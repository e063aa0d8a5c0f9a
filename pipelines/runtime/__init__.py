"""What every step runs on: the cluster, jobs, keys of finished steps, progress, checks before the start."""
