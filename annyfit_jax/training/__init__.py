"""Training of any `annyfit_jax.training.protocol.Regressor`.

`training_loop.train` is the whole; data, one step, the state, checkpoints and metrics have modules of their own.
"""
