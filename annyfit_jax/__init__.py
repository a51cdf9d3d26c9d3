"""Camera-space 3D people of every age from photos, in pure JAX: objective, solver, inputs, outputs, pictures."""

import body_models

__version__ = "0.1.0"

if getattr(body_models, "OWNER", None) != "annyfit-jax":
    raise ImportError(
        f"annyfit_jax needs its own package `body_models`, but the import name leads to {body_models.__file__}, "
        "probably the PyPI distribution `body-models`. Run `pip uninstall body-models`, or put this project first on the "
        "path."
    )
