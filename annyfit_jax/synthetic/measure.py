"""The errors that the noise of rendered scenes causes in cues and starts, and a sheet of pictures (numpy)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from annyfit_jax.people.scene import UNKNOWN_WORD
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES
from annyfit_jax.synthetic.world import RenderedScene
from annyfit_jax.synthetic.world_config import AGE_NAMES
from annyfit_jax.synthetic.world_cues import HIDDEN, OUTSIDE, SELF_HIDDEN, VISIBLE

_LEVELS = {"visible": VISIBLE, "behind the own body": SELF_HIDDEN, "behind others": HIDDEN}
_NEUTRAL = list(GENDER_CLASSES).index("neutral")


def measure(scenes: Sequence[RenderedScene]) -> dict[str, float]:
    """Figures by name; the unit is part of the name. A mean of nothing is NaN.

    `size` is the larger side of a person's true keypoints in pixels; medians of errors are over detected joints, so that wild
    detections do not decide them.
    """
    level = _pool(scenes, "gt_joint_visibility")
    is_detected = np.concatenate([s.keypoints[..., 2] > 0 for s in scenes])
    truth_px = _pool(scenes, "gt_coco2d")
    size = np.ptp(truth_px, axis=1).max(-1)[:, None]
    error = 100 * np.linalg.norm(np.concatenate([s.keypoints[..., :2] for s in scenes]) - truth_px, axis=-1) / size
    age = _pool(scenes, "gt_age_cat")
    out: dict[str, float] = {
        "scenes": len(scenes),
        "people": len(age),
        "people set aside as hidden": sum(len(s.skipped) for s in scenes),
        "visible share of the surface that faces the camera": _mean(_pool(scenes, "gt_visible_share")),
        "joints outside the picture": _mean(level == OUTSIDE),
    }
    out |= {f"share of people: {name}": _mean(age == i) for i, name in enumerate(AGE_NAMES)}
    for name, value in _LEVELS.items():
        here = level == value
        out[f"joints {name}"] = _mean(here)
        out[f"joints {name}: missed"] = 1 - _mean(is_detected[here])
        out[f"joints {name}: median error, % of size"] = _median(error[here & is_detected])
        out[f"joints {name}: error above 10 % of size"] = _mean(error[here & is_detected] > 10)
    return out | _depth(scenes) | _words(scenes, age) | _starts(scenes, age)


def _depth(scenes: Sequence[RenderedScene]) -> dict[str, float]:
    """Log ratio of the median depth cue to the median true depth in the mask: per scene, and what is left per person."""
    common, own = [], []
    for scene in scenes:
        assert scene.masks is not None and scene.true_depth is not None
        true = np.array([np.median(scene.true_depth[mask]) if mask.any() else np.nan for mask in scene.masks])
        log = np.log(scene.median_depth / true)
        log = log[np.isfinite(log)]
        if len(log):
            common.append(log.mean())
        if len(log) > 1:  # the mean takes one degree of freedom away
            own.append((log - log.mean()) * np.sqrt(len(log) / (len(log) - 1)))
    pooled = np.concatenate([*own, np.zeros(0)])
    return {
        "depth cue: spread of the scene's log error, %": 100 * float(np.std(common)) if common else float("nan"),
        "depth cue: spread of the person's log error, %": 100 * float(np.sqrt((pooled**2).mean()))
        if len(pooled)
        else float("nan"),
    }


def _words(scenes: Sequence[RenderedScene], age: np.ndarray) -> dict[str, float]:
    word, sex_word = (np.concatenate([getattr(s, name) for s in scenes]) for name in ("age", "gender"))
    years, sex = _pool(scenes, "gt_age_years"), _pool(scenes, "gt_gender_cat")
    known, young = word != UNKNOWN_WORD, years < 4
    answer = np.abs(word[:, None] - list(AGE_CLASSES.values())).argmin(1)
    out = {"age words: unusable": _mean(~known), "age words: right, of the usable": _mean((answer == age)[known])}
    answer, known = np.abs(sex_word[:, None] - list(GENDER_CLASSES.values())).argmin(1), sex_word != UNKNOWN_WORD
    for name, group in (("under 4 years", young & known), ("others", ~young & known)):
        out[f"gender words, {name}: neutral"] = _mean((answer == _NEUTRAL)[group])
        out[f"gender words, {name}: wrong"] = _mean(((answer != sex) & (answer != _NEUTRAL))[group])
    return out


def _starts(scenes: Sequence[RenderedScene], age: np.ndarray) -> dict[str, float]:
    bodies = [(s.start, s.truth) for s in scenes]
    ratio = np.concatenate([a.transl[:, 2] / b.transl[:, 2] for a, b in bodies if a is not None and b is not None])
    return {f"start: depth / true depth, {name} (median)": _median(ratio[age == i]) for i, name in enumerate(AGE_NAMES)}


def sheet(scenes: Sequence[RenderedScene], columns: int, tile: int) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures side by side in square tiles, each fitted into its tile."""
    from PIL import Image

    rows = -(-len(scenes) // columns)
    page = Image.new("RGB", (columns * tile, rows * tile), (255, 255, 255))
    for i, scene in enumerate(scenes):
        assert scene.image is not None
        picture = Image.fromarray(scene.image)
        picture.thumbnail((tile - 4, tile - 4), Image.Resampling.LANCZOS)
        left, top = (
            (i % columns) * tile + (tile - picture.width) // 2,
            (i // columns) * tile + (tile - picture.height) // 2,
        )
        page.paste(picture, (left, top))
    return np.asarray(page)


def _pool(scenes: Sequence[RenderedScene], key: str) -> np.ndarray:
    return np.concatenate([np.asarray(scene.extra[key]) for scene in scenes])


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
