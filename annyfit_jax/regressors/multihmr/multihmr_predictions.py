"""Photos in, people out as `SceneFit`, the format of fits: report, export and evaluation take them as they are.

predictor = regressor.predictor(variables, PredictOptions(threshold=0.2))
fit = predictor.fit("photo_17", read_photo(path), str(path))
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.regressors.multihmr import head_detection, multihmr_model, multihmr_people, square_preprocess
from annyfit_jax.regressors.multihmr.multihmr_batch import Batch, People
from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig
from annyfit_jax.regressors.regressed_people import scene_fit
from annyfit_jax.training.protocol import PredictOptions
from body_models import anny


def predict(
    config: MultiHmrConfig,
    variables: nnx.State,
    batch: Batch,
    threshold: float | None = None,
    body: anny.AnnyModel | None = None,
) -> People:
    """People whose patch scores at least `threshold` (None: that of the config).

    `body`: `anny.load()`, given where this is compiled.
    """
    network = multihmr_model.bind(config, variables)
    seen = network.see(batch.images)
    patches = head_detection.detect(
        seen.scores, config.threshold if threshold is None else threshold, config.max_people
    )
    K = multihmr_model.intrinsics_of(config, seen, batch.intrinsics)
    reading = network.read(seen, patches, K)
    bodies = multihmr_people.anny_bodies(anny.load() if body is None else body, reading)
    return People(patches.score, patches.valid, bodies, reading.loc, K)


class Predictor:
    """A network with its variables, compiled once."""

    def __init__(
        self, config: MultiHmrConfig, variables: Any, options: PredictOptions | None = None, *, origin: str = "multihmr"
    ) -> None:
        """
        Args:
          options: without `short_side` and `long_side`: the network sees square pictures of one size.
          origin: what predictions say they come from (`SceneFit.start_origin`).

        Raises ValueError on an option that the network does not know.
        """
        options = options or PredictOptions()
        if options.short_side is not None or options.long_side is not None:
            raise ValueError(
                f"short_side, long_side: Multi-HMR sees square pictures of {config.size} pixels; change its size in the config"
            )
        self.config, self.variables, self.options, self.origin = config, variables, options, origin
        self.threshold = config.threshold if options.threshold is None else options.threshold
        self._run = jax.jit(functools.partial(predict, config), static_argnums=2)
        self._meshes = BodyMeshes()

    def fit(
        self,
        name: str,
        image: UInt8[np.ndarray, "h w 3"],
        image_path: str = "",
        K: Float[np.ndarray, "3 3"] | None = None,
    ) -> SceneFit:
        """The people above the threshold, nearest first (as released); ids are their ranks, notes their scores.

        `K`: intrinsics of the photo; None: the network's own.
        """
        height, width = image.shape[:2]
        picture, placement = square_preprocess.square(image, self.config.size)
        given = None if K is None else jnp.asarray(placement.intrinsics(K), jnp.float32)[None]
        candidates = self._run(
            self.variables, Batch(jnp.asarray(picture)[None], given), self.threshold, self._meshes.model
        )
        candidates = jax.tree.map(lambda x: np.asarray(x)[0], candidates)
        kept = np.flatnonzero(candidates.valid)
        if self.options.single_person and len(kept):
            kept = kept[[np.argmax(candidates.scores[kept])]]
        kept = kept[np.argsort(candidates.bodies.transl[kept, 2], kind="stable")]
        body = candidates.bodies
        people = BodyParameters(body.root_rotvec[kept], body.transl[kept], body.pose[kept], body.phenotypes[kept])
        keypoints, tall = self._meshes.keypoints_and_height(people)
        heads = placement.back(candidates.heads[kept])
        notes = [f"score={candidates.scores[k]:.4f};head={u:.1f},{v:.1f}" for k, (u, v) in zip(kept, heads)]
        labels = (np.array(self._meshes.model.labels.bones[1:]), np.array(anny.PHENOTYPE_LABELS))
        fit = scene_fit(
            name, image_path, (width, height), placement.intrinsics_back(candidates.intrinsics), people, labels,
            keypoints_3d=keypoints, height_m=tall, notes=notes, origin=self.origin,
            asset_version=self._meshes.model.labels.asset_version, scene_notes=[f"threshold={self.threshold:g}"],
        )  # fmt: skip
        if self.options.save_vertices:
            fit.vertices = np.asarray(self._meshes.vertices(people), np.float32)
        return fit
