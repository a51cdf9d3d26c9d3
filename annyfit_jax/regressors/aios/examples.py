"""Annotated pictures as AiOS needs them, from HumanData files and from datasets of our fits. Host code, numpy.

source = HumanDataSource(("agora.npz",), "images", head=SMPLX)
source = FitsSource("fits_dataset", head=ANNY)
example = source[17]                # pixels of the picture, before any augmentation
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from annyfit_jax.exports.humandata_export import read_humandata
from annyfit_jax.exports.training_set import FitRecords, record_name, record_photo
from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.file_names import file_inside
from annyfit_jax.regressors.aios.aios_config import BodyHead
from annyfit_jax.regressors.aios.body_points import SMPLX_FROM_144
from annyfit_jax.regressors.aios.picture_preprocess import enlarged_box
from annyfit_jax.regressors.aios.targets import BodyTargets, PartArrays
from body_models import anny

COCO_FROM_137 = (24, 22, 23, 20, 21, 8, 9, 10, 11, 12, 13, 1, 2, 3, 4, 5, 6)
PARTS_FROM_137 = ((12, 28, 32, 36, 40, 44), (13, 48, 52, 56, 60, 64), (24, 103, 65, 120, 128, 136))
"""Six joints each of left hand, right hand and face."""
TRUE_FROM_144 = (*SMPLX_FROM_144[:67], SMPLX_FROM_144[68], SMPLX_FROM_144[67], *SMPLX_FROM_144[69:])
"""As released, ground truth has the eyeballs the other way round than predictions."""
_PART_BOXES = ("lhand_bbox_xywh", "rhand_bbox_xywh", "face_bbox_xywh")
_KEYPOINT_BOX = 1.2
"""Boxes around keypoints end at wrists, ankles and eyes: they are enlarged by this."""


class Example(NamedTuple):
    """One picture and its n people. Boxes are (x, y, w, h), joints (x, y, confidence), in pixels of the picture."""

    name: str
    photo: bytes | Path
    """Encoded, or the file."""
    size: tuple[int, int]
    """(width, height)."""
    boxes: Float[np.ndarray, "n 4"]
    part_boxes: Float[np.ndarray, "n 3 4"]
    """Left hand, right hand, face; without extent where it is not known."""
    body_joints: Float[np.ndarray, "n 17 3"]
    part_joints: Float[np.ndarray, "n 3 6 3"]
    body: BodyTargets
    """Arrays with n rows."""
    points: Float[np.ndarray, "n point 4"]
    """(X, Y, Z, confidence), camera axes, metres, in the order of the head's `PointLayout`."""
    image_points: Float[np.ndarray, "n point 3"]
    transl: Float[np.ndarray, "n 3"]
    """Of the body model's origin for `intrinsics`, metres; z = 0 where it is not known."""
    intrinsics: Float[np.ndarray, "3 3"]
    has_3d: float


