"""The lifter in training and as a predictor of people: data on the fly, losses, the regressor of the trainer.

The network itself, what it sees and what its numbers mean stand in `annyfit_jax.lifting`.
"""
