"""What a record of a cue dataset holds, and the way from a scene to it and back.

Everything a `Scene` has comes back exactly (numbers are stored as float64), except the depth map: it is stored as float16
at half resolution (every second pixel; NaN = unknown) and comes back at full resolution, each value four times. Median
depths are computed before that and are exact.

The fields are declared in `FIELDS`; `docs/formats.md` has a table. Version 1 had neither `depth_layer` nor `provenance`.

A per-person cue that the whole scene lacks has 0 rows. `mask_runs` has 0 rows where there are no masks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from annyfit_jax.inputs.validate import NUM_JOINTS, NUM_PHENOTYPES, NUM_POSED_BONES, checked_image_size
from annyfit_jax.people.scene import (
    LANDMARKS_M,
    LANDMARKS_PX,
    NUM_DENSE,
    UNKNOWN_WORD,
    BodyParameters,
    Scene,
    SceneError,
)
from annyfit_jax.people.words import AGE_CLASSES, GENDER_CLASSES
from annyfit_jax.records import codecs, wire
from annyfit_jax.records.wire import Field, Record

NUM_WHOLE_BODY = 133
MAX_PEOPLE = 255
_HASH_VERSION = b"cues-1"
_BODY = {"root_rotvec": (3,), "transl": (3,), "pose": (NUM_POSED_BONES, 3), "shape": (NUM_PHENOTYPES,)}


def _people(*shape: int, meaning: str, unit: str = "", dtype: str = "float64", since: int = 1) -> Field:
    return Field("array", (None, *shape), dtype, since, per_person=True, unit=unit, meaning=meaning)


def _bodies(prefix: str, meaning: str) -> dict[str, Field]:
    units = {
        "root_rotvec": "radians, camera axes",
        "transl": "metres, camera axes",
        "pose": "radians",
        "shape": "0 to 1",
    }
    return {
        prefix + name: _people(*shape, unit=units[name], meaning=f"`BodyParameters.{name}` {meaning}")
        for name, shape in _BODY.items()
    }


EXTRAS: dict[str, Field] = {
    "keypoints_133": _people(NUM_WHOLE_BODY, 3, unit="pixels, confidence", meaning="COCO whole-body keypoints"),
    "gt_coco3d": _people(NUM_JOINTS, 3, unit="metres, camera axes", meaning="true keypoints"),
    "gt_coco2d": _people(NUM_JOINTS, 2, unit="pixels", meaning="true keypoints, without noise"),
    "gt_visible": _people(NUM_JOINTS, dtype="bool", meaning="whether a keypoint is visible"),
    "gt_head_px": _people(unit="pixels", meaning="true size of the head"),
    "gt_body_height": _people(unit="metres", meaning="true height of the resting body"),
    "gt_age_cat": _people(dtype="int64", meaning="true class of age"),
    "gt_gender_cat": _people(dtype="int64", meaning="true class of gender"),
    "hand_age": _people(dtype="int64", meaning="class of age, labelled by hand"),
    "hand_gender": _people(dtype="int64", meaning="class of gender, labelled by hand"),
    "hand_depth_layer": _people(dtype="int64", meaning="depth layer, labelled by hand"),
}
"""Entries of `Scene.extra` with a field of their own; others go to `extra_arrays`."""

FIELDS: dict[str, Field] = {
    "schema_version": Field("int", meaning="version of this table"),
    "content_hash": Field("text", meaning="`content_hash` of the scene"),
    "name": Field("text", meaning="name of the scene"),
    "image_path": Field("text", meaning="the photo, empty = none"),
    "image_size": Field("array", (2,), "int64", unit="pixels", meaning="width, height"),
    "intrinsics": Field("array", (3, 3), unit="pixels", meaning="pinhole matrix K"),
    "person_ids": Field("texts", meaning="the input's names of the people"),
    "keypoints": _people(NUM_JOINTS, 3, unit="pixels, confidence", meaning="COCO keypoints"),
    "dense_keypoints": _people(NUM_DENSE, 3, unit="pixels, confidence", meaning="dense surface points"),
    "boxes": _people(4, unit="pixels", meaning="x0, y0, x1, y1"),
    "median_depth": _people(unit="metres", meaning="median depth inside the mask, NaN = unknown"),
    "depth_layer": _people(dtype="int64", since=2, meaning="ordinal, smaller is nearer, -1 = unknown"),
    "keypoint_convention": Field("text", since=3, meaning="who places the keypoints, as in `Scene`"),
    "heights": _people(
        2, unit="metres", since=3, meaning="measured body height and its standard deviation, NaN = unknown"
    ),
    "distances": _people(
        2, unit="metres", since=3, meaning="measured distance and its standard deviation, NaN = unknown"
    ),
    "camera": Field(
        "text", since=3, meaning="JSON: what is known of the camera, value and standard deviation, as in `Scene`"
    ),
    "lens": Field(
        "text", since=4, meaning="distortion of the photo's lens, which the points are without, as in `Scene`"
    ),
    "age": _people(unit="0 to 1", meaning="anchor of the word for the age, -1 = none"),
    "gender": _people(unit="0 to 1", meaning="anchor of the word for the gender, -1 = none"),
    "age_words": Field("texts", meaning="the word behind the anchor, empty = none"),
    "gender_words": Field("texts", meaning="the word behind the anchor, empty = none"),
    **_bodies("start_", "of the start"),
    **_bodies("truth_", "of the truth"),
    **EXTRAS,
    "mask_size": Field("array", (2,), "int64", unit="pixels", meaning="height, width of the masks"),
    "mask_runs": Field("array", (None,), "int32", meaning="number of runs of each person's mask"),
    "mask_counts": Field("array", (None,), "int32", meaning="all runs, in COCO's order"),
    "depth": Field("packed", (None, None), "float16", unit="metres", meaning="depth map at half resolution"),
    "image_jpeg": Field("blob", meaning="the photo, empty = not packed"),
    "skipped_ids": Field("texts", meaning="people that the reader set aside"),
    "skipped_reasons": Field("texts", meaning="why"),
    "notes": Field("texts", meaning="what the reader assumed"),
    "provenance": Field("text", since=2, meaning="JSON: cue -> expert, version, licence; where the record comes from"),
    "extra_names": Field("texts", meaning="names of other arrays of `Scene.extra`"),
    "extra_arrays": Field("blobs", meaning="the arrays as `.npy`"),
}


SCHEMA_VERSION = max(field.since for field in FIELDS.values())
"""Version of what is written. All versions from 1 are read."""


def fields_of(version: int = SCHEMA_VERSION) -> dict[str, Field]:
    """The fields of a schema version."""
    return {name: field for name, field in FIELDS.items() if field.since <= version}


def features(version: int = SCHEMA_VERSION):
    """TFDS features of a schema version."""
    return wire.features(fields_of(version))


def content_hash(scene: Scene) -> str:
    """SHA-256 (hex) of what a fit reads: image size, intrinsics, person ids, keypoints, dense points, depths, words, start,
    measured facts, landmarks.

    Not in it: the name, boxes, photo, masks and depth map (they act through the median depths), truth, notes. Equal before
    and after packing, and for float32 and float64 arrays of equal values.
    """
    digest = hashlib.sha256(_HASH_VERSION)
    start = [None] * len(_BODY) if scene.start is None else [getattr(scene.start, name) for name in _BODY]
    arrays = (
        scene.image_size, scene.intrinsics, scene.keypoints, scene.dense_keypoints, scene.median_depth, scene.depth_layer,
        scene.age, scene.gender, *start,
    )  # fmt: skip
    for value in arrays:
        if value is None:
            digest.update(b"none")
            continue
        array = np.array(value, np.float64, order="C") + 0.0  # -0 becomes 0
        array[np.isnan(array)] = np.nan  # one bit pattern for unknown
        digest.update(repr(array.shape).encode() + array.tobytes())
    digest.update(json.dumps(list(scene.person_ids)).encode())
    # Only where there are any, so that scenes without them keep the hash of older versions.
    for name, known in _facts(scene).items():
        digest.update(f"{name}: {known!r}".encode())
    return digest.hexdigest()


def _facts(scene: Scene) -> dict[str, Any]:
    """What is known besides the cues of all scenes, as plain values."""
    facts: dict[str, Any] = {}
    for name in ("heights", "distances"):
        value = getattr(scene, name)
        if value is not None and len(value):
            facts[name] = np.asarray(value, np.float64).tolist()
    if scene.camera:
        facts["camera"] = sorted((name, [float(number) for number in pair]) for name, pair in scene.camera.items())
    if scene.keypoint_convention != Scene.keypoint_convention:
        facts["keypoint_convention"] = scene.keypoint_convention
    for name in (LANDMARKS_PX, LANDMARKS_M):
        if name in scene.extra:
            facts[name] = np.asarray(scene.extra[name], np.float64).tolist()
    for name, first in (("keypoints_133", NUM_JOINTS), ("other_points", 0)):
        points = np.asarray(scene.extra.get(name, ()), np.float64)
        if points.ndim == 3 and (points[:, first:, 2:] > 0).any():
            facts[name] = points[:, first:].tolist()
    if "other_points" in facts:
        facts["other_point_names"] = [str(point) for point in scene.extra.get("other_point_names", ())]
    return facts


# ------------------------------------------------------------------------------------------------ scene -> record


def encode(scene: Scene, image_jpeg: bytes = b"", provenance: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The scene as a dictionary that `features()` describes (an example for TFDS) and `serialize` writes.

    `provenance` is added to `scene.extra["provenance"]`. Raises SceneError where a per-person array has another number of
    rows than the keypoints, or there are more than MAX_PEOPLE people.
    """
    n = len(scene)
    check_count(n, f"scene {scene.name}")
    extra = dict(scene.extra)
    origin = {**(extra.pop("provenance", None) or {}), **(provenance or {})}
    words = {
        f"{name}_words": extra.pop(f"{name}_words", None) or words_of(getattr(scene, name), classes)
        for name, classes in (("age", AGE_CLASSES), ("gender", GENDER_CLASSES))
    }
    notes = list(scene.notes)
    own = {
        name: np.asarray(extra.pop(name)) if _fits(extra.get(name), FIELDS[name], n) else _empty(FIELDS[name])
        for name in EXTRAS
    }
    others = {name: np.asarray(value) for name, value in extra.items() if np.asarray(value).dtype.kind in "biufU"}
    notes += [f"extra.{name}: not stored, not an array of numbers or texts" for name in extra if name not in others]
    example: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "content_hash": content_hash(scene),
        "name": scene.name,
        "image_path": scene.image_path or "",
        "image_size": np.array(scene.image_size, np.int64),
        "intrinsics": np.asarray(scene.intrinsics, np.float64),
        "person_ids": list(scene.person_ids),
        "keypoints": scene.keypoints,
        "dense_keypoints": scene.dense_keypoints
        if np.any(scene.dense_keypoints)
        else _empty(FIELDS["dense_keypoints"]),
        "boxes": _empty(FIELDS["boxes"]) if scene.boxes is None else scene.boxes,
        "median_depth": scene.median_depth,
        "depth_layer": scene.depth_layer,
        "keypoint_convention": scene.keypoint_convention,
        "heights": _empty(FIELDS["heights"]) if scene.heights is None else scene.heights,
        "distances": _empty(FIELDS["distances"]) if scene.distances is None else scene.distances,
        "camera": json.dumps(scene.camera, sort_keys=True) if scene.camera else "",
        "lens": scene.lens,
        "age": scene.age,
        "gender": scene.gender,
        **words,
        **_encode_bodies("start_", scene.start),
        **_encode_bodies("truth_", scene.truth),
        **own,
        **codecs.fold_masks(scene.masks),
        "depth": codecs.half_depth(scene.depth_map),
        "image_jpeg": image_jpeg,
        "skipped_ids": [str(person) for person, _ in scene.skipped],
        "skipped_reasons": [str(reason) for _, reason in scene.skipped],
        "notes": notes,
        "provenance": json.dumps(origin, sort_keys=True) if origin else "",
        "extra_names": list(others),
        "extra_arrays": [codecs.npy_bytes(array) for array in others.values()],
    }
    for name, field in FIELDS.items():
        if field.per_person:
            example[name] = _checked_rows(example[name], field, n, f"scene {scene.name}: {name}")
    return example


