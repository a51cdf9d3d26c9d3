"""Predictions as the metrics want them: fitted Anny or SMPL-X bodies, SMPL-X meshes, AGORA's own upload format."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.metrics.people_of_image import PredictedPeople
from annyfit_jax.metrics.skeletons import ANNY, HIPS, SMPL24, SMPLX22
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import COCO17, BodyParameters, SceneError
from annyfit_jax.records.dataframe_pickles import read_pickle
from annyfit_jax.records.npz import open_npz
from annyfit_jax.truth.agora_truth import NUM_MATCHED, SMPLX_NAMES
from annyfit_jax.truth.smplx_parts import SMPL_VERTICES
from annyfit_jax.truth.smplx_truth import joint_regressor, load_smplx, model_file
from body_models import anny, smplx
from body_models.smplx_file import NUM_VERTICES

_CHUNK = 8
"""People per evaluation of the body: one compiled shape."""
AGORA_JOINTS = 127
_VERTICES = {"smplx": (NUM_VERTICES, 3), "smpl": (SMPL_VERTICES, 3)}


class AnnyPeople:
    """Fitted Anny bodies as predictions. Holds the body and its compiled points."""

    def __init__(self, model: anny.AnnyModel | None = None) -> None:
        self._model = anny.load() if model is None else model
        rest = np.asarray(jax.jit(anny.rest)(self._model, np.full(6, 0.5, self._model.dtype))[0])
        crown = int(rest[..., 2].argmax())  # Anny rests with Z up
        neck = self._model.labels.bones.index("neck01")
        self._points = jax.jit(functools.partial(_body_points, neck=neck, crown=crown))

    def joints(self, people: BodyParameters) -> Float[np.ndarray, "n 21 3"]:
        """`skeletons.ANNY` in the frame of the parameters, metres; NaN for people with NaN parameters."""
        out = [np.zeros((0, len(COCO17) + 2, 3))]
        for start in range(0, len(people), _CHUNK):
            part = people.select(np.minimum(np.arange(start, start + _CHUNK), len(people) - 1))
            arrays = (np.clip(part.shape, 0.0, 1.0), part.root_rotvec, part.pose, part.transl)
            params = anny.Params(*(jnp.asarray(x, self._model.dtype) for x in arrays))
            out.append(np.asarray(self._points(self._model, params), np.float64)[: len(people) - start])
        points = np.concatenate(out)
        middle = lambda joint: points[:, [COCO17.index(f"{side}_{joint}") for side in ("left", "right")]].mean(1)  # noqa: E731
        coco, neck, crown = points[:, : len(COCO17)], points[:, -2], points[:, -1]
        extra = np.stack([neck, middle("shoulder"), crown, middle("hip")], axis=1)
        return np.concatenate([coco, extra], axis=1)

    def predict(self, people: BodyParameters, intrinsics: Float[np.ndarray, "3 3"]) -> PredictedPeople:
        """Predictions of n people in camera axes: everybody with finite parameters."""
        arrays = (people.root_rotvec, people.transl, people.pose, people.shape)
        finite = np.all([np.isfinite(x).reshape(len(people), -1).all(1) for x in arrays], axis=0)
        people = people.select(np.flatnonzero(finite))
        joints = self.joints(people)
        return PredictedPeople(
            names=ANNY,
            joints_2d=project(joints, np.asarray(intrinsics, np.float64)),
            joints_3d=joints,
            depth=np.asarray(people.transl, np.float64)[:, 2],
            gender=np.asarray(people.shape, np.float64)[:, 0],
            age=np.asarray(people.shape, np.float64)[:, 1],
        )


def _body_points(model: anny.AnnyModel, params: anny.Params, *, neck: int, crown: int) -> jax.Array:
    body = anny.forward(model, params)
    points = (body.keypoints[:, : len(COCO17)], body.bone_poses[:, neck, None, :3, 3], body.vertices[:, crown, None])
    return jnp.concatenate(points, axis=1)


# ------------------------------------------------------------------------------------------------ SMPL-X

_LANDMARKS = 76
"""First face landmark among the joints of the SMPL-X layer; those from 55 on before it are in no figure."""


class SmplxPeople:
    """Fitted SMPL-X bodies as predictions, posed with the user's model."""

    def __init__(self, path: str | None) -> None:
        """`path`: model file or folder (`smplx_truth.model_file`). Raises SceneError."""
        self._path, self._regressor = path, joint_regressor(path)
        self._models: dict[int, smplx.SmplxModel] = {}
        self._forward = jax.jit(_mesh_and_joints)
        self._landmarks = _landmarks(model_file(path))

    def predict(
        self,
        people: BodyParameters,
        intrinsics: Float[np.ndarray, "3 3"],
        stored: Float[np.ndarray, "n 10475 3"] | None = None,
    ) -> PredictedPeople:
        """Predictions of n people in camera axes: everybody with finite parameters.

        `stored`: their meshes as the fit stores them, which have an expression. Parameters of fits have none: zero then.
        `joints_smplx` are the 127 joints of the SMPL-X layer, NaN where no figure needs them and for face landmarks that the
        model file lacks; `joints_3d` are regressed from the mesh, as those of the truth are.
        """
        arrays = (people.shape, people.root_rotvec, people.pose, people.transl)
        finite = np.flatnonzero(np.all([np.isfinite(x).reshape(len(people), -1).all(1) for x in arrays], 0))
        vertices, posed = self._meshes(people.select(finite))
        if stored is not None:
            vertices = checked_array(stored, "vertices of the fit", (len(people), NUM_VERTICES, 3))[finite]
        layer = np.full((len(vertices), AGORA_JOINTS, 3), np.nan)
        layer[:, : posed.shape[1]] = posed
        if self._landmarks is not None:
            corners, weights = self._landmarks
            layer[:, _LANDMARKS:] = np.einsum("nkvc,kv->nkc", vertices[:, corners], weights)
        joints = np.einsum("jv,nvi->nji", self._regressor, vertices)[:, :NUM_MATCHED]
        return PredictedPeople(
            names=SMPLX_NAMES,
            joints_2d=project(layer[:, :NUM_MATCHED], np.asarray(intrinsics, np.float64)),
            joints_3d=joints,
            depth=layer[:, 0, 2],
            vertices=vertices,
            joints_smplx=layer,
        )

    def _meshes(self, people: BodyParameters) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and joints, metres."""
        meshes, skeletons = [np.zeros((0, NUM_VERTICES, 3))], [np.zeros((0, len(smplx.JOINTS), 3))]
        for start in range(0, len(people), _CHUNK):
            part = people.select(np.minimum(np.arange(start, start + _CHUNK), len(people) - 1))
            betas = part.shape.shape[1]
            if betas not in self._models:
                self._models[betas] = load_smplx(self._path, "shape of the fits", num_betas=betas)
            model = self._models[betas]
            arrays = (part.shape, part.root_rotvec, part.pose, part.transl)
            params = smplx.Params(*(jnp.asarray(x, model.dtype) for x in arrays))
            vertices, joints = self._forward(model, params)
            meshes.append(np.asarray(vertices, np.float64)[: len(people) - start])
            skeletons.append(np.asarray(joints, np.float64)[: len(people) - start])
        return np.concatenate(meshes), np.concatenate(skeletons)


def _mesh_and_joints(model: smplx.SmplxModel, params: smplx.Params) -> tuple[jax.Array, jax.Array]:
    body = smplx.forward(model, params)
    return body.vertices, body.joints


def _landmarks(file: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Corners (51, 3) and weights (51, 3) of the face landmarks; None where the model file does not have them."""
    if not file.endswith(".npz"):
        return None
    with open_npz(file) as archive:
        keys = ("lmk_faces_idx", "lmk_bary_coords", "f")
        if any(key not in archive for key in keys):
            return None
        rows, weights, faces = (np.asarray(archive.read(key)) for key in keys)
        where = archive.where("lmk_faces_idx")
    rows, weights = checked_array(rows, where, (51,), np.int64), checked_array(weights, where, (51, 3))
    if rows.min() < 0 or rows.max() >= len(faces):
        raise SceneError(f"{where}: expected numbers of the {len(faces)} triangles, shape (51,)")
    return faces.astype(np.int64)[rows], weights


