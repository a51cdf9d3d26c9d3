"""Pictures of a training batch with the people that the network predicts and the true ones."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from annyfit_jax.people.camera import project
from annyfit_jax.regressors.aios import picture_preprocess
from annyfit_jax.regressors.aios.aios_batch import Batch
from annyfit_jax.regressors.aios.aios_config import AiosConfig
from annyfit_jax.regressors.aios.aios_predictions import Predictor, predict
from annyfit_jax.viz.drawing import draw_keypoints

_JOINTS = 17


def draw(
    config: AiosConfig, variables: Any, batch: Batch, threshold: float = 0.3, *, body_file: str = ""
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The pictures of a batch (host arrays) without padding: true joints as dots, predicted bodies as skeletons."""
    predictor, run = _predictor(config, body_file)
    people = jax.tree.map(np.asarray, run(variables, batch._replace(targets=None), threshold))
    drawn = []
    for k, size in enumerate(np.asarray(batch.image_size)):
        width, height = (int(side) for side in size)
        own = jax.tree.map(lambda x, row=k: x[row], people)
        joints = predictor.joints(own, np.flatnonzero(own.valid))
        # The camera is that of the picture before it was resized.
        K = np.diag([*np.asarray(batch.resize_factor)[k], 1.0]) @ own.intrinsics
        image = picture_preprocess.denormalised(np.asarray(batch.images[k])[:height, :width])
        image = draw_keypoints(image, np.zeros((len(joints), _JOINTS, 3)), project(joints, K))
        if batch.targets is not None:
            true = np.asarray(batch.targets.body_joints)[k][np.asarray(batch.targets.people)[k]]
            image = draw_keypoints(image, true * np.array([width, height, 1.0]), None)
        drawn.append(image)
    return drawn


@functools.cache
def _predictor(config: AiosConfig, body_file: str) -> tuple[Predictor, Any]:
    return Predictor(config, None, body_file=body_file), jax.jit(functools.partial(predict, config))
