"""Gravity and the ground: people stand upright on a floor that the camera sees from a certain height, pitch and roll."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.second_order import robust as robust_functions
from annyfit_jax.fit.second_order.columns import GROUND, PITCH, ROLL, up
from annyfit_jax.fit.second_order.costs.base import Person, ResidualCost, View, robust
from annyfit_jax.fit.second_order.map_body import MapBody
from annyfit_jax.fit.second_order.map_cues import MapCues
from annyfit_jax.people.scene import COCO17

_J = {name: i for i, name in enumerate(COCO17)}


def _between(upper: str, lower: str) -> np.ndarray:
    weights = np.zeros(len(COCO17))
    for part, weight in ((upper, 0.5), (lower, -0.5)):
        weights[[_J[f"left_{part}"], _J[f"right_{part}"]]] = weight
    return weights


AXES = np.stack([_between("shoulder", "ankle"), _between("shoulder", "hip")])
"""(axis, 17): from the ankles to the shoulders, from the hips to the shoulders."""


def _off_axes(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "6"]:
    (mode,) = given
    g = up(person.scene[PITCH], person.scene[ROLL] + mode)
    axes = person.keypoints @ jnp.asarray(AXES.T, g.dtype)
    unit = axes / jnp.sqrt((axes**2).sum(0) + 1e-6)
    sd = jnp.asarray([settings.standing_sd, settings.trunk_sd], g.dtype)
    return ((unit - g[:, None]) / sd).T.reshape(-1)


def _upright(view: View, r: Float[Array, "6 N"]) -> tuple[Array, Array]:
    """-log [w_standing N + w_trunk N + w_any / 4 pi], densities over directions."""
    settings = view.settings
    sd = np.array([settings.standing_sd, settings.trunk_sd])
    shares = np.array([settings.standing_share, settings.trunk_share])
    squared = (r.reshape(2, 3, -1) ** 2).sum(1)
    log_weight = jnp.asarray(np.log(shares / (2.0 * np.pi * sd**2)), r.dtype)[:, None]
    anything = np.log((1.0 - shares.sum()) / (4.0 * np.pi))
    log_joint = jnp.concatenate([log_weight - 0.5 * squared, jnp.full_like(squared[:1], anything)])
    share = jax.nn.softmax(log_joint, axis=0)[:2]
    return -jax.nn.logsumexp(log_joint, axis=0), jnp.repeat(share, 3, axis=0)


GRAVITY = ResidualCost(
    "gravity", lambda s: s.gravity, lambda view: (view.frozen.roll_mode,), _off_axes, _upright, reads_keypoints=True
)


def _off_ground(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "1"]:
    foot, mode, on = given
    g = up(person.scene[PITCH], person.scene[ROLL] + mode)
    return (jnp.sqrt(on) * (g @ (person.rigid[:3] + foot) + person.scene[GROUND]) / settings.ground_sd_m)[None]


def _grounded(view: View) -> Any:
    return view.frozen.foot_offset, view.frozen.roll_mode, view.cues.grounded


_ROBUST_SD = 3.0
GROUND_PLANE = ResidualCost("ground", lambda s: s.ground_plane, _grounded, _off_ground, robust(_ROBUST_SD))
"""1/2 GM((up . foot + H)^2 / sd^2): the lowest point of each person lies on one plane, H below the camera."""


_FACE_SOFT = 0.25
_FACE_WIDTH = 2.5
"""Some programs mark faces that look away, and faces may be covered: neither costs more than 3 nats."""


def _turned(person: Person, given: Any, body: MapBody, settings: MapObjective) -> Float[Array, "1"]:
    """Softplus of how far a face that is seen looks away from the camera, or one that is not seen looks at it."""
    visible, hidden = given
    k = person.keypoints
    ears = 0.5 * (k[:, _J["left_ear"]] + k[:, _J["right_ear"]])
    forward = k[:, _J["nose"]] - ears
    forward = forward / jnp.sqrt((forward**2).sum() + 1e-6)
    view = ears / jnp.sqrt((ears**2).sum() + 1e-6)
    return _misplaced(forward @ view, visible, hidden)[None]


def _misplaced(
    away: Float[Array, "*n"], visible: Float[Array, "*#n"], hidden: Float[Array, "*#n"]
) -> Float[Array, "*n"]:
    """`away`: cosine between where the face looks and the line of sight, 1 for a face that looks away."""
    return jnp.sqrt(visible + hidden) * jax.nn.softplus(jnp.where(hidden > 0, -away, away) / _FACE_SOFT)


def _faces(view: View) -> Any:
    return view.cues.face_visible, view.cues.face_hidden


def face_nats(away: Float[Array, "A N"], cues: MapCues) -> Float[Array, "A N"]:
    """The cost of `FACE` for candidates whose faces look away by these cosines."""
    r = _misplaced(away, jnp.asarray(cues.face_visible), jnp.asarray(cues.face_hidden))
    return robust_functions.geman_mcclure(r**2, _FACE_WIDTH)[0]


FACE = ResidualCost("face", lambda s: s.visible_face, _faces, _turned, robust(_FACE_WIDTH), reads_keypoints=True)
"""Detectors mark nose and eyes of faces that are turned to the camera, and of no others."""
