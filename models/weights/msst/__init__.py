"""Checkpoints of Music-Source-Separation-Training, the trainer that most published RoFormers and SCNets come from."""
