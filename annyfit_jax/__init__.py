"""Camera-space 3D people of every age from photos, in pure JAX: objective, solver, inputs, outputs, pictures."""

__version__ = "0.1.0"
