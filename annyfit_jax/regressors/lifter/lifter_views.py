"""People to learn from, drawn on the fly: a pose of the bank on a body of any age, seen by a camera, as a detector finds it.

Everything random is drawn per row by a key (`draw`), what follows from it is computed for all people of a batch (`look`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from annyfit_jax.fit.config import MapObjective
from annyfit_jax.fit.second_order.hypotheses import READINGS
from annyfit_jax.fit.second_order.map_cues import KEYPOINT_OFFSETS_M
from annyfit_jax.lifting import lifter_features, lifter_rig
from annyfit_jax.lifting.lifter_features import NUM_AGES, Seen, Told
from annyfit_jax.lifting.lifter_rig import BONES, HIPS, NUM_BONES, LifterRig
from annyfit_jax.people.anthropometry import mean_height_phenotypes
from annyfit_jax.people.scene import COCO17, DEFAULT_FOV_DEGREES
from annyfit_jax.people.words import AGE_CLASSES
from annyfit_jax.regressors.lifter.lifter_bank import Bank
from body_models.rotations import rotvec_to_matrix


@dataclass(frozen=True)
class LifterData:
    """What people, cameras and detectors are like. Shares are probabilities."""

    bank: str = ""
    """File of poses (`experiments.builders.build_lifter_bank`)."""
    sources: tuple[float, float, float] = (0.38, 0.30, 0.32)
    """Share of each of `lifter_bank.SOURCES`."""
    other_arm: float = 0.3
    """An arm of another pose of the bank; `other_leg` likewise."""
    other_leg: float = 0.08
    age_of_posture: float = 0.7
    """The body has the age that the posture was made for, where it was made for one."""
    age_share: tuple[float, ...] = (0.10, 0.12, 0.13, 0.10, 0.42, 0.13)
    """Share of each age class."""
    pitch_degrees: float = 7.0
    pitch_sd_degrees: float = 15.0
    any_pitch: float = 0.35
    """Pitch anywhere between the ends of `pitch_range`, degrees, downwards positive."""
    pitch_range: tuple[float, float] = (-30.0, 80.0)
    roll_sd_degrees: float = 6.0
    any_roll: float = 0.08
    """Roll anywhere within 30 degrees, and `turned` by quarter turns."""
    turned: float = 0.04
    fov_range: tuple[float, float] = (25.0, 110.0)
    focal_guessed: float = 0.3
    """The focal length is that of `DEFAULT_FOV_DEGREES`, whatever the camera."""
    noise: tuple[float, float] = (0.005, 0.03)
    """Range of a person's pixel noise as a share of their size."""
    wild: float = 0.015
    """Keypoints that are anywhere; a `false_limb` is an arm or leg elsewhere as a whole."""
    false_limb: float = 0.02
    swapped: float = 0.03
    """Legs, arms or both with left and right exchanged."""
    half_hidden: float = 0.0
    """Of such people a half is hidden, on one side of a line through their middle."""
    words: float = 0.5
    """Age and gender are told; `wrong_word` of the ages is a neighbour's."""
    wrong_word: float = 0.12
    facts: float = 0.15
    """Height, and gravity, are told."""


class View(NamedTuple):
    """n people, as they are and as they are seen."""

    seen: Seen
    root: Float[Array, "n 3 3"]
    """From the body's axes to those of the line of sight."""
    turns: Float[Array, "n B 3 3"]
    segment: Float[Array, "n 17 Q 3"]
    """Resting segments of the true body (`lifter_rig.segments`)."""
    height_m: Float[Array, "n"]
    """From the nose to the ankles at rest."""
    shape: Float[Array, "n 6"]
    age: Int[Array, "n"]
    """Class of age."""


