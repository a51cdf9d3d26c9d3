"""What the SMPL-X data sets share: the user's model file, one person per image, joints regressed from the mesh."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.metrics.joints import project
from annyfit_jax.metrics.people import TruthPeople
from annyfit_jax.metrics.skeletons import SMPLX22
from annyfit_jax.scene import SceneError
from body_models import smplx_file

UNLABELLED = -2.0


@functools.lru_cache(maxsize=2)
def joint_regressor(path: str | None) -> Float[np.ndarray, "55 10475"]:
    """The regressor of the user's SMPL-X file. Raises SceneError saying what to get where none is given."""
    if path is None:
        raise SceneError("option smplx: the protocols ehf and ubody need the SMPL-X model file, e.g. SMPLX_NEUTRAL.npz")
    try:
        return smplx_file.read(path).joint_regressor.astype(np.float64)
    except (smplx_file.SmplxFileError, FileNotFoundError) as error:
        raise SceneError(str(error)) from error


def one_person(
    name: str,
    vertices: Float[np.ndarray, "10475 3"],
    regressor: Float[np.ndarray, "55 10475"],
    intrinsics: Float[np.ndarray, "3 3"],
    *,
    image_size: tuple[int, int] | None = None,
    only_inside: bool = False,
    group: str = "",
    aliases: tuple[str, ...] = (),
) -> TruthPeople:
    """Truth of an image with one person, the mesh in camera axes. `only_inside`: only vertices inside the picture count."""
    joints = (regressor @ np.asarray(vertices, np.float64))[: len(SMPLX22)]
    pixels = project(joints, intrinsics)
    labelled = (joints[:, 2] > 0) & np.isfinite(pixels).all(-1)
    inside: Bool[np.ndarray, "V"] | None = None
    if only_inside and image_size is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            at = project(np.asarray(vertices, np.float64), intrinsics)
        inside = np.all((at > 0) & (at < np.asarray(image_size)), axis=-1)
    return TruthPeople(
        name=name,
        names=SMPLX22,
        joints_2d=np.where(labelled[:, None], pixels, UNLABELLED)[None],
        labelled=labelled[None],
        joints_3d=joints[None],
        labelled_3d=np.ones((1, len(joints)), bool),
        vertices=np.asarray(vertices)[None],
        inside=None if inside is None else inside[None],
        intrinsics=intrinsics,
        image_size=image_size,
        group=group,
        aliases=aliases,
    )