def serialize(example: Mapping[str, Any]) -> bytes:
    """An encoded scene as the bytes of a record."""
    return wire.serialize(example, FIELDS)


def check_count(n: int, where: str) -> None:
    """Raises SceneError for more people than a scene may have."""
    if n > MAX_PEOPLE:
        raise SceneError(f"{where}: too_many_people: {n} people, expected at most {MAX_PEOPLE}")


def words_of(anchors: np.ndarray, classes: Mapping[str, float]) -> list[str]:
    """The word of each anchor, empty where an anchor is not exactly a word's."""
    by_anchor = {anchor: word for word, anchor in classes.items()}
    return [by_anchor.get(float(anchor), "") for anchor in anchors]


def _empty(field: Field) -> np.ndarray:
    return np.zeros([size or 0 for size in field.shape], field.dtype)


def _fits(value: Any, field: Field, n: int) -> bool:
    """Whether a field holds the value without loss."""
    if value is None:
        return False
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.shape != (n, *field.shape[1:]):
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        stored = array.astype(field.dtype)
    return np.array_equal(stored, array, equal_nan=True)


def _checked_rows(value: Any, field: Field, n: int, where: str) -> np.ndarray:
    array = np.asarray(value)
    if array.shape[1:] != field.shape[1:] or array.ndim != len(field.shape) or len(array) not in (0, n):
        raise SceneError(f"{where}: expected shape {(n, *field.shape[1:])}, got {array.shape}")
    return array.astype(field.dtype, copy=False)


