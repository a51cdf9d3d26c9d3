"""Checks at the border: after these a scene can enter the optimiser without a further look at its shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from annyfit_jax.people.scene import NUM_DENSE, UNKNOWN_WORD, BodyParameters, Scene, SceneError

NUM_JOINTS = 17
NUM_POSED_BONES = 162
NUM_PHENOTYPES = 6
MAX_IMAGE_SIDE = 1 << 16
MAX_WHOLE = 1 << 62
MAX_FOCAL = 1000.0
"""Focal lengths, as multiples of the longer side of the picture: a field of view of less than a tenth of a degree."""


def checked_array(value: object, where: str, shape: Sequence[int | str], dtype: type = np.float64) -> np.ndarray:
    """`value` as an array of the wanted shape and type; letters in `shape` (such as "n") stand for any size.

    Raises SceneError naming `where` (file and field) and the expected shape.
    """
    expected = "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise SceneError(f"{where}: expected an array of shape {expected}, got rows of different lengths") from error
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == size for want, size in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise SceneError(f"{where}: expected shape {expected}, got {array.shape}")
    if array.dtype.kind not in "biuf":
        raise SceneError(f"{where}: expected numbers of shape {expected}, got type {array.dtype}")
    if np.issubdtype(dtype, np.integer):
        _check_whole(array, where, expected)
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def _check_whole(array: np.ndarray, where: str, expected: str) -> None:
    """Raises SceneError unless every number is whole and has 63 bits at most, so that nothing is cut by a cast."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise SceneError(f"{where}: expected whole numbers of shape {expected}, got a value that is not finite")
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise SceneError(
            f"{where}: expected whole numbers of shape {expected}, got {array[array != np.floor(array)][0]}"
        )
    if array.size and array.dtype.kind in "fu" and np.abs(array).max() > MAX_WHOLE:
        raise SceneError(
            f"{where}: expected whole numbers up to {MAX_WHOLE}, shape {expected}, got {np.abs(array).max()}"
        )


def checked_image_size(value: object, where: str) -> tuple[int, int]:
    """(width, height) in pixels as positive integers up to MAX_IMAGE_SIDE; SceneError otherwise."""
    width, height = (int(side) for side in checked_array(value, where, (2,), np.int64))
    if not (0 < width <= MAX_IMAGE_SIDE and 0 < height <= MAX_IMAGE_SIDE):
        raise SceneError(f"{where}: expected a width and height of 1 to {MAX_IMAGE_SIDE}, got {width} x {height}")
    return width, height


def validate_scene(scene: Scene, source_name: str) -> None:
    """Raises SceneError unless every array of the scene has the documented shape and usable values.

    Usable: finite keypoint coordinates wherever the confidence is above 0 (and no NaN confidence), positive focal
    lengths and a K that can be inverted, finite start and truth, depths that are positive or NaN, anchors in [0, 1] or
    -1, unique person ids. Confidences are not clipped: the objective treats negative ones as 0.
    """
    where = f"{source_name}: scene {scene.name}"
    n = len(scene.keypoints)
    if n == 0:
        raise SceneError(f"{where}: no people" + "".join(f"; {name}: {reason}" for name, reason in scene.skipped[:3]))
    checked_image_size(scene.image_size, f"{where}: image_size")
    _check_intrinsics(scene.intrinsics, scene.image_size, f"{where}: intrinsics")
    _check_keypoints(scene.keypoints, f"{where}: keypoints", (n, NUM_JOINTS, 3))
    _check_keypoints(scene.dense_keypoints, f"{where}: dense_keypoints", (n, NUM_DENSE, 3))
    depth = checked_array(scene.median_depth, f"{where}: median_depth", (n,))
    if not (np.isnan(depth) | (np.isfinite(depth) & (depth > 0))).all():
        raise SceneError(f"{where}: median_depth: expected positive metres or NaN, shape ({n},), got {depth}")
    checked_array(scene.depth_layer, f"{where}: depth_layer", (n,), np.int64)
    for field in ("age", "gender"):
        anchor = checked_array(getattr(scene, field), f"{where}: {field}", (n,))
        if not ((anchor == UNKNOWN_WORD) | ((anchor >= 0) & (anchor <= 1))).all():
            raise SceneError(f"{where}: {field}: expected anchors in [0, 1] or -1, shape ({n},), got {anchor}")
    if scene.start is not None:
        _check_bodies(scene.start, f"{where}: start", n)
    if scene.truth is not None:
        _check_bodies(scene.truth, f"{where}: truth", n)
    _check_optional(scene, where, n)


