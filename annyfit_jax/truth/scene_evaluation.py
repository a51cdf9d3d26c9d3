"""Errors of fits whose truth lists the same people: synthetic scenes, and photos with labelled keypoints and depth layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int

from annyfit_jax import metrics
from annyfit_jax.inputs import open_input
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fit_meshes import FitMeshes, SmplxMeshes
from annyfit_jax.people.fitted import is_smplx
from annyfit_jax.people.scene import BodyParameters, Scene
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.truth.synthetic_truth import layers_of, truth_of

Errors = dict[str, np.ndarray]
Columns = dict[str, Errors]
"""Errors of one scene by column: `init`, `fit`."""


def judge_scenes(
    fits: str, truth: str, protocol: str, collected: dict[str, Columns], bodies: FitMeshes | None = None
) -> dict[str, Any]:
    """Fills `collected` with the errors of every scene that has a fit; returns who was left out.

    Args:
      bodies: with SMPL-X, where the fits are of that. Its keypoints are its own, and it has no age and no gender.

    Raises ValueError where no scene of the truth has a fit, or nobody was fitted.
    """
    stored, source = open_fits(fits), open_input(truth)
    known = set(stored.names)
    indices = [i for i, name in enumerate(source.names) if name in known]
    if not indices:
        raise ValueError(f"{truth}: none of its {len(source)} scenes has a fit in {fits}")
    errors_of = {"synthetic": synthetic_errors, "layers": layer_errors}[protocol]
    bodies = bodies or FitMeshes()
    not_fitted = 0
    for index in indices:
        scene, fit = source.load(index), stored.load(source.names[index])
        rows = fitted_people(fit, scene, f"{fits}: {scene.name}.npz")
        not_fitted += len(scene) - len(rows)
        if len(rows):
            start = fit.start if scene.start is None or is_smplx(fit) else scene.start
            meshes = bodies.of(fit, f"{fits}: {scene.name}.npz")
            collected[scene.name] = {
                "init": errors_of(scene, rows, start.select(rows), meshes),
                "fit": errors_of(scene, rows, fit.parameters.select(rows), meshes),
            }
    if not collected:
        raise ValueError(f"{fits}: nobody was fitted")
    return {"not_fitted": not_fitted, "scenes_without_fit": sorted(set(source.names) - known)}


def fitted_people(fit: SceneFit, scene: Scene, where: str) -> Int[np.ndarray, "k"]:
    """Rows with status ok, in the fit and in the scene alike: a fit keeps the order of its input."""
    ids = scene.person_ids or [str(i) for i in range(len(scene))]
    rows = np.flatnonzero(fit.ok)
    if len(fit) != len(scene) or any(str(fit.person_ids[row]) != ids[row] for row in rows):
        raise ValueError(
            f"{where}: person_ids: expected the people {ids} of scene {scene.name}, got {fit.person_ids.tolist()}; "
            "was it fitted from another input?"
        )
    return rows


def synthetic_errors(
    scene: Scene, rows: Int[np.ndarray, "k"], people: BodyParameters, meshes: BodyMeshes | SmplxMeshes
) -> Errors:
    """Errors of some people of a scene against its exact truth (`synthetic_truth.truth_of`).

    Anny is evaluated with shapes clipped to [0, 1], like the tool that defines the protocol. SMPL-X has no age and no gender.
    """
    truth = truth_of(scene).select(rows)
    if isinstance(meshes, SmplxMeshes):
        joints, height = meshes.keypoints_and_height(people)
        unknown = np.full(len(rows), np.nan)
        fitted = metrics.People(joints, people.transl[:, 2], unknown, unknown, height)
        errors = metrics.scene_errors(fitted, truth, scene.intrinsics)
        return {name: values for name, values in errors.items() if not name.startswith(("age", "gender"))}
    visible = BodyParameters(people.root_rotvec, people.transl, people.pose, np.clip(people.shape, 0.0, 1.0))
    joints, height = meshes.keypoints_and_height(visible)
    fitted = metrics.People(
        joints, people.transl[:, 2], people.shape[:, 0], people.shape[:, 1], height,
        transl=people.transl, age_phenotype=people.shape[:, 1],
    )  # fmt: skip
    return metrics.scene_errors(fitted, truth, scene.intrinsics)


def layer_errors(
    scene: Scene, rows: Int[np.ndarray, "k"], people: BodyParameters, meshes: BodyMeshes | SmplxMeshes
) -> Errors:
    """Errors of some people of a photo against labelled keypoints and `hand_label.depth_id`."""
    layer = layers_of(scene)
    assert scene.boxes is not None
    joints, _ = meshes.keypoints_and_height(people)
    return metrics.labelled_errors(
        joints, people.transl[:, 2], layer[rows], scene.keypoints[rows], scene.boxes[rows], scene.intrinsics
    )
