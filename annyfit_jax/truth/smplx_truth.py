"""What the SMPL-X data sets share: the user's model files, people posed from official parameters, one person per image.

The option `smplx` is one model file, or a folder with `SMPLX_NEUTRAL`, `SMPLX_MALE`, `SMPLX_FEMALE` (`.npz` or `.pkl`; also in
its folder `smplx`). With a folder people of known gender are posed with their own file. Joints are always regressed with
the neutral one, or the only one, as AiOS does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.metrics.skeletons import SMPLX22
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import SceneError
from body_models import smplx_file

if TYPE_CHECKING:
    from body_models import smplx

UNLABELLED = -2.0
GENDERS = ("neutral", "male", "female")


# ------------------------------------------------------------------------------------------------ model files


def model_file(path: str | None, gender: str = "neutral") -> str:
    """The user's SMPL-X file for a gender: the one given, or that of a folder. Raises SceneError saying what to get."""
    if path is None:
        raise SceneError(
            "option smplx: the protocols ehf, ubody, arctic and egobody, and fits of SMPL-X, need the SMPL-X model file, "
            "e.g. SMPLX_NEUTRAL.npz"
        )
    root = Path(path).expanduser()
    if not root.is_dir():
        return path
    names = [f"{folder}SMPLX_{gender.upper()}{suffix}" for folder in ("", "smplx/") for suffix in (".npz", ".pkl")]
    for name in names:
        if (root / name).is_file():
            return str(root / name)
    raise SceneError(f"option smplx: {path}: none of {', '.join(names)} is there")


def gendered(path: str | None) -> bool:
    """Whether people are posed with the file of their gender."""
    return path is not None and Path(path).expanduser().is_dir()


@functools.lru_cache(maxsize=2)
def joint_regressor(path: str | None) -> Float[np.ndarray, "55 10475"]:
    """The regressor of the user's SMPL-X file. Raises SceneError saying what to get where none is given."""
    try:
        return smplx_file.read(model_file(path)).joint_regressor.astype(np.float64)
    except (smplx_file.SmplxFileError, FileNotFoundError) as error:
        raise SceneError(str(error)) from error


def load_smplx(
    path: str | None, where: str, gender: str = "neutral", *, num_betas: int = 10, num_expression: int = 10
) -> smplx.SmplxModel:
    """The user's model for a gender, with the given numbers of coefficients. Raises SceneError naming `where` and the file."""
    from body_models import smplx

    try:
        return smplx.load(model_file(path, gender), num_betas=num_betas, num_expression=num_expression)
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, SceneError) else SceneError(f"{where}: {error}") from error


# ------------------------------------------------------------------------------------------------ parameters


class OfficialParameters(NamedTuple):
    """Parameters of one person as the official SMPL-X package takes them; radians, metres, float64."""

    global_orient: Float[np.ndarray, "3"]
    body_pose: Float[np.ndarray, "63"]
    betas: Float[np.ndarray, "beta"]
    transl: Float[np.ndarray, "3"]
    left_hand_pose: Float[np.ndarray, "45"]
    """Relative to the mean hand, or to the flat hand (`SmplxPoser.vertices`)."""
    right_hand_pose: Float[np.ndarray, "45"]
    jaw_pose: Float[np.ndarray, "3"]
    expression: Float[np.ndarray, "expression"]


def flat_numbers(source: Mapping[str, Any], key: str, size: int | str, where: str) -> Float[np.ndarray, "size"]:
    """`source[key]` as `size` finite numbers, whatever its axes. Raises SceneError naming `where` and the key."""
    try:
        value = np.ravel(np.asarray(source.get(key, [])))
    except ValueError as error:
        raise SceneError(f"{where}: {key}: expected shape ({size},), got rows of different lengths") from error
    numbers = checked_array(value, f"{where}: {key}", (size,))
    if not np.isfinite(numbers).all():
        raise SceneError(f"{where}: {key}: expected finite numbers, shape ({size},)")
    return numbers


class SmplxPoser:
    """Poses people with the user's SMPL-X files, each loaded when the first person needs it. Eyes are at rest."""

    def __init__(self, path: str | None) -> None:
        """`path`: a file, or a folder with a file per gender (`model_file`)."""
        self._path = path
        self._models: dict[tuple[str, int, int], smplx.SmplxModel] = {}
        self._forward: Any = None

    def vertices(
        self, person: OfficialParameters, where: str, *, gender: str = "neutral", flat_hands: bool = False
    ) -> Float[np.ndarray, "10475 3"]:
        """The mesh in the frame of the parameters, metres. Raises SceneError naming `where` and the model file.

        Args:
          gender: one of `GENDERS`; without consequence where a single file was given.
          flat_hands: hand poses are relative to the flat hand instead of the model's mean hand.
        """
        import jax
        import jax.numpy as jnp

        from body_models import smplx

        if self._forward is None:
            self._forward = jax.jit(lambda model, params: smplx.forward(model, params).vertices)
        key = (gender if gendered(self._path) else "neutral", len(person.betas), len(person.expression))
        if key not in self._models:
            self._models[key] = load_smplx(self._path, where, key[0], num_betas=key[1], num_expression=key[2])
        model = self._models[key]
        orient, body, betas, transl, left, right, jaw, expression = (jnp.asarray(x, model.dtype) for x in person)
        if flat_hands:
            left, right = left - model.hand_means[0], right - model.hand_means[1]
        pose = smplx.pose_from_official(model, body, jaw_pose=jaw, left_hand_pose=left, right_hand_pose=right)
        at = smplx.translation_from_transl(model, betas, transl, expression)
        return np.asarray(self._forward(model, smplx.Params(betas, orient, pose, at, expression)), np.float64)


# ------------------------------------------------------------------------------------------------ truth


def one_person(
    name: str,
    vertices: Float[np.ndarray, "10475 3"],
    regressor: Float[np.ndarray, "55 10475"],
    intrinsics: Float[np.ndarray, "3 3"] | None,
    *,
    keypoints: Float[np.ndarray, "22 3"] | None = None,
    image_size: tuple[int, int] | None = None,
    only_inside: bool = False,
    group: str = "",
    aliases: tuple[str, ...] = (),
) -> TruthPeople:
    """Truth of an image with one person, the mesh in camera axes.

    Args:
      intrinsics: None where no camera is known.
      keypoints: annotated pixels and confidence of `SMPLX22`; None: the joints of the mesh, projected.
      only_inside: only vertices inside the picture count; needs `intrinsics` and `image_size`.
    """
    joints = (regressor @ np.asarray(vertices, np.float64))[: len(SMPLX22)]
    pixels, labelled = np.full((len(SMPLX22), 2), UNLABELLED), np.zeros(len(SMPLX22), bool)
    inside: Bool[np.ndarray, "V"] | None = None
    if keypoints is not None:
        pixels, labelled = np.asarray(keypoints, np.float64)[:, :2], np.asarray(keypoints)[:, 2] > 0
    elif intrinsics is not None:
        pixels = project(joints, np.asarray(intrinsics, np.float64))
        labelled = (joints[:, 2] > 0) & np.isfinite(pixels).all(-1)
    if only_inside and image_size is not None and intrinsics is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            at = project(np.asarray(vertices, np.float64), np.asarray(intrinsics, np.float64))
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
