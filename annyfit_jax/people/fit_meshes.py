"""Meshes of fits of either body: Anny's, which ships, and SMPL-X's, for which the user's file is needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fitted import SceneFit, check_body, is_smplx
from annyfit_jax.people.scene import BodyParameters, SmplxParameters
from body_models import linear, smplx

_CHUNK = 8
"""People per evaluation of the full mesh: one compiled shape."""


class SmplxMeshes:
    """A SMPL-X body and its compiled forward pass, as `BodyMeshes` of Anny."""

    def __init__(self, model: smplx.SmplxModel) -> None:
        self.model = model
        self._forward = jax.jit(smplx.forward)
        self._rest = jax.jit(_rest_height)

    @property
    def faces(self) -> np.ndarray:
        """(20908, 3) int32 triangles."""
        return np.asarray(self.model.faces)

    def vertices(self, people: BodyParameters) -> Float[np.ndarray, "n 10475 3"]:
        """Posed vertices in the frame of the parameters, metres; NaN for people with NaN parameters."""
        return self._chunks(people, lambda p: self._forward(self.model, p).vertices, (smplx.NUM_VERTICES, 3))

    def keypoints_and_height(
        self, people: BodyParameters
    ) -> tuple[Float[np.ndarray, "n 17 3"], Float[np.ndarray, "n"]]:
        """COCO-17 in the frame of the parameters and the vertical extent of the resting body, metres."""
        keypoints = self._chunks(people, lambda p: self._forward(self.model, p).keypoints, (len(smplx.KEYPOINTS), 3))
        return keypoints, self._chunks(people, lambda p: self._rest(self.model, p.betas), ())

    def outputs(self, people: BodyParameters) -> Iterator[smplx.Output]:
        """Everything of the people's bodies, some at a time, in the frame of the parameters."""
        for params, count in self._params(people):
            yield jax.tree.map(lambda leaf, count=count: leaf[:count], self._forward(self.model, params))

    def _params(self, people: BodyParameters) -> Iterator[tuple[smplx.Params, int]]:
        for start in range(0, len(people), _CHUNK):
            part = people.select(np.minimum(np.arange(start, start + _CHUNK), len(people) - 1))
            arrays = (part.shape, part.root_rotvec, part.pose, part.transl, smplx_face(self.model, part))
            yield smplx.Params(*(jnp.asarray(x, self.model.dtype) for x in arrays)), len(people) - start

    def _chunks(
        self, people: BodyParameters, function: Callable[[smplx.Params], jax.Array], trailing: tuple[int, ...]
    ) -> np.ndarray:
        out = [np.zeros((0, *trailing), self.model.dtype)]
        out += [np.asarray(function(params))[:count] for params, count in self._params(people)]
        return np.concatenate(out)


def smplx_face(model: smplx.SmplxModel, people: BodyParameters) -> Float[np.ndarray, "n E"]:
    """As many coefficients of the face as the model takes; zeros where there are none."""
    face = np.zeros((len(people), model.labels.num_expression), np.float32)
    if isinstance(people, SmplxParameters):
        given = np.nan_to_num(people.expression)[:, : face.shape[1]]
        face[:, : given.shape[1]] = given
    return face


def _rest_height(model: smplx.SmplxModel, betas: Float[jax.Array, "n S"]) -> Float[jax.Array, "n"]:
    count = betas.shape[1]
    up = model.vertices.mean[1] + jnp.matmul(betas, model.vertices.basis[:count, 1], precision=linear.PRECISION)
    return up.max(-1) - up.min(-1)


class FitMeshes:
    """The meshes of whatever fit comes; bodies are read when they are needed first."""

    def __init__(self, smplx_model: str = "", kid_template: str = "") -> None:
        """
        Args:
          smplx_model: the user's file, for fits of SMPL-X.
          kid_template: AGORA's file, for those whose last beta blends with a child.
        """
        self.smplx_model, self.kid_template = smplx_model, kid_template
        self._smplx = functools.lru_cache(maxsize=4)(self._read)

    @functools.cached_property
    def anny(self) -> BodyMeshes:
        """Anny."""
        return BodyMeshes()

    def of(self, fit: SceneFit, where: str = "") -> BodyMeshes | SmplxMeshes:
        """The meshes of a fit's body. Raises ValueError where the file of SMPL-X was not given, or is another one."""
        if is_smplx(fit):
            return self._smplx(*self._kind(fit, where))
        return self.anny

    def check(self, fit: SceneFit, where: str = "") -> None:
        """Raises ValueError where the fit is of SMPL-X, and its file was not given, or is another one."""
        if is_smplx(fit):
            self._kind(fit, where)

    def smplx_of(self, fit: SceneFit, where: str = "") -> smplx.SmplxModel:
        """The model of a fit of SMPL-X. Raises ValueError as `of`."""
        return self._smplx(*self._kind(fit, where)).model

    def smplx_with(self, num_betas: int, kid: bool = False) -> smplx.SmplxModel:
        """The model with some betas, and with the blend as one more."""
        return self._smplx(num_betas, kid).model

    def _kind(self, fit: SceneFit, where: str) -> tuple[int, bool]:
        """Betas without the blend, and whether there is one."""
        where = where or fit.name
        if not self.smplx_model:
            raise ValueError(f"{where}: is a fit of SMPL-X; give its file with --smplx_model (evaluate: --smplx)")
        kid = "kid" in fit.phenotype_labels.tolist()
        if kid and not self.kid_template:
            raise ValueError(f"{where}: its last beta blends with a child; give AGORA's file with --kid_template")
        count = fit.shape.shape[1] - kid
        check_body(where, fit, self._smplx(count, kid).model.labels.asset_version)
        return count, kid

    def _read(self, num_betas: int, kid: bool) -> SmplxMeshes:
        child = self.kid_template if kid else None
        return SmplxMeshes(smplx.load(self.smplx_model, num_betas=num_betas, kid_template=child))
