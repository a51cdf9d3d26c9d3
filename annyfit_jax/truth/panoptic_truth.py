"""CMU Panoptic Studio: 3D poses with calibration, in the layout of its toolbox or as BEV's evaluation prepares them.

| layout | what is read |
|---|---|
| toolbox: a sequence's folder, or a folder of such | `calibration_<sequence>.json`, `hdPose3d_stage1_coco19/body3DScene_<frame>.json` (19 joints x, y, z, confidence; cm, world axes) |
| BEV: `panoptic_annot/*.pkl` | lists of {`filename`, `width`, `height`, `kpts2d` (n, 24, 3), `kpts3d` (n, 24, 4)}: pixels of an image 832 wide, metres in camera axes |
| BEV: `annots.npz` | `annots`: {image: (`kp2d` (n, 14, 2), `kp3d` (n, 14, 3))}, prepared: joints shifted by (0, 6, 3) cm and -2 where unsure |

An image of the toolbox layout is called `<sequence>-<camera>_<frame>`, e.g. `160422_haggling1-00_16_00000000`, as BEV calls it; fits may
also be called `<camera>_<frame>` where there is one sequence. Camera axes: X = R x + t, centimetres to metres; pixels with the
lens distortion (k1, k2, p1, p2, k3). A joint has a label from a confidence of 0.2.
"""  # noqa: E501 (table rows)

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.coco_annotations import read_json
from annyfit_jax.inputs.validate import checked_array, checked_image_size
from annyfit_jax.metrics.panoptic_scores import BEV_SHIFT_M, MIN_CONFIDENCE, UNLABELLED
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.metrics.skeletons import LSP14, PANOPTIC19
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.dataframe_pickles import read_pickle
from annyfit_jax.records.npz import read_by_name
from annyfit_jax.truth.truth_source import TruthOptions, TruthSource

POSES = "hdPose3d_stage1_coco19"
DEFAULT_CAMERAS = ("00_16", "00_30")
_CM = 0.01
_BEV_JOINTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14)
"""Of the 24 joints of `panoptic_annot`: the 14 of `LSP14`."""
_BEV_SCALE = 1920.0 / 832.0
HD_SIZE = (1920, 1080)