_J = {name: i for i, name in enumerate(COCO17)}
_FACE = np.array([name.split("_")[-1] in ("nose", "eye", "ear") for name in COCO17])
_END = np.array([name.split("_")[-1] in ("elbow", "wrist", "knee", "ankle") for name in COCO17])
_CORE = np.array([name.split("_")[-1] in ("shoulder", "hip") for name in COCO17])
_SIDE = np.array([{"left": 1, "right": 2}.get(name.split("_")[0], 0) for name in COCO17])
_BONE_SIDE = np.array([{"L": 1, "R": 2}.get(name[-1], 0) if name[-2:-1] == "." else 0 for name in BONES])
_BONE_ARM = np.array([name.startswith(("clavicle", "shoulder", "upperarm", "lowerarm")) for name in BONES])
_BONE_LEG = np.array([name.startswith(("upperleg", "lowerleg", "foot")) for name in BONES])
_UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
"""From the world (z up) to a level camera (y down, z forward)."""
_NEAREST_M = 0.35
_USUAL_SPAN_M = 1.55
"""From the nose to the ankles of an adult, at rest."""


def _offsets() -> np.ndarray:
    """(17, 3) offsets of detectors' keypoints as shares of the span from nose to ankles, bone's rest axes."""
    out = np.zeros((len(COCO17), 3))
    for i, name in enumerate(COCO17):
        side, _, part = name.rpartition("_")
        offset = np.array(KEYPOINT_OFFSETS_M["coco"].get(part, (0.0, 0.0, 0.0)))
        out[i] = offset * (-1.0 if side == "right" else 1.0, 1.0, 1.0)
    return out / _USUAL_SPAN_M


class Drawn(NamedTuple):
    """Everything random about n people: poses and bodies drawn already, the rest as uniform and normal numbers."""

    pose: Float[Array, "n B 3"]
    up: Float[Array, "n 3"]
    age: Int[Array, "n"]
    shape: Float[Array, "n 6"]
    uniform: Float[Array, "n U"]
    normal: Float[Array, "n V"]
    point_uniform: Float[Array, "n 17 4"]
    point_normal: Float[Array, "n 17 7"]


_UNIFORMS, _NORMALS = 40, 12


def draw(data: LifterData, bank: Bank, key: jax.Array, count: int) -> Drawn:
    """`count` people, decided by the key."""
    # Two draws, cut into columns: every draw of its own would be compiled anew.
    points = len(COCO17)
    to_uniform, to_normal = jax.random.split(key)
    uniform = _Columns(jax.random.uniform(to_uniform, (count, 20 + _UNIFORMS + 4 * points)))
    normal = _Columns(jax.random.normal(to_normal, (count, 3 * NUM_BONES + 4 + _NORMALS + 7 * points)))

    def pick() -> Array:
        """Rows of the bank, each source with its share."""
        of_source, within = uniform.take(), uniform.take()
        rows = jnp.stack([source[(within * len(source)).astype(jnp.int32)] for source in bank.rows])
        return jnp.take_along_axis(rows, _by_share(of_source, data.sources)[None], axis=0)[0]

    row = pick()
    pose = bank.pose[row]
    for bones, share in ((_BONE_ARM, data.other_arm), (_BONE_LEG, data.other_leg)):
        for side in (1, 2):
            mine = bones & (side == _BONE_SIDE)
            other = (uniform.take() < share)[:, None, None] & jnp.asarray(mine)[:, None]
            pose = jnp.where(other, bank.pose[pick()], pose)
    loose = jnp.where(jnp.asarray(_BONE_ARM | _BONE_LEG), 1.0, 0.3)[:, None]
    pose = pose + normal.take(NUM_BONES, 3) * (0.2 * uniform.take() ** 2)[:, None, None] * loose
    fitting = (bank.age[row] >= 0) & (uniform.take() < data.age_of_posture)
    age = jnp.where(fitting, bank.age[row], _by_share(uniform.take(), data.age_share))
    shape = _bodies(age, uniform.take(), uniform.take(), uniform.take(), normal.take(4))
    return Drawn(
        pose, bank.up[row], age, shape, uniform.take(_UNIFORMS), normal.take(_NORMALS), uniform.take(points, 4),
        normal.take(points, 7),
    )  # fmt: skip


