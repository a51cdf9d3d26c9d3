"""Photos in, people out as `SceneFit`, the format of fits: report, export and evaluation take them as they are.

predictor = Predictor(regressor, variables, threshold=0.3)
fit = predictor.fit("photo_17", read_photo(path), str(path))
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.regressors.multihmr import square_preprocess
from annyfit_jax.regressors.multihmr.multihmr_regressor import Batch, MultiHmrRegressor
from annyfit_jax.regressors.regressed_people import scene_fit
from body_models import anny


class Predictor:
    """A network with its variables, compiled once."""

    def __init__(
        self, regressor: MultiHmrRegressor, variables: Any, *, threshold: float = 0.3, origin: str = "multihmr"
    ) -> None:
        """
        Args:
          threshold: people of a lower score are left out.
          origin: what predictions say they come from (`SceneFit.start_origin`).
        """
        self.regressor, self.variables, self.threshold, self.origin = regressor, variables, threshold, origin
        self._run = jax.jit(regressor.predict, static_argnums=2)
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
        picture, placement = square_preprocess.square(image, self.regressor.config.size)
        given = None if K is None else jnp.asarray(placement.intrinsics(K), jnp.float32)[None]
        candidates = self._run(
            self.variables, Batch(jnp.asarray(picture)[None], given), self.threshold, self._meshes.model
        )
        candidates = jax.tree.map(lambda x: np.asarray(x)[0], candidates)
        kept = np.flatnonzero(candidates.valid)
        kept = kept[np.argsort(candidates.bodies.transl[kept, 2], kind="stable")]
        body = candidates.bodies
        people = BodyParameters(body.root_rotvec[kept], body.transl[kept], body.pose[kept], body.phenotypes[kept])
        keypoints, tall = self._meshes.keypoints_and_height(people)
        heads = placement.back(candidates.heads[kept])
        notes = [f"score={candidates.scores[k]:.4f};head={u:.1f},{v:.1f}" for k, (u, v) in zip(kept, heads)]
        labels = (np.array(self._meshes.model.labels.bones[1:]), np.array(anny.PHENOTYPE_LABELS))
        return scene_fit(
            name, image_path, (width, height), placement.intrinsics_back(candidates.intrinsics), people, labels,
            keypoints_3d=keypoints, height_m=tall, notes=notes, origin=self.origin,
            asset_version=self._meshes.model.labels.asset_version, scene_notes=[f"threshold={self.threshold:g}"],
        )  # fmt: skip
