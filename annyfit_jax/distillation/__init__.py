"""Distillation of fits into the network that they started from: `experiments.distill` is the program, `config` its input."""