class _Columns:
    """Hands out columns of random numbers, each once."""

    def __init__(self, numbers: Float[Array, "n _"]) -> None:
        self._numbers, self._next = numbers, 0

    def take(self, *shape: int) -> Array:
        """(n, *shape) of them."""
        begin, self._next = self._next, self._next + math.prod(shape)
        if self._next > self._numbers.shape[1]:
            raise ValueError("more random numbers are asked for than were drawn")
        return self._numbers[:, begin : self._next].reshape(len(self._numbers), *shape)


def _by_share(uniform: Float[Array, "n"], shares: tuple[float, ...]) -> Int[Array, "n"]:
    bounds = jnp.asarray(np.cumsum(shares) / np.sum(shares))
    return (uniform[:, None] > bounds[:-1]).sum(1)


def _bodies(
    age: Int[Array, "n"], u: Array, sex: Array, within: Array, build: Float[Array, "n 4"]
) -> Float[Array, "n 6"]:
    """Phenotypes of people of the age classes, at heights of the population."""
    settings = MapObjective()
    low, high = (jnp.asarray([table[name] for name in AGE_CLASSES]) for table in (settings.age_low, settings.age_high))
    age_phenotype = low[age] + u * (high[age] - low[age])
    gender = jnp.where(sex < 0.5, 0.0, 0.88) + 0.12 * within
    ages, male, female = (jnp.asarray(table) for table in mean_height_phenotypes())
    tall = jnp.interp(age_phenotype, ages, male) * (1 - gender) + jnp.interp(age_phenotype, ages, female) * gender
    half = jnp.full_like(tall, 0.5)
    rest = jnp.stack([half, half, tall, half], -1) + build * jnp.asarray([0.12, 0.12, 0.08, 0.12])
    return jnp.concatenate([jnp.stack([gender, age_phenotype], -1), jnp.clip(rest, 0.05, 0.95)], -1)


def look(data: LifterData, rig: LifterRig, drawn: Drawn) -> View:
    """The people as they are and as a detector finds them in a picture."""
    u, g = iter(drawn.uniform.T), iter(drawn.normal.T)
    chance = lambda share: next(u) < share  # noqa: E731
    n = len(drawn.pose)
    at, turns = lifter_rig.posed(rig, drawn.shape, drawn.pose)
    span = lifter_rig.span(lifter_rig.rest_keypoints(rig, drawn.shape))
    # Detectors place keypoints by their own convention, more or less.
    rides = jnp.concatenate([jnp.broadcast_to(jnp.eye(3), (n, 1, 3, 3)), turns], 1)[:, np.array(rig.layout.rides)]
    shift = jnp.einsum("njab,jb->nja", rides, jnp.asarray(_offsets()))
    at = at + shift * (1.2 * next(u) * span)[:, None, None]
    # The camera.
    in_world = _shortest_arc_to_z(drawn.up)
    tilt = rotvec_to_matrix(0.06 * jnp.stack([next(g), next(g), next(g)], -1))
    world = _about_z(2.0 * np.pi * next(u)) @ tilt @ in_world
    pitch = jnp.radians(data.pitch_degrees + data.pitch_sd_degrees * next(g))
    low, high = np.radians(data.pitch_range)
    pitch = jnp.where(chance(data.any_pitch), low + (high - low) * next(u), pitch)
    roll = jnp.radians(data.roll_sd_degrees) * next(g)
    roll = jnp.where(chance(data.any_roll), np.radians(30.0) * (2.0 * next(u) - 1.0), roll)
    roll = roll + jnp.where(chance(data.turned), 0.5 * np.pi * jnp.floor(1.0 + 3.0 * next(u)), 0.0)
    camera = _about_z(roll) @ _about_x(pitch)
    root = camera @ jnp.asarray(_UPRIGHT) @ world
    about_hips = at - at[:, np.array(HIPS)].mean(1, keepdims=True)
    inside = jnp.einsum("nij,nkj->nki", root, about_hips)
    # Where they stand: their extent as a share of the picture, then a place in it.
    half_fov = 0.5 * jnp.radians(data.fov_range[0] + (data.fov_range[1] - data.fov_range[0]) * next(u))
    half = jnp.tan(half_fov)
    extent = jnp.ptp(inside[..., :2], axis=1).max(-1)
    share = jnp.exp(np.log(0.06) + np.log(1.8 / 0.06) * next(u))
    depth = jnp.maximum(extent / (share * half), _NEAREST_M - inside[..., 2].min(1))
    centre = jnp.stack([0.9 * half * (2.0 * next(u) - 1.0), 0.55 * half * (2.0 * next(u) - 1.0), jnp.ones(n)], -1)
    placed = inside + (centre * depth[:, None])[:, None]
    rays = placed[..., :2] / placed[..., 2:]
    found, confidence = _detected(data, drawn, inside, rays, u)
    # A guessed focal length stretches all rays; the person looks the same about the line of sight.
    guessed = chance(data.focal_guessed)
    stretch = jnp.tan(np.radians(0.5 * DEFAULT_FOV_DEGREES)) / half
    told = _told(data, drawn, guessed, span, camera, u)
    true = lifter_features.see(found, confidence, told)
    seen = lifter_features.see(found * jnp.where(guessed, stretch, 1.0)[:, None, None], confidence, told)
    return View(
        seen=seen,
        root=true.view @ root,
        turns=turns,
        segment=lifter_rig.segments(rig, drawn.shape),
        height_m=span * (1.7 / _USUAL_SPAN_M),
        shape=drawn.shape,
        age=drawn.age,
    )


