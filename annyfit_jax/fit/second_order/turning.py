"""Steps of the root that turn it about its present orientation, so that a fit does not depend on how the camera is turned.

A step dv added to a rotation vector is a different rotation at every v: a picture turned by half a turn would be searched along
other paths. A step w turns instead, R <- exp(w) R. With J the left Jacobian of the rotation vector, w = J dv to first order, so
that a quadratic model in dv becomes one in w by J^-1.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.second_order import jacobian
from annyfit_jax.fit.second_order.columns import ROOT
from annyfit_jax.fit.second_order.lm import System
from body_models import rotations


def in_turns(system: System, x: Float[Array, "D N"]) -> System:
    """The quadratic model at x in steps that turn the root; only the lower triangle of its matrix is right."""
    inverse = jacobian.inverse_left_jacobian(x[ROOT])
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
