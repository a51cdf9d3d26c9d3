"""Skin, hair and clothes of a person, as colours on the canonical body (numpy; linear-ish RGB in [0, 1])."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.synthetic import textures
from annyfit_jax.synthetic.render_mesh import FIELDS

_SKIN = np.array(
    [[0.96, 0.80, 0.70], [0.91, 0.72, 0.60], [0.83, 0.63, 0.50], [0.74, 0.54, 0.40], [0.60, 0.41, 0.29], [0.47, 0.31, 0.22],
     [0.34, 0.22, 0.16], [0.25, 0.16, 0.12]]
)  # fmt: skip
_HAIR = np.array(
    [
        [0.06, 0.05, 0.05],
        [0.16, 0.10, 0.07],
        [0.30, 0.19, 0.11],
        [0.48, 0.33, 0.18],
        [0.72, 0.56, 0.32],
        [0.42, 0.17, 0.09],
    ]
)
_GREY = np.array([0.72, 0.72, 0.72])
# Heights on the canonical body, metres: `render_mesh.FIELDS` x, y, z of the mean body at rest.
_ANKLE, _KNEE, _CROTCH, _NECK, _SHOULDER = -0.70, -0.43, -0.15, 0.25, 0.3
PATTERNS = ("plain", "stripes", "checks", "blotches", "two-tone")
_F = {name: i for i, name in enumerate(FIELDS)}


@dataclass(frozen=True)
class Looks:
    """n people."""

    skin: Float[np.ndarray, "n 3"]
    hair: Float[np.ndarray, "n 3"]
    eyes: Float[np.ndarray, "n 3"]
    top: Float[np.ndarray, "n 2 3"]
    """Two colours of the upper garment's pattern."""
    bottom: Float[np.ndarray, "n 3"]
    shoes: Float[np.ndarray, "n 3"]
    pattern: Int[np.ndarray, "n"]
    """Of `PATTERNS`."""
    pattern_scale: Float[np.ndarray, "n"]
    """Radians per metre."""
    sleeve: Float[np.ndarray, "n"]
    """Ends at this place along the arm: 0 shoulder, 1 wrist."""
    hem: Float[np.ndarray, "n"]
    """Height where the lower garment ends."""
    waist: Float[np.ndarray, "n"]
    """Height where the upper garment ends."""
    neckline: Float[np.ndarray, "n"]
    """Depth of the neckline, metres."""
    barefoot: Float[np.ndarray, "n"]
    hair_low: Float[np.ndarray, "n"]
    """Height down to which hair falls at the back; above the head = bald."""
    fringe: Float[np.ndarray, "n"]
    """How far hair comes into the forehead, metres."""


def draw_looks(rng: np.random.Generator, years: Float[np.ndarray, "n"], female: np.ndarray) -> Looks:
    """Looks of a group; its members' skins are alike more often than not."""
    n = len(years)
    tone = np.where(rng.random(n) < 0.75, rng.uniform(0, len(_SKIN) - 1), rng.uniform(0, len(_SKIN) - 1, n))
    tone = (tone + rng.normal(0, 0.3, n)).clip(0, len(_SKIN) - 1)
    skin = np.stack([np.interp(tone, np.arange(len(_SKIN)), _SKIN[:, c]) for c in range(3)], axis=1)
    dark = np.where(tone > 3.0, rng.integers(0, 2, n), rng.integers(0, len(_HAIR), n))
    grey = ((years - 45 + rng.normal(0, 8, n)) / 25).clip(0, 1)[:, None]
    hair = (1 - grey) * _HAIR[dark] + grey * _GREY * rng.uniform(0.7, 1.2, (n, 1))
    long_hair = rng.random(n) < np.where(female, np.where(years > 2, 0.7, 0.1), 0.06)
    bald = (rng.random(n) < np.where(female, 0.0, (0.012 * (years - 25)).clip(0, 0.4))) | (years < 0.7) & (
        rng.random(n) < 0.5
    )
    hair_low = np.where(bald, 9.0, np.where(long_hair, rng.uniform(0.1, 0.26, n), rng.uniform(0.30, 0.34, n)))
    summer = rng.random() < 0.55
    sleeve = np.where(rng.random(n) < (0.8 if summer else 0.25), rng.uniform(0.1, 0.55, n), rng.uniform(0.88, 1.0, n))
    short = rng.random(n) < np.where(years < 14, 0.45, 0.25) * (1.5 if summer else 0.3)
    hem = np.where(short, rng.uniform(_KNEE - 0.05, _CROTCH - 0.12, n), rng.uniform(_ANKLE - 0.02, _ANKLE + 0.06, n))
    top = _garment(rng, n, 2)
    bottom = np.where(
        rng.random((n, 1)) < 0.45, np.array([0.13, 0.19, 0.32]) * rng.uniform(0.5, 2.0, (n, 1)), _garment(rng, n)
    )
    infant = years < 1.2
    bottom = np.where(infant[:, None] & (rng.random((n, 1)) < 0.7), top[:, 0], bottom)
    return Looks(
        skin=skin,
        hair=hair.clip(0, 1),
        eyes=np.array([[0.25, 0.15, 0.08], [0.2, 0.35, 0.5], [0.25, 0.35, 0.2]])[rng.integers(0, 3, n)],
        top=top,
        bottom=bottom,
        shoes=_garment(rng, n) * 0.8,
        pattern=rng.choice(len(PATTERNS), n, p=[0.5, 0.18, 0.1, 0.12, 0.1]),
        pattern_scale=rng.uniform(60, 220, n),
        sleeve=sleeve,
        hem=hem,
        waist=rng.uniform(-0.1, 0.02, n),
        neckline=rng.uniform(0.0, 0.08, n),
        barefoot=(rng.random(n) < np.where(infant, 0.6, 0.15)).astype(float),
        hair_low=hair_low,
        fringe=rng.uniform(-0.012, 0.012, n),
    )


