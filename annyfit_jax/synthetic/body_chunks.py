"""The body model for many people at once: fixed chunks, so that one compiled program serves every number of people."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from annyfit_jax.people.scene import BodyParameters
from body_models import anny

CHUNK = 64
"""People per compiled evaluation."""
DENSITY = 980.0
"""kg per cubic metre of body, as Anny defines mass."""


def single(array: np.ndarray) -> np.ndarray:
    """Rounded to float32 values (in float64): half the bits of a record are then zeros, which compress."""
    return np.asarray(array, np.float32).astype(np.float64)


def rounded(bodies: BodyParameters) -> BodyParameters:
    """`single` of every parameter."""
    return BodyParameters(*map(single, (bodies.root_rotvec, bodies.transl, bodies.pose, bodies.shape)))


def concatenate(bodies: list[BodyParameters]) -> BodyParameters:
    """All people of a list."""
    names = [field.name for field in dataclasses.fields(BodyParameters)]
    return BodyParameters(**{name: np.concatenate([getattr(body, name) for body in bodies]) for name in names})


def in_chunks(function: Callable[[anny.Params], Array], bodies: BodyParameters) -> np.ndarray:
    """The function's values for all people, float64, evaluated for CHUNK of them at a time."""
    out = []
    for start in range(0, len(bodies), CHUNK):
        part = bodies.select(np.minimum(np.arange(start, start + CHUNK), len(bodies) - 1))
        arrays = (part.shape, part.root_rotvec, part.pose, part.transl)
        values = function(anny.Params(*(jnp.asarray(x, jnp.float32) for x in arrays)))
        out.append(np.asarray(values, np.float64)[: len(bodies) - start])
    return np.concatenate(out)


def surface_points(
    model: anny.AnnyModel, regressor: Float[np.ndarray, "k V"], vertices: Int[np.ndarray, "v"]
) -> anny.AnnyPoints:
    """Contracted points (`anny.points`): those of a regressor, then plain vertices.

    The contraction sees only the vertices that are used: a dense table over all of them would take hundreds of megabytes.
    """
    used = np.union1d(np.flatnonzero((regressor != 0).any(0)), vertices)
    part = model.replace(  # pyright: ignore[reportAttributeAccessIssue]
        vertices=model.vertices.select((slice(None), used)),
        skin=model.skin[:, used],
    )
    one_hot = anny.vertex_regressor(part, np.searchsorted(used, vertices))
    return anny.contract(part, np.concatenate([regressor[:, used], one_hot]))


# ------------------------------------------------------------------------------------------------ sizes at rest


class SizeBasis(NamedTuple):
    """Linear rest state behind heights and head lengths."""

    up_mean: Float[Array, "k"]
    up_basis: Float[Array, "rank k"]
    """Vertical coordinate of the vertices that can be highest or lowest."""
    head_mean: Float[Array, "3"]
    head_basis: Float[Array, "rank 3"]
    """From the neck to the end of the head bone."""


def size_basis(model: anny.AnnyModel) -> SizeBasis:
    """The part of the model that `sizes` needs."""
    shapes = np.random.default_rng(0).random((256, 6))
    rest = jax.jit(anny.rest)
    up = np.concatenate([np.asarray(rest(model, jnp.asarray(s, jnp.float32))[0][..., 2]) for s in np.split(shapes, 8)])
    extreme = np.unique(np.concatenate([up.argmax(1), up.argmin(1)]))
    neck, head = model.labels.bones.index("neck02"), model.labels.bones.index("head")
    return SizeBasis(
        model.vertices.mean[2, extreme],
        model.vertices.basis[:, 2, extreme],
        model.heads.mean[:, head] + model.axes.mean[:, head] - model.heads.mean[:, neck],
        model.heads.basis[:, :, head] + model.axes.basis[:, :, head] - model.heads.basis[:, :, neck],
    )


def sizes(basis: SizeBasis, rest: anny.RestBasis, phenotypes: Float[Array, "n 6"]) -> Float[Array, "n 2"]:
    """Height of the resting body and length of the head, metres."""
    z = anny.coefficients(rest, phenotypes.T, None).T
    up = basis.up_mean + z @ basis.up_basis
    head = basis.head_mean + z @ basis.head_basis
    return jnp.stack([up.max(-1) - up.min(-1), jnp.linalg.norm(head, axis=-1)], axis=-1)


class MassBasis(NamedTuple):
    """A closed mesh at rest."""

    mean: Float[Array, "3 v"]
    basis: Float[Array, "rank 3 v"]
    faces: Int[Array, "f 3"]


def mass(basis: MassBasis, rest: anny.RestBasis, phenotypes: Float[Array, "n 6"]) -> Float[Array, "n"]:
    """Mass of the resting body, kg: the volume of the mesh (divergence theorem) x DENSITY."""
    z = anny.coefficients(rest, phenotypes.T, None)
    x, y, w = jnp.tensordot(basis.basis, z, (0, 0)) + basis.mean[..., None]  # (v, n) each
    a, b, c = basis.faces.T
    triple = (
        x[a] * (y[b] * w[c] - w[b] * y[c]) + y[a] * (w[b] * x[c] - x[b] * w[c]) + w[a] * (x[b] * y[c] - y[b] * x[c])
    )
    return DENSITY / 6.0 * triple.sum(0)


class Sizer:
    """Phenotypes to sizes of the resting body, for any number of people."""

    def __init__(self, model: anny.AnnyModel, vertices: Int[np.ndarray, "v"], faces: Int[np.ndarray, "f 3"]) -> None:
        closed = MassBasis(model.vertices.mean[:, vertices], model.vertices.basis[:, :, vertices], jnp.asarray(faces))
        self._sizes = functools.partial(jax.jit(sizes), size_basis(model), model.rest)
        self._mass = functools.partial(jax.jit(mass), closed, model.rest)

    def height(self, phenotypes: Float[np.ndarray, "n 6"]) -> Float[np.ndarray, "n"]:
        """Metres."""
        return _chunks(self._sizes, phenotypes)[:, 0]

    def head(self, phenotypes: Float[np.ndarray, "n 6"]) -> Float[np.ndarray, "n"]:
        """Length of the head, metres."""
        return _chunks(self._sizes, phenotypes)[:, 1]

    def mass(self, phenotypes: Float[np.ndarray, "n 6"]) -> Float[np.ndarray, "n"]:
        """kg."""
        return _chunks(self._mass, phenotypes)


def _chunks(function: Callable[[Array], Array], phenotypes: np.ndarray) -> np.ndarray:
    out = []
    for start in range(0, len(phenotypes), CHUNK):
        rows = np.minimum(np.arange(start, start + CHUNK), len(phenotypes) - 1)
        values = function(jnp.asarray(phenotypes[rows], jnp.float32))
        out.append(np.asarray(values, np.float64)[: len(phenotypes) - start])
    return np.concatenate(out)
