"""Distillation of fits into the network that they started from.

`experiments.distill` is the program, `distillation_config` what decides one, `fit_labels` the choice of labels, and
`distillation_report` the page of results.
"""
