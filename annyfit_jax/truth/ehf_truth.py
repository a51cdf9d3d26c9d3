"""EHF: 100 pictures of one person, with SMPL-X meshes `<n>_align.ply` in world axes and one calibrated camera.

The camera is the one published with the data set; X = R x + t in metres. An image is called by its number (`01`); fits may
also be called `01_img`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth.smplx_truth import joint_regressor, one_person
from annyfit_jax.truth.truth_source import TruthOptions, TruthSource
from body_models.smplx_file import NUM_VERTICES

INTRINSICS = np.array([[1498.22426237, 0, 790.263706], [0, 1498.22426237, 578.90334], [0, 0, 1.0]])
IMAGE_SIZE = (1600, 1200)
ROTATION_VECTOR = np.array([-2.98747896, 0.01172457, -0.05704687])
TRANSLATION = np.array([-0.03609917, 0.43416458, 2.37101226])
_SUFFIX = "_align.ply"
_MAX_BYTES = 64 << 20


def open_source(path: Path, options: TruthOptions) -> TruthSource:
    """The meshes of a folder."""
    files = sorted(path.glob(f"*{_SUFFIX}"))
    if not files:
        raise SceneError(f"{path}: no EHF meshes (<n>{_SUFFIX})")
    regressor = joint_regressor(options.smplx)
    names = tuple(file.name.removesuffix(_SUFFIX) for file in files)

    def load(index: int) -> TruthPeople:
        vertices = camera_from_world(read_ply(files[index]))
        aliases = (f"{names[index]}_img",)
        return one_person(names[index], vertices, regressor, INTRINSICS, image_size=IMAGE_SIZE, aliases=aliases)

    return TruthSource(names, load, str(path))


def camera_from_world(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """World points to the axes of EHF's camera."""
    angle = np.linalg.norm(ROTATION_VECTOR)
    x, y, z = ROTATION_VECTOR / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return np.asarray(points, np.float64) @ rotation.T + TRANSLATION


def read_ply(path: Path) -> Float[np.ndarray, "10475 3"]:
    """Vertices of a SMPL-X mesh in file order. Raises SceneError."""
    import trimesh

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SceneError(f"{path}: larger than {_MAX_BYTES} bytes")
        mesh = trimesh.load(path, file_type="ply", process=False, force="mesh")
        vertices = np.asarray(mesh.vertices, np.float64)  # pyright: ignore[reportAttributeAccessIssue]
    except SceneError:
        raise
    except Exception as error:  # a damaged mesh fails in any way
        raise SceneError(f"{path}: not a readable .ply mesh ({type(error).__name__}: {error})") from error
    if vertices.shape != (NUM_VERTICES, 3) or not np.isfinite(vertices).all():
        raise SceneError(
            f"{path}: vertex: expected finite x, y, z of SMPL-X, shape ({NUM_VERTICES}, 3), got {vertices.shape}"
        )
    return vertices