def _detected(data: LifterData, drawn: Drawn, inside: Array, rays: Array, u) -> tuple[Array, Array]:
    """Rays and confidences of the keypoints as a detector gives them."""
    chance = lambda share: next(u) < share  # noqa: E731
    n = len(rays)
    size = jnp.ptp(rays, axis=1).max(-1)
    low, high = data.noise
    level = low * jnp.exp(np.log(high / low) * next(u))
    uneven, quirk = drawn.point_normal[..., 0], drawn.point_normal[..., 1]
    wild = drawn.point_uniform[..., 0] < data.wild
    hidden = drawn.point_uniform[..., 1] < 0.35 * (next(u) ** 3)[:, None]
    scale = level[:, None] * jnp.exp(0.6 * uneven - 0.2) * jnp.where(hidden, 3.0, 1.0)
    off = drawn.point_normal[..., 2:4] * scale[..., None] + drawn.point_normal[..., 4:6] * 0.15 * wild[..., None]
    limb = chance(data.false_limb)[:, None] & jnp.asarray(_END) & (
        jnp.where(next(u) < 0.5, 1, 2)[:, None] == jnp.asarray(_SIDE)
    )  # fmt: skip
    off = off + jnp.where(limb[..., None], (drawn.normal[:, 8:10] * 0.25)[:, None], 0.0)
    found = rays + off * size[:, None, None]
    how = next(u) / data.swapped
    for exchanged, first, last in ((READINGS[2], 0.0, 0.4), (READINGS[3], 0.4, 0.7), (READINGS[1], 0.7, 1.0)):
        mine = (how >= first) & (how < last)
        found = jnp.where(mine[:, None, None], found[:, exchanged], found)
    # Confidence falls with the noise, roughly; some programs know none.
    trust = 0.8 - 0.15 * uneven - 6.0 * (level - 0.012)[:, None] + 0.1 * quirk
    trust = jnp.where(hidden | wild | limb, trust * (0.2 + 0.7 * drawn.point_uniform[..., 2]), trust)
    trust = jnp.where(chance(0.2)[:, None], 1.0, jnp.clip(trust, 0.08, 1.0))
    shown = ~(hidden & (drawn.point_uniform[..., 3] < 0.6))
    # Cut by the frame or by furniture: from below, from a side, from above.
    y, x = rays[..., 1], rays[..., 0]
    sideways = jnp.where(next(u) < 0.5, 1.0, -1.0)[:, None] * x
    for along, share, least in ((y, 0.2, 0.35), (sideways, 0.07, 0.4), (-y, 0.04, 0.6)):
        begin, end = along.min(1, keepdims=True), along.max(1, keepdims=True)
        cut = begin + (end - begin) * (least + (1.0 - least) * next(u)[:, None])
        shown = shown & ~(chance(share)[:, None] & (along > cut))
    angle = 2.0 * np.pi * drawn.uniform[:, -1]
    across = x * jnp.cos(angle)[:, None] + y * jnp.sin(angle)[:, None]
    beyond = across > 0.5 * (across.min(1, keepdims=True) + across.max(1, keepdims=True))
    shown = shown & ~((drawn.uniform[:, -2] < data.half_hidden)[:, None] & beyond)
    away = (inside[:, _J["nose"]] - 0.5 * (inside[:, _J["left_ear"]] + inside[:, _J["right_ear"]]))[:, 2] > 0.03
    shown = shown & ~((away & chance(0.6))[:, None] & jnp.asarray(np.arange(len(COCO17)) < 3))
    shown = shown & ~(jnp.asarray(_FACE) & chance(0.08)[:, None])
    few = shown.sum(1) < 5
    shown = shown | (few[:, None] & jnp.asarray(_CORE))
    return found, jnp.where(shown, trust, jnp.zeros((n, 1)))