def _encode_bodies(prefix: str, bodies: BodyParameters | None) -> dict[str, np.ndarray]:
    return {
        prefix + name: _empty(FIELDS[prefix + name]) if bodies is None else np.asarray(getattr(bodies, name))
        for name in _BODY
    }


# ------------------------------------------------------------------------------------------------ record -> scene


def decode(serialized: bytes, where: str = "record", *, with_masks: bool = True, with_depth_map: bool = True) -> Scene:
    """The scene of a record, of this or an older schema version.

    Masks and the depth map are unfolded only on request. Raises SceneError naming `where`, the field and what was expected;
    the values themselves are checked by `validate_scene`.
    """
    record = Record(serialized, where)
    version = record.read("schema_version", FIELDS["schema_version"])
    if not 1 <= version <= SCHEMA_VERSION:
        raise SceneError(
            f"{where}: schema_version: expected 1 to {SCHEMA_VERSION}, got {version}: a newer program wrote it"
        )

    def read(name: str) -> Any:
        return record.read(name, FIELDS[name])

    keypoints = read("keypoints")
    n = len(keypoints)
    check_count(n, where)

    def rows(name: str) -> np.ndarray | None:
        """A per-person array, None where the cue is absent."""
        array = read(name) if FIELDS[name].since <= version else _empty(FIELDS[name])
        if len(array) not in (0, n):
            raise SceneError(f"{where}: {name}: expected shape {(n, *array.shape[1:])}, got {array.shape}")
        return array if len(array) else None

    def bodies(prefix: str) -> BodyParameters | None:
        parts = {name: rows(prefix + name) for name in _BODY}
        missing = [name for name, part in parts.items() if part is None]
        if missing and len(missing) < len(parts):
            raise SceneError(f"{where}: {prefix}*: expected all of {', '.join(_BODY)} or none, no {', '.join(missing)}")
        return None if missing else BodyParameters(**parts)  # pyright: ignore[reportArgumentType]

    def known(name: str, absent: float) -> np.ndarray:
        array = rows(name)
        return np.full((n, *_empty(FIELDS[name]).shape[1:]), absent, FIELDS[name].dtype) if array is None else array

    image_size = checked_image_size(read("image_size"), f"{where}: image_size")
    age, gender = known("age", UNKNOWN_WORD), known("gender", UNKNOWN_WORD)
    extra: dict[str, Any] = {name: array for name in EXTRAS if (array := rows(name)) is not None}
    for name, anchors, classes in (("age_words", age, AGE_CLASSES), ("gender_words", gender, GENDER_CLASSES)):
        words = read(name)
        if words != words_of(anchors, classes):
            extra[name] = words
    extra |= _other_extras(read("extra_names"), read("extra_arrays"), where)
    if version >= 2 and (text := read("provenance")):
        extra["provenance"] = _provenance(text, where)
    folded = codecs.FoldedMasks(read("mask_size"), read("mask_runs"), read("mask_counts"))
    masks = depth_map = None
    if len(folded.runs):
        codecs.check_masks(folded, n, image_size, where)
        masks = codecs.unfold_masks(folded, image_size) if with_masks else None
    if with_depth_map:
        half = record.read("depth", FIELDS["depth"], max_values=math.prod(codecs.half_size(image_size)))
        depth_map = codecs.full_depth(half, image_size, where) if half.size else None
    skipped_ids, skipped_reasons = read("skipped_ids"), read("skipped_reasons")
    if len(skipped_ids) != len(skipped_reasons):
        raise SceneError(f"{where}: skipped_reasons: expected {len(skipped_ids)} texts, got {len(skipped_reasons)}")
    return Scene(
        name=read("name"),
        image_size=image_size,
        intrinsics=read("intrinsics"),
        keypoints=keypoints,
        dense_keypoints=known("dense_keypoints", 0.0),
        median_depth=known("median_depth", np.nan),
        depth_layer=known("depth_layer", -1),
        age=age,
        gender=gender,
        start=bodies("start_"),
        truth=bodies("truth_"),
        person_ids=read("person_ids"),
        keypoint_convention=read("keypoint_convention") if version >= 3 else Scene.keypoint_convention,
        heights=rows("heights"),
        distances=rows("distances"),
        camera=_camera(read("camera"), where) if version >= 3 else {},
        lens=read("lens") if version >= 4 else "",
        boxes=rows("boxes"),
        masks=masks,
        depth_map=depth_map,
        image_path=read("image_path") or None,
        skipped=list(zip(skipped_ids, skipped_reasons, strict=True)),
        notes=read("notes"),
        extra=extra,
    )


def decode_name(serialized: bytes, where: str) -> str:
    """Only the scene's name. Raises SceneError."""
    return Record(serialized, where).read("name", FIELDS["name"])


def decode_photo(serialized: bytes, where: str) -> bytes:
    """Only the JPEG bytes of the photo, empty where it was not packed. Raises SceneError."""
    return Record(serialized, where).read("image_jpeg", FIELDS["image_jpeg"])


def _camera(text: str, where: str) -> dict[str, tuple[float, float]]:
    """Facts of the camera from their JSON text."""
    try:
        facts = json.loads(text) if text else {}
        return {str(name): (float(value), float(sd)) for name, (value, sd) in facts.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SceneError(f"{where}: camera: expected JSON of pairs of numbers ({error})") from error


def _other_extras(names: list[str], arrays: list[bytes], where: str) -> dict[str, np.ndarray]:
    if len(names) != len(arrays):
        raise SceneError(f"{where}: extra_arrays: expected {len(names)} arrays, got {len(arrays)}")
    return {name: codecs.read_npy(data, f"{where}: extra.{name}") for name, data in zip(names, arrays, strict=True)}


def _provenance(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise SceneError(f"{where}: provenance: expected a JSON object, got {text[:40]!r}")
    return content
