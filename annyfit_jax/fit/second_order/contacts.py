"""Interpenetration: spheres along the limbs of different people of one image keep out of each other.

    E = sum over pairs of people and of spheres  1/2 GM(max(0, r_a + r_b - |c_a - c_b|)^2 / sd^2 ; 3)

robust, because people who hug do overlap.

Centres are weighted means of keypoints.
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


def forces(
    settings: MapObjective, body: MapBody, cues: MapCues, radii: Float[Array, "S N"], keypoints: Float[Array, "3 17 N"]
) -> tuple[Float[Array, "N"], Float[Array, "3 17 N"], Float[Array, "3 3 N"]]:
    """Energy per person, its gradient by the keypoints, and its curvature by the person's translation.

    The curvature is twice the Gauss-Newton one: it bounds the coupling of the two people.
    """
    people = keypoints.shape[-1]
    weights, excess, normal = _excess(settings, body, cues, radii, keypoints)
    value, weight = robust.geman_mcclure(excess**2, _WIDTH)
    force = -weight * excess / settings.contact_sd_m * normal  # (3, S, S, P) on the first sphere
    touching = 2.0 * weight * (excess > 0) / settings.contact_sd_m**2
    stiff = jnp.einsum("abp,iabp,jabp->ijp", touching, normal, normal)

    def to_people(on_first: Array, on_second: Array) -> Array:
        """(..., P) of either person -> (..., N)."""
        both = jnp.concatenate([on_first, on_second], axis=-1)
        index = jnp.concatenate([jnp.asarray(cues.first), jnp.asarray(cues.second)])
        summed = jax.ops.segment_sum(jnp.moveaxis(both, -1, 0), index, num_segments=people)
        return jnp.moveaxis(summed, 0, -1)

    on_spheres = to_people(force.sum(2), -force.sum(1))
    push = jnp.einsum("sk,isn->ikn", weights, on_spheres)
    return _per_person(cues, value.sum((0, 1)), people), push, to_people(stiff, stiff)
