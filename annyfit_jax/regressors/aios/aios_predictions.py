"""Photos in, people out as `SceneFit`, the format of fits: report, export and evaluation take them as they are.

predictor = regressor.predictor(variables, PredictOptions(threshold=0.5))
fit = predictor.fit("photo_17", read_photo(path), str(path))
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, UInt8

from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.regressors.aios import aios_model, picture_preprocess
from annyfit_jax.regressors.aios.aios_batch import Batch
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.body_points import load_smplx
from annyfit_jax.regressors.aios.examples import anny_bones
from annyfit_jax.regressors.aios.postprocess import People, people, single_person
from annyfit_jax.regressors.regressed_people import scene_fit
from annyfit_jax.training.protocol import PredictOptions
from annyfit_jax.training.training_data import Size, smallest_bucket
from body_models import anny, smplx

_JOINTS = 17


SCORE_THRESHOLD = 0.5
"""As in the paper's tables; its figures on AGORA are with 0.3."""


def predict(config: AiosConfig, variables: nnx.State, batch: Batch, threshold: float = SCORE_THRESHOLD) -> People:
    """People of a batch, by the last layer of the decoder; see `postprocess.people`."""
    outputs = aios_model.apply(config, variables, batch.images, batch.padding)
    return people(outputs.layers[-1], batch.image_size, batch.resize_factor, threshold, focal=config.focal)


