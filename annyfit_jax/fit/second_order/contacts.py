"""Interpenetration: spheres along the limbs of different people of one image keep out of each other.

    E = sum over pairs of people and of spheres  1/2 GM(max(0, r_a + r_b - |c_a - c_b|)^2 / sd^2 ; 3)

robust, because people who hug do overlap.

Centres are weighted means of keypoints. The curvature handed to the solver is block diagonal in keypoints and twice the
Gauss-Newton one, which bounds the coupling of the two people and, the weights of a centre summing to one, of its keypoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.second_order import robust

if TYPE_CHECKING:
    from annyfit_jax.fit.second_order.map_body import MapBody
    from annyfit_jax.fit.second_order.map_cues import MapCues

_WIDTH = 3.0
"""Width of the Geman-McClure function, in sd."""
_LOOSE = 1.0
"""Curvature added to every keypoint so that its root exists, 1/m^2: a spread of one metre."""


def _excess(
    settings: MapObjective, body: MapBody, cues: MapCues, radii: Array, keypoints: Array
) -> tuple[Array, Array, Array]:
    """Weights (S, 17); excess (S, S, P) in sd; unit vectors (3, S, S, P) from the second sphere to the first."""
    weights = jnp.asarray(body.layout.spheres, keypoints.dtype)
    centres = jnp.einsum("sk,ikn->isn", weights, keypoints)
    first, second = centres[:, :, cues.first], centres[:, :, cues.second]
    apart = first[:, :, None] - second[:, None]
    distance = jnp.sqrt(jnp.maximum((apart**2).sum(0), 1e-8))
    reach = radii[:, cues.first][:, None] + radii[:, cues.second][None]
    excess = jnp.maximum(reach - distance, 0.0) / settings.contact_sd_m * cues.together
    return weights, excess, apart / distance


def energy(
    settings: MapObjective, body: MapBody, cues: MapCues, radii: Float[Array, "S N"], keypoints: Float[Array, "3 17 N"]
) -> Float[Array, "N"]:
    """Half of every pair's energy to each of its people."""
    _, excess, _ = _excess(settings, body, cues, radii, keypoints)
    value, _ = robust.geman_mcclure(excess**2, _WIDTH)
    return _per_person(cues, value.sum((0, 1)), keypoints.shape[-1])


def _per_person(cues: MapCues, value: Float[Array, "P"], people: int) -> Float[Array, "N"]:
    to = lambda index: jax.ops.segment_sum(0.5 * value, index, num_segments=people)  # noqa: E731
    return to(cues.first) + to(cues.second)


def rows(
    settings: MapObjective, body: MapBody, cues: MapCues, radii: Float[Array, "S N"], keypoints: Float[Array, "3 17 N"]
) -> tuple[Float[Array, "N"], Float[Array, "3 3 17 N"], Float[Array, "3 17 N"]]:
    """Energy per person, and row functionals and values of the keypoints whose normal equations are its model."""
    people = keypoints.shape[-1]
    weights, excess, normal = _excess(settings, body, cues, radii, keypoints)
    value, weight = robust.geman_mcclure(excess**2, _WIDTH)
    force = -weight * excess / settings.contact_sd_m * normal  # (3, S, S, P) on the first sphere
    stiff = 2.0 * weight * (excess > 0) / settings.contact_sd_m**2 * normal[:, None] * normal[None]

    def to_people(on_first: Array, on_second: Array) -> Array:
        """(..., S, P) of either person -> (..., S, N)."""
        both = jnp.concatenate([on_first, on_second], axis=-1)
        index = jnp.concatenate([cues.first, cues.second])
        summed = jax.ops.segment_sum(jnp.moveaxis(both, -1, 0), index, num_segments=people)
        return jnp.moveaxis(summed, 0, -1)

    on_spheres = to_people(force.sum(2), -force.sum(1))
    curved = to_people(stiff.sum(3), stiff.sum(2))
    push = jnp.einsum("sk,isn->ikn", weights, on_spheres)
    matrix = jnp.einsum("sk,ijsn->ijkn", weights, curved)
    upper = _cholesky3(matrix + _LOOSE * jnp.eye(3, dtype=matrix.dtype)[:, :, None, None])
    touched = jnp.diagonal(matrix).sum(-1) > 0
    upper = jnp.where(touched, upper, 0.0)
    # F^T F is the curvature; values v with F^T v = push.
    values = _forward_substitute(jnp.where(touched, upper, jnp.eye(3, dtype=matrix.dtype)[:, :, None, None]), push)
    return _per_person(cues, value.sum((0, 1)), people), upper, jnp.where(touched, values, 0.0)


def _cholesky3(a: Float[Array, "3 3 *batch"]) -> Float[Array, "3 3 *batch"]:
    """Upper factor F of 3x3 matrices, F^T F = a."""
    f00 = jnp.sqrt(a[0, 0])
    f01, f02 = a[0, 1] / f00, a[0, 2] / f00
    f11 = jnp.sqrt(a[1, 1] - f01 * f01)
    f12 = (a[1, 2] - f01 * f02) / f11
    f22 = jnp.sqrt(jnp.maximum(a[2, 2] - f02 * f02 - f12 * f12, 1e-6))
    zero = jnp.zeros_like(f00)
    return jnp.stack([jnp.stack([f00, f01, f02]), jnp.stack([zero, f11, f12]), jnp.stack([zero, zero, f22])])


def _forward_substitute(f: Float[Array, "3 3 *batch"], b: Float[Array, "3 *batch"]) -> Float[Array, "3 *batch"]:
    """v with F^T v = b for an upper F."""
    v0 = b[0] / f[0, 0]
    v1 = (b[1] - f[0, 1] * v0) / f[1, 1]
    v2 = (b[2] - f[0, 2] * v0 - f[1, 2] * v1) / f[2, 2]
    return jnp.stack([v0, v1, v2])
