"""Camera formulas of Multi-HMR against recordings."""

from __future__ import annotations

import jax.numpy as jnp
from multihmr_golden import arrays, close

from annyfit_jax.people.camera import project
from annyfit_jax.regressors.multihmr import ray_embedding

# ------------------------------------------------------------------------------------------------ parts


def test_camera_formulas():
    found = arrays("camera_ops")
    close(ray_embedding.fourier(jnp.asarray(found["fourier_in"])), found["fourier_out"], 1e-4)
    K = jnp.asarray(found["K"])
    rows, columns = found["ray_embed"].shape[1:3]
    rays = ray_embedding.ray_embedding(K, rows, columns, 14)
    close(rays, found["ray_embed"], 2e-4)
    close(project(jnp.asarray(found["pts"]), K[:, None]), found["uv"])
    close(ray_embedding.unproject(jnp.asarray(found["uv"]), jnp.asarray(found["dist"]), K[:, None]), found["back"])
    close(ray_embedding.sine_table(16, 5).reshape(25, 16), found["pos_embed_2d"])


def test_distance_codes():
    found = arrays("camera_ops")
    size, focal = int(found["img_size"]), jnp.asarray(found["focal"])
    close(ray_embedding.relative_of_depth(jnp.asarray(found["depth"]), focal, size), found["target_nearness"])
    depth = ray_embedding.relative_to_depth(jnp.asarray(found["raw_dist"]), focal[:, None], size)
    close(depth, found["euclid_dist"])
    there = ray_embedding.relative_of_depth(jnp.asarray(found["depth"]), focal, size)
    close(ray_embedding.relative_to_depth(there[:, None], focal[:, None], size)[:, 0], found["depth"])
