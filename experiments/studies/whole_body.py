"""How far hands, faces and feet are off before and after their own fit; the results are in experiments/results/whole_body.md.

    python -m experiments.studies.whole_body --scenes=48
    python -m experiments.studies.whole_body --scenes=0 --input=annotations.json --images=PHOTOS --pictures=OUT

Synthetic people (one per scene, default noise of `synthetic.plain` and `synthetic.moving_parts`) are fitted with and without
the fit of parts. `body known` puts the part on the true body, at half a pixel per millimetre: the error of the part's own
fit. Errors count parts that were fitted, in millimetres: PA after a similarity, the others after a shift of the part's first
point (hand: its root; face: the mean of all points). Real photos have no truth: the error is in pixels, against the annotation.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy.spatial.transform import Rotation

from annyfit_jax.fit.config import FitConfig, PartFit, load_config
from annyfit_jax.fit.fit_body import anny_body
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.parts import part_cues, part_fit
from annyfit_jax.fit.parts.part_body import parts_body
from annyfit_jax.fit.problem import Variables
from annyfit_jax.inputs import open_input
from annyfit_jax.inputs.point_sets import WHOLE_BODY
from annyfit_jax.metrics.joint_errors import similarity_align
from annyfit_jax.people.fitted import PARTS, SceneFit
from annyfit_jax.people.scene import BodyParameters, SceneError
from annyfit_jax.records.encoded_pictures import encoded
from annyfit_jax.records.files import write_bytes
from annyfit_jax.report.part_pictures import part_sheet
from annyfit_jax.report.scene_pages import load_photo
from annyfit_jax.synthetic.moving_parts import PartNoise, WholeBodies
from annyfit_jax.synthetic.plain import Generator, Recipe
from body_models import anny

_SCENES = flags.DEFINE_integer("scenes", 48, "Synthetic scenes of one person.")
_KNOWN = flags.DEFINE_integer("known", 64, "Synthetic people whose body is known.")
_NOISE_PX = flags.DEFINE_multi_float("noise_px", [0.5, 1.0, 2.0], "Errors of the points of people whose body is known.")
_INPUT = flags.DEFINE_string("input", "", "Annotations with COCO-WholeBody's points of real photos.")
_IMAGES = flags.DEFINE_string("images", "", "Their photos.")
_PICTURES = flags.DEFINE_string("pictures", "", "Folder for pictures of their parts, before and after.")
_CONFIG = flags.DEFINE_string("config", "experiments/configs/annyfit_plus.py", "Config of the fits.")
_SEED = flags.DEFINE_integer("seed", 17, "Of the synthetic people.")

_NAMES = WHOLE_BODY[17:]
_ROWS = {part: [_NAMES.index(n) for n in names if n in _NAMES] for part, names in part_cues.PART_POINTS.items()}
_TIPS = [4, 8, 12, 16, 20]
_PX_PER_M = 500.0
Table = dict[tuple[str, str], list[float]]


def main(_: list[str]) -> None:
    config = load_config(_CONFIG.value)
    fitter = Fitter(config)
    if _KNOWN.value:
        for noise in _NOISE_PX.value:
            _print(f"body known, 0.5 px per mm, noise {noise} px", _known_bodies(fitter.model, noise))
    if _SCENES.value:
        _print("synthetic scenes, whole fit", _synthetic(fitter))
    if _INPUT.value:
        _real(fitter)


# ------------------------------------------------------------------------------------------------ synthetic


def _known_bodies(model: anny.AnnyModel, noise_px: float) -> Table:
    """Parts of people who stand in front of the camera and whose body is given."""
    n, rng, bodies = _KNOWN.value, np.random.default_rng(_SEED.value), WholeBodies(model)
    config = PartFit()
    scenes = Generator(Recipe(seed=_SEED.value, people=(1,)), model).scenes(range(n))
    truth = [scene.truth for scene in scenes if scene.truth is not None]
    root, pose, shape = (np.concatenate([getattr(t, name) for t in truth]) for name in ("root_rotvec", "pose", "shape"))
    rest = np.where((bodies.draw(rng, n) != 0).any((0, 2))[:, None], 0.0, pose)
    moved = rest + bodies.draw(rng, n)
    far = np.tile([0.0, 0.0, 5.0], (n, 1))
    before, true = (BodyParameters(root, far, p.astype(np.float32), shape) for p in (rest, moved))
    at = bodies.place(true)[1]
    camera = np.diag([5.0 * _PX_PER_M, 5.0 * _PX_PER_M, 1.0])
    pixels = at[..., :2] / at[..., 2:] * camera[0, 0] + noise_px * rng.normal(size=(*at.shape[:2], 2))
    points = np.zeros((n, len(part_cues.POINTS), 3))
    rows = [part_cues.POINTS.index(name) for name in _NAMES]
    points[:, rows] = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    last = lambda p: jnp.asarray(np.moveaxis(p, 0, -1), jnp.float32)  # noqa: E731
    variables = Variables(last(far), last(root), last(shape), last(np.swapaxes(rest, 1, 2)))
    cues = part_fit.PartCues(last(np.swapaxes(points, 1, 2)), last(np.tile(camera, (n, 1, 1))))
    body = anny_body(model, FitConfig(stages=()))
    program = jax.jit(lambda *given: part_fit.solve(config, body, *given))
    found = program(parts_body(model), cues, variables, jnp.zeros((3, 17, n)), jnp.zeros(n))
    after = dataclasses.replace(before, pose=np.moveaxis(np.asarray(found.pose), (0, 1, 2), (2, 1, 0)))
    table: Table = defaultdict(list)
    for label, people in (("before", before), ("after", after)):
        placed = bodies.place(people)[1]
        for person in range(n):
            _add(table, label, placed[person], at[person], np.asarray(found.moved)[:, person])
    _add_spread(table, bodies.place(after)[1], at, np.asarray(found.sd_m), np.asarray(found.moved))
    return table


def _synthetic(fitter: Fitter) -> Table:
    bodies, rng = WholeBodies(fitter.model), np.random.default_rng(_SEED.value)
    generator = Generator(Recipe(seed=_SEED.value, people=(1,), bias=(0.0, 1.0)), fitter.model)
    scenes = [bodies.add(scene, rng, PartNoise()) for scene in generator.scenes(range(_SCENES.value))]
    off = Fitter(dataclasses.replace(fitter.config, parts=PartFit(on=False)), fitter.model)
    table: Table = defaultdict(list)
    for scene, before, after in zip(scenes, off.fit(scenes), fitter.fit(scenes), strict=True):
        for label, fit in (("before", before), ("after", after)):
            for person in np.flatnonzero(fit.ok):
                placed = bodies.place(fit.parameters)[1][person]
                _add(table, label, placed, scene.extra["gt_parts3d"][person], after.parts_seen[person])
        for person in np.flatnonzero(after.ok):
            for name, values in (("before", after.start_parts_px), ("after", after.parts_px)):
                for part, value, seen in zip(PARTS, values[person], after.parts_seen[person], strict=True):
                    if seen > 0:
                        table[f"{_kind(part)}: error, px", name].append(float(value))
            if after.parts_seen[person, PARTS.index("head")] > 0 and scene.truth is not None:
                for label, fit in (("before", before), ("after", after)):
                    table["head: orientation, degrees", label].append(
                        _turn(fitter.model, fit.parameters, scene.truth, int(person))
                    )
    return table


def _add(table: Table, label: str, placed: np.ndarray, true: np.ndarray, seen: np.ndarray) -> None:
    """Errors of the seen parts of one person, points (116, 3) in metres."""
    for part, moved in zip(PARTS, seen, strict=True):
        if not moved > 0:
            continue
        a, b = placed[_ROWS[part]], true[_ROWS[part]]
        origin = (a.mean(0), b.mean(0)) if part == "head" else (a[0], b[0])
        shifted = 1000.0 * np.linalg.norm(a - origin[0] - b + origin[1], axis=1)
        table[f"{_kind(part)}: all points, mm", label].append(float(shifted.mean()))
        if _kind(part) != "foot":
            aligned = similarity_align(a, b)
            table[f"{_kind(part)}: PA, mm", label].append(float(1000.0 * np.linalg.norm(aligned - b, axis=1).mean()))
        if _kind(part) == "hand":
            table["hand: fingertips, mm", label].append(float(shifted[_TIPS].mean()))


def _add_spread(table: Table, placed: np.ndarray, true: np.ndarray, sd: np.ndarray, moved: np.ndarray) -> None:
    """How large errors are in units of what the fit expects, root mean square over the points of a part."""
    for k, part in enumerate(PARTS):
        error = np.sqrt(((placed - true)[:, _ROWS[part]] ** 2).sum(-1).mean(1))
        for person in np.flatnonzero(moved[k] > 0):
            table[f"{_kind(part)}: error / expected", "after"].append(float(error[person] / sd[k, person]))


def _turn(model: anny.AnnyModel, people: BodyParameters, truth: BodyParameters, person: int) -> float:
    head = model.labels.bones.index("head")
    frames = [
        np.asarray(anny.forward(model, anny.Params(*(jnp.asarray(p[[person]], model.dtype) for p in
                   (b.shape, b.root_rotvec, b.pose, b.transl)))).bone_poses)[0, head, :3, :3]
        for b in (people, truth)
    ]  # fmt: skip
    return float(np.degrees(Rotation.from_matrix(frames[0] @ frames[1].T).magnitude()))


def _kind(part: str) -> str:
    return part.rpartition("_")[2]


def _print(title: str, table: Table) -> None:
    print(f"\n{title}\n\n| | parts | before | after |\n| --- | --- | --- | --- |")
    for name in sorted({name for name, _ in table}):
        cells = [table.get((name, label), []) for label in ("before", "after")]
        text = [f"{np.mean(cell):.1f} (median {np.median(cell):.1f})" if cell else "" for cell in cells]
        print(f"| {name} | {len(cells[1])} | {text[0]} | {text[1]} |")


# ------------------------------------------------------------------------------------------------ photos


def _real(fitter: Fitter) -> None:
    source = open_input(_INPUT.value, images=_IMAGES.value or None)
    print("\n| photo | person | part | points seen | px before | px after | moved |\n" + "| --- " * 7 + "|")
    for i in range(len(source)):
        try:
            scene = source.load(i)
            points = part_cues.part_points(scene)
            if points is None:
                continue
            fit = next(iter(fitter.fit([scene])))
        except SceneError as error:
            print(error)
            continue
        for person, k in np.argwhere(np.isfinite(fit.start_parts_px)):
            seen = sum(points[person, part_cues.POINTS.index(n), 2] > 0 for n in part_cues.PART_POINTS[PARTS[k]])
            print(
                f"| {fit.name} | {fit.person_ids[person]} | {PARTS[k]} | {seen} | {fit.start_parts_px[person, k]:.1f} | "
                f"{fit.parts_px[person, k]:.1f} | {fit.parts_seen[person, k]:.0f} |"
            )
        if _PICTURES.value:
            off = Fitter(dataclasses.replace(fitter.config, parts=PartFit(on=False)), fitter.model)
            _draw(fitter, next(iter(off.fit([scene]))), fit)


def _draw(fitter: Fitter, before: SceneFit, fit: SceneFit) -> None:
    """Photo and fit of every part, before and after."""
    photo, _ = load_photo(fit.image_path)
    if photo is None:
        return
    folder = Path(_PICTURES.value)
    folder.mkdir(parents=True, exist_ok=True)
    for label, shown in (("before", dataclasses.replace(before, parts_seen=fit.parts_seen)), ("after", fit)):
        sheet = part_sheet(shown, photo, fitter.meshes)
        if sheet is not None:
            write_bytes(folder / f"{fit.name}_{label}.png", encoded(sheet, "PNG"))


if __name__ == "__main__":
    app.run(main)