def pixels(example: Example) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, RGB, its EXIF orientation ignored. Raises SceneError if it is not of the annotated size."""
    rgb = read_photo(example.photo, where=example.name, upright=False)
    if rgb.shape[1::-1] != tuple(example.size):
        raise SceneError(f"{example.name}: a picture of {rgb.shape[1::-1]} pixels, annotated for {example.size}")
    return rgb


def rotations_by_part(
    head: BodyHead, rotvecs: Mapping[str, Float[np.ndarray, "n 3"]], valid: Float[np.ndarray, "n"]
) -> tuple[PartArrays, PartArrays]:
    """Rotation vectors and their masks in the order of the head, from rotation vectors by bone; others are unknown."""
    values, masks = [], []
    for bones in head.parts.values():
        known = np.array([name in rotvecs for name in bones], np.float32)
        rows = [rotvecs.get(name, np.zeros((len(valid), 3))) for name in bones]
        values.append(np.stack(rows, 1).astype(np.float32))
        masks.append(valid[:, None].astype(np.float32) * known)
    return PartArrays(*values), PartArrays(*masks)


# ------------------------------------------------------------------------------------------------ HumanData


class HumanDataSource:
    """The pictures of HumanData files. Parameters count for the head they are of, everything in two dimensions for both."""

    def __init__(
        self, files: Sequence[str], images: str, head: BodyHead, *, has_3d: bool = True, every: int = 1
    ) -> None:
        """Reads all annotations into memory.

        Args:
          images: folder that `image_path` is relative to.
          has_3d: whether the 3D points are to be trusted (COCO: no).
          every: n uses only every n-th picture.

        Raises SceneError naming file and field.
        """
        self.images, self.head, self.has_3d = Path(images), head, float(has_3d)
        self._files = [(path, _checked(path, read_humandata(path))) for path in files]
        spans = [(file, first, last) for file, (_, c) in enumerate(self._files) for first, last in c["frame_range"]]
        self._spans = spans[::every]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Example:
        file, first, last = self._spans[index]
        path, content = self._files[file]
        rows = slice(first, last)
        meta = content["meta"]
        size = tuple(int(np.ravel(meta[key])[first if np.size(meta[key]) > 1 else 0]) for key in ("width", "height"))
        assert len(size) == 2
        n = last - first
        joints, confidence3d = _keypoints(content, "2d", rows), _keypoints(content, "3d", rows)
        boxes = content["bbox_xywh"][rows, :4].astype(np.float64)
        if content.get("config") == "annyfit-jax":
            grown = [enlarged_box(box, size, _KEYPOINT_BOX) for box in boxes]
            boxes = np.stack([np.zeros(4) if box is None else box for box in grown]) if n else np.zeros((0, 4))
        part_boxes = np.zeros((n, 3, 4))
        for part, key in enumerate(_PART_BOXES):
            if key in content:
                box = np.asarray(content[key], np.float64)[rows]
                part_boxes[:, part] = box[:, :4] * (box[:, 4:] > 0 if box.shape[1] == 5 else 1.0)
        body, transl = self._parameters(content, rows, n)
        points, image_points = (np.zeros((n, 0, k)) for k in (4, 3))
        if self.head.name == "smplx":
            points, image_points = confidence3d, joints
        return Example(
            name=f"{path}: image {index}",
            photo=self._photo(str(content["image_path"][first]), path),
            size=size,
            boxes=boxes,
            part_boxes=part_boxes,
            body_joints=joints[:, list(COCO_FROM_137)],
            part_joints=joints[:, np.array(PARTS_FROM_137)],
            body=body,
            points=points,
            image_points=image_points,
            transl=transl,
            intrinsics=_intrinsics(meta, first, size),
            has_3d=self.has_3d,
        )

    def _photo(self, name: str, path: str) -> Path:
        file = file_inside(self.images, name)
        if file is None:
            raise SceneError(f"{path}: image_path {name!r:.200}: no such photo in {self.images}")
        return file

    def _parameters(self, content: Mapping[str, Any], rows: slice, n: int) -> tuple[BodyTargets, np.ndarray]:
        body = content.get(self.head.name)
        valid = np.asarray(content.get("annot_valid", np.ones(rows.stop)))[rows].astype(np.float32)
        meta = content["meta"].get(f"{self.head.name}_valid")
        if meta is not None:
            valid = valid * np.asarray(meta, np.float32)[rows]
        if body is None:
            body, valid = {}, np.zeros(n, np.float32)

        def entry(name: str, width: int) -> np.ndarray | None:
            return np.asarray(body[name], np.float32)[rows].reshape(n, -1, width) if name in body else None

        rotvecs: dict[str, np.ndarray] = {}
        if self.head.name == "anny":
            bones = content["misc"].get("bone_labels", anny_bones()) if "misc" in content else anny_bones()
            root, pose = entry("root_rotvec", 3), entry("pose", 3)
            if root is not None and pose is not None:
                rotvecs = {"root": root[:, 0], **{str(name): pose[:, k] for k, name in enumerate(bones)}}
            shape = _anny_shape(entry("shape", 1), n)
        else:
            order = (("global_orient", 0, 1), ("body_pose", 1, 22))
            for name, first, last in order:
                values = entry(name, 3)
                if values is not None:
                    rotvecs |= {bone: values[:, k] for k, bone in enumerate(self.head.body[first:last])}
            for name, bones in (
                ("left_hand_pose", self.head.left_hand), ("right_hand_pose", self.head.right_hand),
                ("jaw_pose", self.head.face),
            ):  # fmt: skip
                values = entry(name, 3)
                if values is not None:
                    rotvecs |= {bone: values[:, k] for k, bone in enumerate(bones)}
            shape = _padded(entry("betas", 1), n, self.head.shape)
        expression = entry("expression", 1)
        known = valid if expression is not None else np.zeros(n, np.float32)
        transl = entry("transl", 3)
        vectors, masks = rotations_by_part(self.head, rotvecs, valid)
        expressions = _padded(expression, n, self.head.expression)
        return _body(vectors, masks, shape, valid, expressions, known), (
            np.zeros((n, 3)) if transl is None else transl[:, 0] * valid[:, None]
        )


def _checked(path: str, content: dict[str, Any]) -> dict[str, Any]:
    for key in ("bbox_xywh", "meta"):
        if key not in content:
            raise SceneError(f"{path}: {key}: missing")
    for key in ("width", "height"):
        if key not in content["meta"]:
            raise SceneError(f"{path}: meta: {key}: missing, the size of the pictures in pixels")
    return content


def _keypoints(content: Mapping[str, Any], kind: str, rows: slice) -> np.ndarray:
    """137 points with confidence, float64; zeros where the file has none."""
    for key in (f"keypoints{kind}_original", f"keypoints{kind}_smplx", f"keypoints{kind}"):
        if key in content:
            keypoints = np.asarray(content[key], np.float64)[rows]
            mask = content.get(f"{key}_mask")
            keypoints = keypoints[:, list(TRUE_FROM_144)].copy()
            if mask is not None:
                keypoints[..., -1] *= np.asarray(mask)[list(TRUE_FROM_144)] > 0
            return keypoints
    return np.zeros((rows.stop - rows.start, 137, 3 if kind == "2d" else 4))


def _intrinsics(meta: Mapping[str, Any], row: int, size: tuple[int, int]) -> np.ndarray:
    """Of the picture; without a focal length in the file all zeros, and nothing is projected with it."""
    if "focal_length" not in meta or "principal_point" not in meta:
        return np.zeros((3, 3))
    focal, centre = (np.atleast_2d(np.asarray(meta[key], np.float64)) for key in ("focal_length", "principal_point"))
    (fx, fy), (cx, cy) = (x[row if len(x) > 1 else 0, :2] for x in (focal, centre))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


# ------------------------------------------------------------------------------------------------ our fits


class FitsSource:
    """A dataset of fits with their photos (`experiments.export --format=tfds --images=...`)."""

    def __init__(self, folder: str, head: BodyHead, *, every: int = 1) -> None:
        """Raises SceneError if the folder is no such dataset."""
        self.folder, self.head = Path(folder), head
        self._records = FitRecords(folder, every)
        self.bones = [str(name) for name in json.loads((self.folder / "labels.json").read_text())["bone_labels"]]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        record = self._records[index]
        name = f"{self.folder}: {record_name(record)}"
        photo = record_photo(record, name)
        width, height = (int(side) for side in record["image_size"])
        corners = np.asarray(record["boxes"], np.float64)
        valid = np.asarray(record["fitted"], bool) & np.isfinite(record["transl"]).all(-1)
        keep = np.flatnonzero(valid & np.isfinite(corners).all(-1))
        n = len(keep)
        boxes = np.concatenate([corners[keep, :2], corners[keep, 2:] - corners[keep, :2]], 1)
        grown = [enlarged_box(box, (width, height), _KEYPOINT_BOX) for box in boxes]
        pose = np.asarray(record["pose"])[keep]
        own = "root" if self.head.name == "anny" else self.head.body[0]
        rotvecs = {own: np.asarray(record["root_rotvec"])[keep]}
        # Hands of SMPL-X fits are whole rotations, those of the head are relative to the mean hand: left out.
        wanted = {*self.head.body, *self.head.face}
        if self.head.name == "anny":
            wanted |= {*self.head.left_hand, *self.head.right_hand}
        rotvecs |= {bone: pose[:, k] for k, bone in enumerate(self.bones) if bone in wanted}
        matching = len(wanted - set(self.bones)) <= 1  # of the head's body: the root is no row of the pose
        valid = np.full(n, float(matching), np.float32)
        shape = np.asarray(record["shape"])[keep, :, None]
        shape = _anny_shape(shape, n) if self.head.name == "anny" else _padded(shape, n, self.head.shape)
        joints = np.nan_to_num(np.asarray(record["keypoints_2d"], np.float64)[keep])
        vectors, masks = rotations_by_part(self.head, rotvecs, valid)
        unknown = np.zeros((n, self.head.expression), np.float32)
        return Example(
            name=name,
            photo=photo,
            size=(width, height),
            boxes=np.stack([np.zeros(4) if box is None else box for box in grown]) if n else np.zeros((0, 4)),
            part_boxes=np.zeros((n, 3, 4)),
            body_joints=joints,
            part_joints=np.zeros((n, 3, 6, 3)),
            body=_body(vectors, masks, shape, valid, unknown, np.zeros(n, np.float32)),
            points=np.zeros((n, 0, 4)),
            image_points=np.zeros((n, 0, 3)),
            transl=self._translations(record, keep, valid),
            intrinsics=np.asarray(record["intrinsics"], np.float64),
            has_3d=1.0,
        )

    def _translations(self, record: Any, keep: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Of the body model's origin; of SMPL-X fits, which store the pelvis, unknown."""
        if self.head.name != "anny":
            return np.zeros((len(keep), 3))
        return np.asarray(record["transl"], np.float64)[keep] * valid[:, None]


def _body(*fields: Any) -> BodyTargets:
    """`BodyTargets` of host arrays."""
    return BodyTargets(*fields)


@functools.cache
def anny_bones() -> tuple[str, ...]:
    """Bones of `pose` in fits of Anny."""
    return anny.load().labels.bones[1:]


def _padded(values: np.ndarray | None, n: int, width: int) -> np.ndarray:
    """(n, k, 1) coefficients cut or filled with zeros to `width`."""
    out = np.zeros((n, width), np.float32)
    if values is not None:
        flat = values.reshape(n, -1)[:, :width]
        out[:, : flat.shape[1]] = flat
    return out


def _anny_shape(values: np.ndarray | None, n: int) -> np.ndarray:
    """Phenotypes of fits, clipped to [0, 1]; those that fits leave at their default are 1/2."""
    out = np.full((n, len(anny.ALL_PHENOTYPE_LABELS)), 0.5, np.float32)
    if values is not None:
        flat = values.reshape(n, -1)
        out[:, : flat.shape[1]] = np.clip(flat, 0.0, 1.0)
    return out