class Predictor:
    """A network with its variables, compiled for each padded size that it meets."""

    def __init__(
        self,
        config: AiosConfig,
        variables: Any,
        options: PredictOptions | None = None,
        *,
        body_file: str = "",
        buckets: tuple[Size, ...] = (),
        origin: str = "aios",
    ) -> None:
        """
        Args:
          options: `save_vertices` stores meshes of SMPL-X with their expression, which fits have no parameters for.
          body_file: the user's SMPL-X model, for a network with its heads.
          buckets: padded sizes (width, height); none: each picture keeps its resized size.
          origin: what predictions say they come from (`SceneFit.start_origin`).
        """
        options = options or PredictOptions()
        self.config, self.variables, self.buckets, self.origin = config, variables, buckets, origin
        self.threshold = SCORE_THRESHOLD if options.threshold is None else options.threshold
        self.single, self.save_vertices = options.single_person, options.save_vertices
        self._resize = functools.partial(
            picture_preprocess.output_size,
            short_side=options.short_side or picture_preprocess.TEST_SHORT_SIDE,
            limit=options.long_side or picture_preprocess.LONG_SIDE_LIMIT,
        )
        self._run = jax.jit(functools.partial(predict, config))
        self.head = config.body
        self._meshes = BodyMeshes() if self.head.name == "anny" else None
        self._smplx = None if self.head.name == "anny" else load_smplx(body_file).model

    def people(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        """All candidates of a picture, best first: `People` of host arrays without batch axis."""
        height, width = image.shape[:2]
        size = self._resize((width, height))
        row = picture_preprocess.normalise(picture_preprocess.warp(image, (0, 0, width, height), size))
        bucket = smallest_bucket(size, self.buckets) if self.buckets else size
        images, padding = picture_preprocess.pad_batch([row], bucket)
        full, factor = np.array([size], np.float32), np.array([[size[0] / width, size[1] / height]], np.float32)
        fields: dict[str, Any] = {"images": images, "padding": padding, "image_size": full, "resize_factor": factor}
        candidates = self._run(self.variables, Batch(**fields), self.threshold)
        if self.single:
            candidates = single_person(candidates)
        return jax.tree.map(lambda x: np.asarray(x)[0], candidates)

    def fit(self, name: str, image: UInt8[np.ndarray, "h w 3"], image_path: str = "") -> SceneFit:
        """The people above the threshold, best first; ids are their ranks, notes their scores and boxes."""
        candidates = self.people(image)
        kept = np.flatnonzero(candidates.valid)
        parameters, labels = self._parameters(candidates, kept)
        keypoints, height = self._measures(parameters)
        score = [
            f"score={candidates.scores[k]:.4f};box=" + ",".join(f"{v:.1f}" for v in candidates.boxes[k]) for k in kept
        ]
        fit = scene_fit(
            name, image_path, (image.shape[1], image.shape[0]), candidates.intrinsics, parameters, labels,
            keypoints_3d=keypoints, height_m=height, notes=score, origin=self.origin,
            asset_version=self._asset_version, scene_notes=self._scene_notes(),
        )  # fmt: skip
        if self.save_vertices:
            fit.vertices = self._vertices(
                parameters, None if candidates.expression is None else candidates.expression[kept]
            )
        return fit

    def joints(self, candidates: Any, kept: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n 17 3"]:
        """COCO-17 of some candidates (`people`), metres, camera axes."""
        return self._measures(self._parameters(candidates, kept)[0])[0]

    @property
    def _asset_version(self) -> str:
        model = self._smplx if self._meshes is None else self._meshes.model
        assert model is not None
        return str(model.labels.asset_version)

    def _scene_notes(self) -> list[str]:
        notes = [f"threshold={self.threshold:g}"]
        if self.head.expression:
            notes.append("expression_in_vertices_only" if self.save_vertices else "expression_not_stored")
        return notes

    def _parameters(self, candidates: Any, kept: np.ndarray) -> tuple[BodyParameters, tuple[np.ndarray, np.ndarray]]:
        """Parameters of fits, and the names of bones and shape coefficients."""
        rotvecs = {
            bone: getattr(candidates.rotvecs, part)[kept, k]
            for part, bones in self.head.parts.items()
            for k, bone in enumerate(bones)
        }
        is_anny = self.head.name == "anny"
        bones = anny_bones() if is_anny else smplx.JOINTS[1:]
        rest = np.zeros((len(kept), 3), np.float32)
        pose = np.stack([rotvecs.get(bone, rest) for bone in bones], 1)
        shape, transl = candidates.shape[kept], candidates.transl[kept]
        if is_anny:
            names = anny.PHENOTYPE_LABELS
            shape = shape[:, : len(names)]  # the rest is not part of fits: at its default
        else:
            assert self._smplx is not None
            names = tuple(f"beta{k}" for k in range(shape.shape[1]))
            for part, mean in zip((self.head.left_hand, self.head.right_hand), np.asarray(self._smplx.hand_means)):
                pose[:, [bones.index(bone) for bone in part]] += mean.reshape(-1, 3)
            expression = None if candidates.expression is None else candidates.expression[kept]
            transl = np.asarray(smplx.translation_from_transl(self._smplx, shape, transl, expression))
        root = rotvecs[self.head.body[0]]
        return BodyParameters(root, transl, pose, shape), (np.array(bones), np.array(names))

    def _measures(self, people: BodyParameters) -> tuple[np.ndarray, np.ndarray]:
        """COCO-17 in camera axes and the resting height, metres."""
        if self._meshes is not None:
            return self._meshes.keypoints_and_height(people)
        assert self._smplx is not None
        if not len(people):
            return np.zeros((0, _JOINTS, 3)), np.zeros(0)
        params = _smplx_params(people)
        rest = params._replace(root_rotvec=np.zeros_like(people.root_rotvec), pose_rotvec=np.zeros_like(people.pose))
        up = np.asarray(_posed(self._smplx, rest).vertices)[..., 1]
        return np.asarray(_posed(self._smplx, params).keypoints), up.max(1) - up.min(1)

    def _vertices(
        self, people: BodyParameters, expression: Float[np.ndarray, "n e"] | None
    ) -> Float[np.ndarray, "n v 3"]:
        """Posed meshes in camera axes, metres."""
        if self._meshes is not None:
            return np.asarray(self._meshes.vertices(people), np.float32)
        assert self._smplx is not None
        if not len(people):
            return np.zeros((0, smplx.NUM_VERTICES, 3), np.float32)
        return np.asarray(_posed(self._smplx, _smplx_params(people, expression)).vertices, np.float32)


_posed = jax.jit(smplx.forward)


def _smplx_params(people: BodyParameters, expression: np.ndarray | None = None) -> smplx.Params:
    arrays: Any = (people.shape, people.root_rotvec, people.pose, people.transl, expression)
    return smplx.Params(*arrays)