def read_meshes(path: str | Path, regressor: Float[np.ndarray, "55 10475"]) -> PredictedPeople:
    """SMPL-X meshes of one image from `.npz`: `vertices` (n, 10475, 3) camera axes, metres; `score` (n,), `K` (3, 3) optional.

    With scores people come best first; without `K` there are no pixels (NaN). Raises SceneError.
    """
    with open_npz(str(path)) as npz:
        vertices = checked_array(npz.read("vertices"), npz.where("vertices"), ("n", NUM_VERTICES, 3))
        if not np.isfinite(vertices).all():
            raise SceneError(f"{npz.where('vertices')}: expected finite numbers, shape (n, {NUM_VERTICES}, 3)")
        n = len(vertices)
        score = checked_array(npz.read("score"), npz.where("score"), (n,)) if "score" in npz else np.zeros(n)
        intrinsics = checked_array(npz.read("K"), npz.where("K"), (3, 3)) if "K" in npz else np.full((3, 3), np.nan)
    vertices = vertices[np.argsort(-score, kind="stable")]
    joints = np.einsum("jv,nvi->nji", regressor, vertices)
    return PredictedPeople(
        names=SMPLX22,
        joints_2d=project(joints[:, : len(SMPLX22)], intrinsics),
        joints_3d=joints[:, : len(SMPLX22)],
        depth=joints[:, 0, 2],
        vertices=vertices,
        joints_smplx=joints,
    )