def _told(data: LifterData, drawn: Drawn, guessed: Array, span: Array, camera: Array, u) -> Told:
    chance = lambda share: next(u) < share  # noqa: E731
    said, wrong, step = chance(data.words), chance(data.wrong_word), jnp.where(next(u) < 0.5, 1, -1)
    word = jnp.clip(jnp.where(wrong, drawn.age + step, drawn.age), 0, NUM_AGES - 1)
    female = drawn.shape[:, 0] > 0.5
    height_known, up_known = chance(data.facts), chance(data.facts)
    level = jnp.asarray(_UPRIGHT) @ jnp.asarray([0.0, 0.0, 1.0])
    number = lambda x: x.astype(jnp.float32)  # noqa: E731
    return Told(
        age=jax.nn.one_hot(word, NUM_AGES) * said[:, None],
        gender=jax.nn.one_hot(female.astype(jnp.int32), 2) * said[:, None],
        focal_guessed=number(guessed),
        height_m=span * (1.7 / _USUAL_SPAN_M),
        height_known=number(height_known),
        up=camera @ level,
        up_known=number(up_known),
    )


def _about_z(angle: Float[Array, "n"]) -> Float[Array, "n 3 3"]:
    return rotvec_to_matrix(angle[:, None] * jnp.asarray([0.0, 0.0, 1.0]))


def _about_x(angle: Float[Array, "n"]) -> Float[Array, "n 3 3"]:
    return rotvec_to_matrix(angle[:, None] * jnp.asarray([1.0, 0.0, 0.0]))


def _shortest_arc_to_z(up: Float[Array, "n 3"]) -> Float[Array, "n 3 3"]:
    """Rotations that take unit vectors to z; half a turn about x where they point the other way."""
    x, y, z = up.T
    safe = z > -0.999
    f = 1.0 / jnp.where(safe, 1.0 + z, 1.0)
    arc = jnp.stack(
        [
            jnp.stack([1.0 - x * x * f, -x * y * f, -x], -1),
            jnp.stack([-x * y * f, 1.0 - y * y * f, -y], -1),
            jnp.stack([x, y, z], -1),
        ],
        -2,
    )
    return jnp.where(safe[:, None, None], arc, jnp.diag(jnp.asarray([1.0, -1.0, -1.0])))
