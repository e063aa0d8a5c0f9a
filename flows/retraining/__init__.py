"""Retraining: the flow that decides and trains, and the log of earlier retrainings."""