def _garment(rng: np.random.Generator, n: int, colours: int | None = None) -> np.ndarray:
    """Random cloth colours: any hue, often muted, sometimes nearly black, grey or white; (n, 3) or (n, colours, 3)."""
    shape = (n,) if colours is None else (n, colours)
    hue, saturation, value = rng.random(shape), rng.beta(1.3, 2.0, shape), rng.beta(2.0, 1.6, shape) * 0.9 + 0.05
    grey = rng.random(shape) < 0.3
    saturation = np.where(grey, 0.05 * saturation, saturation)
    phase = (hue[..., None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    return value[..., None] * (1 - saturation[..., None] * np.minimum(phase, 4 - phase).clip(0, 1))


def albedo(
    looks: Looks, person: Int[np.ndarray, "p"], fields: Float[np.ndarray, "p field"]
) -> Float[np.ndarray, "p 3"]:
    """Colour of surface points: whose they are, and `render_mesh.RenderMesh.fields` interpolated there."""
    x, y, z = fields[:, 0], fields[:, 1], fields[:, 2]
    head, arm, leg, foot, along = (fields[:, _F[name]] for name in ("head", "arm", "leg", "foot", "along_arm"))
    pick = lambda name: getattr(looks, name)[person].astype(np.float32)  # noqa: E731
    grain = textures.noise(textures.SOIL, 900 * x + 377 * y + 61 * person, 900 * z + 211 * y)
    out = pick("skin") * (1 + 0.025 * grain[:, None])
    is_head = head > 0.5
    mouth = is_head & (np.abs(x) < 0.021) & (np.abs(z - 0.3345) < 0.0065) & (y < -0.10)
    out[mouth] *= np.array([0.85, 0.55, 0.55], np.float32)
    brow = (
        is_head
        & (y < -0.085)
        & (np.abs(np.abs(x) - 0.027) < 0.016)
        & (np.abs(z - 0.3985 + 0.15 * np.abs(np.abs(x) - 0.02)) < 0.003)
    )
    out[brow] = 0.5 * (out[brow] + pick("hair")[brow])
    body = ~is_head & (arm <= 0.5)
    waist = pick("waist") + 0.0015 * grain
    # Round the neck the cloth ends lower, deepest in front; on the shoulders it goes up to the neck.
    round_neck = (1 - np.abs(x) / 0.075).clip(0, 1)
    neck = np.where(round_neck > 0, _NECK - pick("neckline") * (y < -0.02) * round_neck**0.5, _SHOULDER)
    clothed_arm = (arm > 0.5) & (along < pick("sleeve"))
    top = (body & (leg <= 0.999) & (z > waist) & (z < neck)) | clothed_arm
    out[top] = _cloth(looks, person[top], x[top], y[top], z[top], along[top] * (arm[top] > 0.5), grain[top])
    trousers = body & (z <= waist) & (z > pick("hem"))
    out[trousers] = pick("bottom")[trousers] * (1 + 0.07 * grain[trousers, None])
    shoe = (foot > 0.5) & (pick("barefoot") < 0.5)
    out[shoe] = pick("shoes")[shoe] * np.where(z[shoe] < -0.765, 0.6, 1.0)[:, None]
    # The hairline falls from the forehead over the ears to the nape.
    line = 0.431 + pick("fringe") - 0.62 * (y + 0.115).clip(0) - 0.10 * np.abs(x)
    line = np.where(y > -0.005, np.minimum(line, pick("hair_low")), np.maximum(line, 0.345))
    line = np.where(pick("hair_low") > 1, 9.0, line)
    hair = (z > line + 0.004 * grain) & (is_head | ((y > 0.0) & (arm <= 0.5) & (z > 0.1) & (np.abs(x) < 0.09)))
    strand = textures.noise(textures.GRAIN, 1500 * x + 1500 * y, 120 * z)
    out[hair] = pick("hair")[hair] * (1 + 0.18 * strand[hair, None])
    eye = fields[:, _F["eye"]] > 0.5
    centre = np.hypot(np.abs(x) - 0.0255, z - 0.3778)
    iris = np.where((centre < 0.0035)[:, None], 0.03, pick("eyes"))
    out[eye] = np.where((centre < 0.0075)[:, None], iris, 0.88)[eye]
    return out


def _cloth(looks: Looks, person, x, y, z, along, grain) -> np.ndarray:
    """The upper garment: two colours mixed by the pattern, in folds of noise."""
    scale = looks.pattern_scale[person]
    u, v = scale * (z + 0.25 * along), scale * x
    weight = np.select(
        [looks.pattern[person] == i for i in range(1, len(PATTERNS))],
        [
            np.sin(u) > 0.2,
            (np.sin(u) > 0) * 0.5 + (np.sin(v) > 0) * 0.5,
            textures.noise(textures.PLASTER, scale * x + 31 * person, scale * z + scale * y) > 0.6,
            z > 0.12,
        ],
        0.0,
    ).astype(np.float32)[:, None]
    colours = looks.top[person].astype(np.float32)
    return ((1 - weight) * colours[:, 0] + weight * colours[:, 1]) * (1 + 0.06 * grain[:, None])
