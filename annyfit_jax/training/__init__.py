"""Training of any `annyfit_jax.regressors.Regressor`: data, step, state, checkpoints, metrics. `loop.train` is the whole."""
