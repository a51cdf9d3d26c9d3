"""Calibration files: intrinsics and distortion of one or more cameras, as other programs write them.

| file | cameras |
|---|---|
| OpenCV `.yaml`, `.json` | one: `camera_matrix`, `distortion_coefficients`, `image_width`, `image_height`; `fisheye_model: 1` |
| ROS `camera_info` `.yaml` | one: `distortion_model` of `plumb_bob`, `rational_polynomial`, `equidistant` |
| Pose2Sim `.toml` | one per table: `matrix`, `distortions` (k1 k2 p1 p2), `size`, `fisheye` |
| Qualisys `.qca.txt` | one per `camera`: intrinsics in 64ths of a pixel, `radialDistortion`, `tangentalDistortion` |

`.json` and `.yaml` may also hold one object of the first kind per camera. Other spellings of an entry are `K`, `matrix`,
`cameraMatrix`; `dist`, `distortions`, `distCoeffs`, `D`; `size`, `image_size`. Which kind a file is, its content says.

A picture belongs to the camera whose name its path holds, numbers read as numbers: `cam01_json/cam01.0016.json` to `cam_01`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from jaxtyping import Float

from annyfit_jax.inputs.validate import checked_image_size
from annyfit_jax.people.lens import Lens, checked_lens
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.files import open_regular

_MAX_BYTES = 4_000_000
_QUALISYS_UNITS = 64.0
"""Qualisys counts its intrinsics in 64ths of a pixel."""
_K = ("camera_matrix", "K", "matrix", "cameraMatrix", "intrinsics", "intrinsic_matrix")
_DISTORTION = ("distortion_coefficients", "dist", "distortions", "distCoeffs", "dist_coeffs", "D", "distortion")
_SIZE = ("size", "image_size", "resolution")
_SIZES_ALIKE = 0.01
"""Share by which the sides of a picture may differ from the calibrated ones, as encoders cut a few pixels."""
_MODELS = {
    "plumb_bob": "brown",
    "rational_polynomial": "brown",
    "brown": "brown",
    "equidistant": "fisheye",
    "fisheye": "fisheye",
}


@dataclass(frozen=True)
class CalibratedCamera:
    """A camera as it was calibrated."""

    name: str
    intrinsics: Float[np.ndarray, "3 3"]
    """K in pixels of a picture of `size`."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels; None where the file does not say, which is taken for the pictures' own."""
    lens: Lens | None = None

    def intrinsics_for(self, size: tuple[int, int], where: str) -> Float[np.ndarray, "3 3"]:
        """K for pictures of another size of the same view. Raises SceneError where the proportions differ."""
        if self.size is None:
            return self.intrinsics
        ratios = [side / own for side, own in zip(size, self.size, strict=True)]
        if all(abs(ratio - 1.0) <= _SIZES_ALIKE for ratio in ratios):
            return self.intrinsics
        if abs(ratios[0] / ratios[1] - 1.0) > _SIZES_ALIKE:
            raise SceneError(
                f"{where}: {size[0]} x {size[1]} pixels, but camera {self.name} was calibrated with "
                f"{self.size[0]} x {self.size[1]}: a crop or a turned picture needs a K of its own"
            )
        return np.diag([ratios[0], ratios[1], 1.0]) @ self.intrinsics


@dataclass(frozen=True)
class Calibration:
    """The cameras of a file, at least one."""

    path: str
    cameras: tuple[CalibratedCamera, ...]

    def camera_of(self, picture: str, named: str = "") -> CalibratedCamera:
        """The camera of a picture: the only one, the one that is `named`, or the one whose name the picture's path holds.

        Raises SceneError where that is none, or more than one.
        """
        if named:
            chosen = [camera for camera in self.cameras if _words(camera.name) == _words(named)]
        elif len(self.cameras) == 1:
            chosen = list(self.cameras)
        else:
            holding = [camera for camera in self.cameras if _holds(_words(picture), _words(camera.name))]
            longest = max((len(_words(camera.name)) for camera in holding), default=0)
            chosen = [camera for camera in holding if len(_words(camera.name)) == longest]
        if len(chosen) != 1:
            names = ", ".join(camera.name for camera in (chosen or self.cameras)[:6])
            problem = "more than one camera belongs" if chosen else "no camera belongs"
            raise SceneError(f"{self.path}: {problem} to {named or picture!r:.100} by name; candidates: {names}")
        return chosen[0]


def _words(name: str) -> list[str]:
    """Letters and numbers of a name, numbers without leading zeros: `cam_01` is [cam, 1]."""
    return [word.lstrip("0") or "0" if word.isdigit() else word for word in re.findall(r"[a-z]+|\d+", name.lower())]


def _holds(words: list[str], wanted: list[str]) -> bool:
    return bool(wanted) and any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))


def read_calibration(path: str) -> Calibration:
    """The cameras of a calibration file (kinds in the module's table). Raises SceneError naming file, camera and entry."""
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > _MAX_BYTES:
        raise SceneError(f"{path}: larger than {_MAX_BYTES} bytes: not a calibration file")
    text = content.decode("utf-8", errors="replace").lstrip("\ufeff")
    cameras = _qualisys(text, path) if text.lstrip().startswith("<") else _of_tables(_parsed(text, path), path)
    if not cameras:
        raise SceneError(
            f"{path}: no camera in it; read are OpenCV YAML or JSON, ROS camera_info, Pose2Sim TOML, Qualisys .qca.txt"
        )
    return Calibration(path, tuple(cameras))