def agora_files(folder: str | Path) -> dict[str, list[Path]]:
    """Image stem -> its prediction files `<stem>_personId_<k>.pkl`, by k. Raises SceneError where there is none."""
    by_stem: dict[str, list[tuple[int, Path]]] = {}
    for file in Path(folder).glob("*_personId_*.pkl"):
        stem, _, number = file.stem.rpartition("_personId_")
        if number.isdigit():
            by_stem.setdefault(stem, []).append((int(number), file))
    if not by_stem:
        raise SceneError(f"{folder}: no AGORA predictions (<image>_personId_<k>.pkl)")
    return {stem: [file for _, file in sorted(files)] for stem, files in by_stem.items()}


def agora_body(files: list[Path]) -> str:
    """`smplx` or `smpl`: the body of predictions in AGORA's upload format. Raises SceneError where it is neither."""
    vertices = np.shape(_uploaded(files[0]).get("verts", ()))
    body = {shape: name for name, shape in _VERTICES.items()}.get(vertices)
    if body is None:
        expected = " or ".join(map(str, _VERTICES.values()))
        raise SceneError(
            f"{files[0]}: verts: expected shape {expected}, got {vertices}; parameters alone are not posed here"
        )
    return body


def read_agora(files: list[Path], body: str = "smplx") -> PredictedPeople:
    """AGORA's upload format with joints and vertices.

    | body | `joints` | `allSmplJoints3d` | `verts` |
    |---|---|---|---|
    | `smplx` | (24, 2) | (127, 3) | (10475, 3) |
    | `smpl` | (24, 2) | (24, 3) | (6890, 3) |
    """
    joints_3d = (AGORA_JOINTS if body == "smplx" else NUM_MATCHED, 3)
    shapes = {"joints": (NUM_MATCHED, 2), "allSmplJoints3d": joints_3d, "verts": _VERTICES[body]}
    people: dict[str, list[np.ndarray]] = {key: [] for key in shapes}
    for file in files:
        content = _uploaded(file)
        for key, shape in shapes.items():
            if key not in content:
                raise SceneError(f"{file}: {key}: missing, expected shape {shape}; parameters alone are not posed here")
            people[key].append(checked_array(content[key], f"{file}: {key}", shape))
    arrays = {key: np.stack(values) for key, values in people.items()}
    names = SMPLX_NAMES if body == "smplx" else SMPL24
    joints = arrays["allSmplJoints3d"]
    return PredictedPeople(
        names=names,
        joints_2d=arrays["joints"],
        joints_3d=joints[:, :NUM_MATCHED],
        depth=joints[:, [names.index(name) for name in HIPS], 2].mean(1),
        vertices=arrays["verts"],
        joints_smplx=joints,
    )


def _uploaded(file: Path) -> dict:
    content = read_pickle(file)
    if not isinstance(content, dict):
        raise SceneError(f"{file}: expected a dictionary, got {type(content).__name__}")
    return content