class Camera(NamedTuple):
    """A calibrated camera."""

    name: str
    image_size: tuple[int, int]
    intrinsics: Float[np.ndarray, "3 3"]
    distortion: Float[np.ndarray, "5"]
    """k1, k2, p1, p2, k3 (Brown; as OpenCV orders them)."""
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    """Centimetres."""

    def in_camera(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """World points in centimetres to camera axes in metres."""
        return (points @ self.rotation.T + self.translation) * _CM

    def pixels(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 2"]:
        """Distorted pixels of camera-space points; NaN behind the camera."""
        depth = np.where(points[..., 2] > 0, points[..., 2], np.nan)
        x, y = points[..., 0] / depth, points[..., 1] / depth
        k1, k2, p1, p2, k3 = self.distortion
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        bent = np.stack(
            [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y],
            -1,
        )
        return bent @ self.intrinsics[:2, :2].T + self.intrinsics[:2, 2]


def open_source(path: Path, options: TruthOptions) -> TruthSource:
    """The images of any of the module's layouts."""
    if path.is_file():
        return _prepared(path) if path.suffix == ".npz" else _annotated([path])
    annotated = path if path.name == "panoptic_annot" else path / "panoptic_annot"
    if annotated.is_dir():
        return _annotated(sorted(annotated.glob("*.pkl")))
    sequences = [path] if (path / POSES).is_dir() else sorted(p.parent for p in path.glob(f"*/{POSES}"))
    if not sequences:
        raise SceneError(
            f"{path}: no CMU Panoptic poses; looked for <sequence>/{POSES}/body3DScene_*.json with "
            "calibration_<sequence>.json, and for panoptic_annot/*.pkl or annots.npz of BEV's evaluation"
        )
    return _toolbox(path, sequences, options)


# ------------------------------------------------------------------------------------------------ toolbox layout


def _toolbox(path: Path, sequences: list[Path], options: TruthOptions) -> TruthSource:
    images: list[tuple[str, Camera, Path]] = []
    for folder in sequences:
        cameras = _cameras(folder, options)
        frames = sorted((folder / POSES).glob("body3DScene_*.json"))[:: options.frame_step]
        images += [(folder.name, camera, frame) for camera in cameras for frame in frames]

    def name(sequence: str, camera: Camera, frame: Path) -> str:
        return f"{sequence}-{camera.name}_{frame.stem.removeprefix('body3DScene_')}"

    def load(index: int) -> TruthPeople:
        sequence, camera, frame = images[index]
        full = name(sequence, camera, frame)
        return read_frame(frame, camera, full, sequence, (full.split("-", 1)[1],) if len(sequences) == 1 else ())

    return TruthSource(tuple(name(*image) for image in images), load, str(path))


def _cameras(folder: Path, options: TruthOptions) -> list[Camera]:
    calibration = folder / f"calibration_{folder.name}.json"
    known = read_calibration(calibration)
    with_pictures = [name for name in known if (folder / "hdImgs" / name).is_dir()]
    wanted = options.cameras or tuple(with_pictures) or DEFAULT_CAMERAS
    absent = [name for name in wanted if name not in known]
    if absent:
        raise SceneError(f"{calibration}: cameras: no HD camera {absent[0]}; there are {', '.join(sorted(known)[:40])}")
    return [known[name] for name in wanted]


def read_calibration(path: Path) -> dict[str, Camera]:
    """The HD cameras (panel 0) of a calibration file by name. Raises SceneError naming camera and field."""
    content = read_json(str(path))
    cameras = content.get("cameras") if isinstance(content, dict) else None
    if not isinstance(cameras, list) or not all(isinstance(camera, dict) for camera in cameras):
        raise SceneError(f"{path}: cameras: expected a list of objects")
    out = {}
    for i, camera in enumerate(cameras):
        name = camera.get("name")
        if not isinstance(name, str):
            raise SceneError(f"{path}: cameras[{i}].name: expected a text such as 00_16, got {name!r:.40}")
        if camera.get("type", "hd") == "hd" and re.fullmatch(r"00_\d+", name):
            out[name] = _camera(camera, name, f"{path}: camera {name}")
    return out


def _camera(camera: Mapping[str, Any], name: str, where: str) -> Camera:
    def numbers(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key not in camera:
            raise SceneError(f"{where}: {key}: missing, expected shape {shape}")
        array = checked_array(
            np.ravel(_array(camera[key], f"{where}: {key}")), f"{where}: {key}", (int(np.prod(shape)),)
        )
        if not np.isfinite(array).all():
            raise SceneError(f"{where}: {key}: expected finite numbers, shape {shape}")
        return array.reshape(shape)

    rotation, intrinsics = numbers("R", (3, 3)), numbers("K", (3, 3))
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        raise SceneError(f"{where}: R: expected a rotation matrix, shape (3, 3), got {rotation.tolist()}")
    if not (intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
        raise SceneError(f"{where}: K: expected positive focal lengths, shape (3, 3), got {intrinsics.tolist()}")
    size = checked_image_size(camera.get("resolution", HD_SIZE), f"{where}: resolution")
    return Camera(name, size, intrinsics, numbers("distCoef", (5,)), rotation, numbers("t", (3,)))


def _array(value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise SceneError(f"{where}: expected numbers, got rows of different lengths") from error


def read_frame(path: Path, camera: Camera, name: str, group: str, aliases: tuple[str, ...] = ()) -> TruthPeople:
    """The people of one frame as one camera sees them."""
    content = read_json(str(path))
    bodies = content.get("bodies") if isinstance(content, dict) else None
    if not isinstance(bodies, list) or not all(isinstance(body, dict) for body in bodies):
        raise SceneError(f"{path}: bodies: expected a list of objects")
    joints = np.zeros((len(bodies), len(PANOPTIC19), 4))
    for i, body in enumerate(bodies):
        where = f"{path}: bodies[{i}].joints19"
        flat = checked_array(body.get("joints19", []), where, (4 * len(PANOPTIC19),))
        if not np.isfinite(flat).all():
            raise SceneError(f"{where}: expected finite numbers, shape ({4 * len(PANOPTIC19)},)")
        joints[i] = flat.reshape(-1, 4)
    points = camera.in_camera(joints[..., :3])
    pixels = camera.pixels(points)
    seen = joints[..., 3] >= MIN_CONFIDENCE
    labelled = seen & np.isfinite(pixels).all(-1)
    return TruthPeople(
        name=name,
        names=PANOPTIC19,
        joints_2d=np.where(labelled[..., None], pixels, UNLABELLED),
        labelled=labelled,
        joints_3d=points,
        labelled_3d=seen,
        intrinsics=camera.intrinsics,
        image_size=camera.image_size,
        group=group,
        aliases=aliases,
    )


# ------------------------------------------------------------------------------------------------ BEV's layouts


def _annotated(files: list[Path]) -> TruthSource:
    images: list[tuple[Path, dict]] = []
    for file in files:
        content = read_pickle(file)
        if not isinstance(content, list) or not all(isinstance(image, dict) for image in content):
            raise SceneError(f"{file}: expected a list of image dictionaries, got {type(content).__name__}")
        images += [(file, image) for image in content]
    names = [_bev_name(file, image) for file, image in images]
    return TruthSource(
        tuple(names), lambda i: _bev_image(*images[i], names[i]), str(files[0].parent) if files else "panoptic_annot"
    )


def _bev_name(file: Path, image: dict) -> str:
    parts = str(image.get("filename", "")).split("/")
    if len(parts) < 2:
        raise SceneError(
            f"{file}: filename: expected <folder>/<sequence>/.../<image>, got {image.get('filename')!r:.80}"
        )
    return f"{parts[1]}-{PurePosixPath(parts[-1]).stem}"


def _bev_image(file: Path, image: dict, name: str) -> TruthPeople:
    where = f"{file}: {name}"
    width, height = (float(checked_array(image.get(key), f"{where}: {key}", ())) for key in ("width", "height"))
    flat = checked_array(image.get("kpts2d", []), f"{where}: kpts2d", ("n", 24, 3))
    points = checked_array(image.get("kpts3d", []), f"{where}: kpts3d", (len(flat), 24, 4))[:, list(_BEV_JOINTS)]
    pixels = flat[:, list(_BEV_JOINTS), :2] * _BEV_SCALE
    return TruthPeople(
        name=name,
        names=LSP14,
        joints_2d=pixels,
        labelled=pixels[..., 0] > UNLABELLED,
        joints_3d=points[..., :3],
        labelled_3d=points[..., 3] >= MIN_CONFIDENCE,
        image_size=(round(width * _BEV_SCALE), round(height * _BEV_SCALE)),
        group=name,
    )


def _prepared(file: Path) -> TruthSource:
    annots = read_by_name(str(file), "annots", "(kp2d, kp3d)")
    images = list(annots)

    def load(index: int) -> TruthPeople:
        image, where = images[index], f"{file}: {images[index]}"
        entry = annots[image]
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise SceneError(f"{where}: expected the two arrays kp2d (n, 14, 2) and kp3d (n, 14, 3)")
        pixels = checked_array(entry[0], f"{where}: kp2d", ("n", 14, 2))
        points = checked_array(entry[1], f"{where}: kp3d", (len(pixels), 14, 3))
        raw = points.copy()
        raw[:, :-1] -= BEV_SHIFT_M
        return TruthPeople(
            name=Path(image).stem,
            names=LSP14,
            joints_2d=pixels,
            labelled=pixels[..., 0] > UNLABELLED,
            joints_3d=raw,
            labelled_3d=points[..., 0] > UNLABELLED,
            image_size=HD_SIZE,
            group=image,
        )

    return TruthSource(tuple(Path(image).stem for image in images), load, str(file))