class _Loader(yaml.SafeLoader):
    """Plain YAML and OpenCV's tag for matrices."""


def _matrix(loader: yaml.SafeLoader, node: Any) -> dict:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)


def _parsed(text: str, path: str) -> Any:
    """The tables of a TOML, JSON or YAML file."""
    if path.lower().endswith(".toml"):
        try:
            return tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise SceneError(f"{path}: not a TOML file ({error})") from error
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text)
        if text.count("*") > 100:  # references may unfold to any size
            raise SceneError(f"{path}: not a calibration file")
        return yaml.load(re.sub(r"^%YAML.*$", "", text, count=1, flags=re.MULTILINE), _Loader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise SceneError(f"{path}: not a calibration file ({type(error).__name__})") from error


def _of_tables(content: Any, path: str) -> list[CalibratedCamera]:
    if not isinstance(content, Mapping):
        return []
    if _entry(content, _K) is not None:
        return [_camera(str(content.get("camera_name") or content.get("name") or "camera"), content, path)]
    tables = content.get("cameras", content)
    if isinstance(tables, list):
        tables = {str(table.get("name", i)): table for i, table in enumerate(tables) if isinstance(table, Mapping)}
    if not isinstance(tables, Mapping):
        return []
    return [
        _camera(str(table.get("name") or name), table, path)
        for name, table in tables.items()
        if isinstance(table, Mapping) and _entry(table, _K) is not None
    ]


def _entry(table: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((table[name] for name in names if table.get(name) is not None), None)


def _camera(name: str, table: Mapping[str, Any], path: str) -> CalibratedCamera:
    where = f"{path}: camera {name:.60}"
    values = _numbers(_entry(table, _K), f"{where}: matrix")
    if values.size != 9:
        raise SceneError(f"{where}: matrix: expected 9 numbers (3 x 3), got {values.size}")
    told = _entry(table, _DISTORTION)
    coefficients = [] if told is None else _numbers(told, f"{where}: distortion").ravel().tolist()
    model = str(table.get("distortion_model") or table.get("camera_model") or "").lower()
    if not model:
        model = "fisheye" if table.get("fisheye") or table.get("fisheye_model") else "brown"
    if model not in _MODELS and model != "pinhole":
        raise SceneError(f"{where}: unknown model of distortion {model!r:.40}; there are {', '.join(_MODELS)}")
    lens = checked_lens(_MODELS.get(model, "brown"), coefficients, f"{where}: distortion") if coefficients else None
    size = _entry(table, _SIZE)
    if size is None and table.get("image_width") is not None:
        size = [table.get("image_width"), table.get("image_height")]
    return CalibratedCamera(
        name, _upper(values.reshape(3, 3)), None if size is None else checked_image_size(size, f"{where}: size"), lens
    )


def _upper(k: np.ndarray) -> np.ndarray:
    """K with an exact last row: files hold it with rounding, or scaled as a whole."""
    if not np.isfinite(k).all() or k[2, 2] == 0:
        return k  # the check of the scene says what is wrong
    k = k / k[2, 2]
    k[2] = np.where(np.abs(k[2] - (0.0, 0.0, 1.0)) < 1e-9, (0.0, 0.0, 1.0), k[2])
    return k


def _numbers(value: Any, where: str) -> np.ndarray:
    """Numbers of a list, of nested lists, or of the `data` of OpenCV's and ROS's matrices."""
    data = value.get("data") if isinstance(value, Mapping) else value
    try:
        return np.array(data, np.float64).ravel()
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(f"{where}: expected numbers, got {value!r:.80}") from error


def _qualisys(text: str, path: str) -> list[CalibratedCamera]:
    if "<!" in text.replace("<!--", ""):
        raise SceneError(f"{path}: document types and entities are not read")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise SceneError(f"{path}: not an XML file ({error})") from error
    cameras = []
    for i, element in enumerate(root.iter("camera")):
        name = element.get("serial") or f"camera_{i + 1}"
        where = f"{path}: camera {name:.60}"
        intrinsic = element.find("intrinsic")
        if intrinsic is None:  # marker cameras without a picture
            continue
        view = element.find("fov_video")
        edges = (
            None
            if view is None
            else {side: _attribute(view, side, where) for side in ("left", "top", "right", "bottom")}
        )
        left, top = (edges["left"], edges["top"]) if edges else (0.0, 0.0)
        fx, fy, cx, cy, skew = (
            _attribute(intrinsic, key, where) / _QUALISYS_UNITS
            for key in ("focalLengthU", "focalLengthV", "centerPointU", "centerPointV", "skew")
        )
        coefficients = [
            _attribute(intrinsic, key, where)
            for key in (
                "radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2", "radialDistortion3",
            )
        ]  # fmt: skip
        size = [edges["right"] - left + 1, edges["bottom"] - top + 1] if edges else None
        cameras.append(
            CalibratedCamera(
                name,
                np.array([[fx, skew, cx - left], [0.0, fy, cy - top], [0.0, 0.0, 1.0]]),
                None if size is None else checked_image_size(size, f"{where}: fov_video"),
                checked_lens("brown", coefficients, f"{where}: intrinsic"),
            )
        )
    return cameras


def _attribute(element: ElementTree.Element, key: str, where: str) -> float:
    try:
        return float(element.get(key, "0"))
    except ValueError as error:
        raise SceneError(f"{where}: {element.tag}.{key}: expected a number, got {element.get(key)!r:.40}") from error
