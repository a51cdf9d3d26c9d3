"""Interpenetration as a cost of the list (`contacts` has its formulas)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.second_order import contacts
from annyfit_jax.fit.second_order.costs.base import Model, Tangents, View


class _Contacts:
    name = "interpenetration"

    def on(self, settings: MapObjective) -> bool:
        return settings.interpenetration

    def energy(self, view: View) -> Float[Array, "N"]:
        if not len(view.cues.first):
            return jnp.zeros_like(view.x[0])
        return contacts.energy(view.settings, view.body, view.cues, view.frozen.radii, view.keypoints)

    def model(self, view: View, tangents: Tangents) -> Model:
        if not len(view.cues.first):
            return Model(jnp.zeros_like(view.x[0]))
        value, push, stiff = contacts.forces(view.settings, view.body, view.cues, view.frozen.radii, view.keypoints)
        people = push.shape[-1]
        # Whole people give way: bones feel the push, but the curvature of their giving way is left to the damping.
        matrix = jnp.zeros((people, *(view.x.shape[0],) * 2), push.dtype).at[:, :3, :3].set(jnp.moveaxis(stiff, -1, 0))
        return Model(value, gradient=jnp.einsum("ikn,ikdn->dn", push, tangents.keypoints), matrix=matrix)


CONTACTS = _Contacts()
