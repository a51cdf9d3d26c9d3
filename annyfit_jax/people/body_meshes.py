"""Bodies from parameters: posed vertices, COCO keypoints and heights of any number of people.

Everything runs in chunks of one fixed number of people, so that one compiled program serves every scene.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from annyfit_jax.people.scene import COCO17, BodyParameters
from body_models import anny

_CHUNK = 8
"""People per evaluation of the full mesh: one compiled shape."""


class BodyMeshes:
    """An Anny body and its compiled forward pass."""

    def __init__(self, model: anny.AnnyModel | None = None) -> None:
        self.model = anny.load() if model is None else model
        self._forward = jax.jit(anny.forward)
        self._rest_height = jax.jit(rest_height)

    @property
    def faces(self) -> np.ndarray:
        """(27420, 3) int32 triangles."""
        return np.asarray(self.model.faces)

    def vertices(self, people: BodyParameters) -> Float[np.ndarray, "n 13718 3"]:
        """Posed vertices in the frame of the parameters, metres; NaN for people with NaN parameters."""
        return self._chunks(people, lambda p: self._forward(self.model, p).vertices, (len(self.model.skin.T), 3))

    def keypoints_and_height(
        self, people: BodyParameters
    ) -> tuple[Float[np.ndarray, "n 17 3"], Float[np.ndarray, "n"]]:
        """COCO-17 in the frame of the parameters and the vertical extent of the resting body, metres."""
        joints = len(COCO17)
        keypoints = self._chunks(people, lambda p: self._forward(self.model, p).keypoints[:, :joints], (joints, 3))
        return keypoints, self._chunks(people, lambda p: self._rest_height(self.model, p.phenotypes), ())

    def _chunks(
        self, people: BodyParameters, function: Callable[[anny.Params], jax.Array], trailing: tuple[int, ...]
    ) -> np.ndarray:
        out = [np.zeros((0, *trailing), self.model.dtype)]
        for start in range(0, len(people), _CHUNK):
            part = people.select(np.minimum(np.arange(start, start + _CHUNK), len(people) - 1))
            arrays = (part.shape, part.root_rotvec, part.pose, part.transl)
            params = anny.Params(*(jnp.asarray(x, self.model.dtype) for x in arrays))
            out.append(np.asarray(function(params))[: len(people) - start])
        return np.concatenate(out)


def rest_height(model: anny.AnnyModel, phenotypes: Float[Array, "n S"]) -> Float[Array, "n"]:
    """Vertical extent of resting bodies, metres; not compiled."""
    up = anny.rest(model, phenotypes)[0][..., 2]
    return up.max(-1) - up.min(-1)
