"""Steps of the root that turn it about its present orientation, so that a fit does not depend on how the camera is turned.

A step dv added to a rotation vector is a different rotation at every v: a picture turned by half a turn would be searched along
other paths. A step w turns instead, R <- exp(w) R. With J the left Jacobian of the rotation vector, w = J dv to first order, so
that a quadratic model in dv becomes one in w by J^-1.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.second_order.columns import ROOT
from annyfit_jax.fit.second_order.lm import System
from body_models import rotations


def in_turns(system: System, x: Float[Array, "D N"]) -> System:
    """The quadratic model at x in steps that turn the root; only the lower triangle of its matrix is right."""
    inverse = inverse_left_jacobian(x[ROOT])
    m = system.matrix
    lower = jnp.tril(m[:, ROOT, ROOT])
    whole = lower + jnp.swapaxes(jnp.tril(lower, -1), 1, 2)
    m = m.at[:, ROOT, : ROOT.start].set(jnp.einsum("jin,njd->nid", inverse, m[:, ROOT, : ROOT.start]))
    m = m.at[:, ROOT, ROOT].set(jnp.einsum("jin,njk,kln->nil", inverse, whole, inverse))
    m = m.at[:, ROOT.stop :, ROOT].set(jnp.einsum("ndk,kln->ndl", m[:, ROOT.stop :, ROOT], inverse))
    return system._replace(
        matrix=m,
        gradient=system.gradient.at[ROOT].set(jnp.einsum("jin,jn->in", inverse, system.gradient[ROOT])),
        cross=system.cross.at[ROOT].set(jnp.einsum("jin,jqn->iqn", inverse, system.cross[ROOT])),
    )


def turned(x: Float[Array, "D N"], change: Float[Array, "D N"]) -> Float[Array, "D N"]:
    """x after a step: the root turns, every other variable is added to."""
    return (x + change).at[ROOT].set(rotations.compose(change[ROOT], x[ROOT]))


def inverse_left_jacobian(rotvec: Float[Array, "3 *batch"]) -> Float[Array, "3 3 *batch"]:
    """J^-1 = I - [v]x / 2 + c [v]x^2, c = (1 - (t/2) cot(t/2)) / t^2, t = |v| < 2 pi (Sola et al. 2018, eq. 146)."""
    squared = (rotvec**2).sum(0)
    small = squared < 0.04
    half = 0.5 * jnp.sqrt(jnp.where(small, 1.0, squared))
    c = jnp.where(
        small,
        1.0 / 12.0 + squared / 720.0 * (1.0 + squared / 42.0 * (1.0 + squared / 40.0)),
        (1.0 - half * jnp.cos(half) / jnp.sin(half)) / jnp.where(small, 1.0, squared),
    )
    x, y, z = rotvec
    zero = jnp.zeros_like(x)
    skew = jnp.stack([jnp.stack([zero, -z, y]), jnp.stack([z, zero, -x]), jnp.stack([-y, x, zero])])
    eye = jnp.eye(3, dtype=rotvec.dtype).reshape(3, 3, *(1,) * (rotvec.ndim - 1))
    return eye * (1.0 - c * squared) - 0.5 * skew + c * rotvec[:, None] * rotvec[None]
