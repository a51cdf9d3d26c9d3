"""Scenes of keypoints in, people out without any fit: the lifter's likeliest bodies where their keypoints put them.

predictor = regressor.scene_predictor(variables)
fit = predictor.fit(scene)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from annyfit_jax.fit import problem as problems
from annyfit_jax.fit import second_order
from annyfit_jax.fit.config import FitConfig, MapObjective
from annyfit_jax.fit.fit_body import anny_body
from annyfit_jax.fit.problem import Capacity, Variables
from annyfit_jax.fit.second_order import hypotheses
from annyfit_jax.fit.second_order.map_body import MapBody, map_body, pose_prior_arrays
from annyfit_jax.fit.second_order.placement import closed_form_start, named_shape
from annyfit_jax.fit.starts import prepare
from annyfit_jax.lifting.lift import Lifter
from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_rig import load_rig
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import Scene
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.regressors.regressed_people import scene_fit
from annyfit_jax.training.protocol import PredictOptions
from body_models import anny
from body_models.anny import PHENOTYPE_LABELS

_LENGTHS = (8, 64, 512)


class Bodies(NamedTuple):
    """The chosen body of each of N people."""

    variables: Variables
    keypoints: Float[Array, "3 17 N"]
    """Camera axes, metres."""
    probability: Float[Array, "N"]
    """Of the chosen hypothesis."""


def bodies(config: FitConfig, body: MapBody, given: second_order.MapProblem, variables: Variables) -> Bodies:
    """Each person's best hypothesis (`hypotheses.lifted`, averaged), put where its keypoints are in the picture.

    The shape is that of the words; without them, of the age that the lifter reads.
    """
    problem, cues = given.problem, given.cues
    readings = hypotheses.read_keypoints(config, body, problem, cues, mirror=True)
    cues = hypotheses.with_read_ages(config, cues, readings[0])
    shape = named_shape(config, body, cues, jnp.asarray(variables.shape))
    best = hypotheses.lifted(config, body, problem, cues, readings, shape, average=True)
    start = Variables(*(v[0] for v in best.variables))
    placed, _ = closed_form_start(config, body, hypotheses.read(problem, best.reading[0]), cues, start)
    transl, root, phenotypes, pose = (jnp.asarray(v) for v in placed)
    keypoints = anny.points_people_last(body.points, phenotypes, root, pose, transl)
    return Bodies(placed, keypoints[:, :17], jnp.exp(best.log_probability[0]))


class ScenePredictor:
    """A lifter with its variables at work on scenes, compiled once for each of a few numbers of people."""

    def __init__(
        self,
        config: LifterConfig,
        variables: nnx.State,
        options: PredictOptions | None = None,
        *,
        origin: str = "lifter",
    ) -> None:
        """
        Args:
          options: all people whose keypoints are given are kept, with or without `threshold`; photos are not looked at.
          origin: what predictions say they come from (`SceneFit.start_origin`).

        Raises ValueError on an option that is about photos.
        """
        self.options = options or PredictOptions()
        if self.options.short_side is not None or self.options.long_side is not None:
            raise ValueError("short_side, long_side: the lifter sees keypoints, no photos")
        self.origin = origin
        self._meshes = BodyMeshes()
        model = self._meshes.model
        # No bone is solved for here; the prior over poses, which is not used either, must know those that are free.
        known = {str(name) for name in pose_prior_arrays()["bones"]}
        self.config = FitConfig(
            stages=(),
            frozen_bones=tuple(name for name in model.labels.bones[1:] if name not in known),
            solver="lm",
            map=MapObjective(starts=0, lifted=1, lifted_ages=True),
        )
        own = map_body(model, anny_body(model, self.config), self.config, surface=False)
        self._body = dataclasses.replace(own, lifter=Lifter(load_rig(model), variables, config))
        self._run = jax.jit(functools.partial(bodies, self.config))

    def fit(self, scene: Scene) -> SceneFit:
        """The people of a scene in the format of fits. Raises SceneError where nobody's keypoints tell a body."""
        ready = prepare(dataclasses.replace(scene, start=None), self.config, _unused)
        people = len(ready.scene)
        length = next((n for n in _LENGTHS if n >= people), people)
        room = Capacity(length, problems.count_pairs(length), 1)
        given, start = second_order.assemble([ready], self.config, room)
        found = jax.tree.map(np.asarray, self._run(self._body, given, start))
        chosen = problems.split_people(found.variables, [ready.scene])[0]
        keypoints = found.keypoints[..., :people].transpose(2, 1, 0)
        kept = np.arange(people)
        score = found.probability[:people]
        if self.options.threshold is not None:
            kept = kept[score >= self.options.threshold]
        if self.options.single_person and len(kept):
            kept = kept[[np.argmax(score[kept])]]
        chosen = chosen.select(kept)
        model, (width, height) = self._meshes.model, map(int, scene.image_size)
        fit = scene_fit(
            scene.name, scene.image_path or "", (width, height), scene.intrinsics, chosen,
            (np.array(model.labels.bones[1:]), np.array(PHENOTYPE_LABELS)),
            keypoints_3d=keypoints[kept], height_m=self._meshes.keypoints_and_height(chosen)[1],
            keypoints_2d=ready.scene.keypoints[kept], notes=[f"score={score[i]:.4f}" for i in kept], origin=self.origin,
            asset_version=model.labels.asset_version, scene_notes=list(scene.notes),
        )  # fmt: skip
        ids = ready.scene.person_ids or [str(i) for i in ready.kept]
        fit.person_ids = np.array([ids[i] for i in kept], np.str_)
        if self.options.save_vertices:
            fit.vertices = np.asarray(self._meshes.vertices(chosen), np.float32)
        return fit


def _unused(scene: Scene, confidence: float) -> NoReturn:
    raise AssertionError("starts are those of the lifter")
