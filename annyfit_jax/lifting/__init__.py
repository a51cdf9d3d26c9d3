"""The lifter at work: 2D keypoints of a person in, several hypotheses of the body out, each with its probability.

The network, what it sees and what its numbers mean stand here, below the fit, which starts from its hypotheses. How it is
trained stands in `annyfit_jax.regressors.lifter`.
"""