def _check_intrinsics(intrinsics: np.ndarray, image_size: tuple[int, int], where: str) -> None:
    k = checked_array(intrinsics, where, (3, 3))
    if not np.isfinite(k).all():
        raise SceneError(f"{where}: expected a finite (3, 3) matrix, got {k.tolist()}")
    if not (k[0, 0] > 0 and k[1, 1] > 0):
        raise SceneError(f"{where}: expected positive focal lengths K[0, 0] and K[1, 1], got {k[0, 0]} and {k[1, 1]}")
    side = max(image_size)
    if not all(side / MAX_FOCAL <= focal <= side * MAX_FOCAL for focal in (k[0, 0], k[1, 1])):
        raise SceneError(
            f"{where}: expected focal lengths of {side / MAX_FOCAL:g} to {side * MAX_FOCAL:g} pixels for a picture of {side}, "
            f"got {k[0, 0]:g} and {k[1, 1]:g}"
        )
    if np.abs(k[:2]).max() > side * MAX_FOCAL:
        raise SceneError(f"{where}: expected entries of up to {side * MAX_FOCAL:g} pixels, got {k.tolist()}")
    # The projection divides by z and uses the first two rows only.
    if not np.array_equal(k[2], [0.0, 0.0, 1.0]):
        raise SceneError(f"{where}: expected the last row 0 0 1 of a (3, 3) pinhole matrix, got {k[2].tolist()}")
    if k[0, 0] * k[1, 1] == k[0, 1] * k[1, 0]:
        raise SceneError(f"{where}: expected an invertible (3, 3) matrix, got {k.tolist()}")


def _check_keypoints(keypoints: np.ndarray, where: str, shape: tuple[int, ...]) -> None:
    points = checked_array(keypoints, where, shape)
    confidence = points[..., 2]
    if not np.isfinite(confidence).all():
        raise SceneError(f"{where}: expected finite confidences, shape {shape}, got NaN or infinity")
    bad = (confidence > 0) & ~np.isfinite(points[..., :2]).all(axis=-1)
    if bad.any():
        person, point = (int(i) for i in np.argwhere(bad)[0])
        raise SceneError(
            f"{where}: expected finite x, y where the confidence is above 0, shape {shape}, got "
            f"{points[person, point, :2].tolist()} for person {person}, point {point}"
        )


def _check_bodies(bodies: BodyParameters, where: str, n: int) -> None:
    shapes = {"root_rotvec": (n, 3), "transl": (n, 3), "pose": (n, NUM_POSED_BONES, 3), "shape": (n, NUM_PHENOTYPES)}
    for field, shape in shapes.items():
        if not np.isfinite(checked_array(getattr(bodies, field), f"{where}.{field}", shape)).all():
            raise SceneError(f"{where}.{field}: expected finite numbers, shape {shape}, got NaN or infinity")


def _check_optional(scene: Scene, where: str, n: int) -> None:
    width, height = scene.image_size
    if len(scene.person_ids) != n or len(set(scene.person_ids)) != n:
        raise SceneError(f"{where}: person_ids: expected {n} different names, got {scene.person_ids}")
    if scene.boxes is not None:
        checked_array(scene.boxes, f"{where}: boxes", (n, 4))
    if scene.masks is not None:
        checked_array(scene.masks, f"{where}: masks", (n, height, width), np.bool_)
    if scene.depth_map is not None:
        checked_array(scene.depth_map, f"{where}: depth_map", (height, width))
