"""COCO keypoints: an annotation file (`images`, `annotations`) or a bare list of detection results.

One scene per image; people without a keypoint, crowds and other categories are set aside with a reason. What is read of
an annotation beyond COCO's own fields, all optional:

| field | meaning |
|---|---|
| `age`, `gender` | words ("toddler", "female") or anchors in [0, 1]; also inside `attributes` or `vlm_label` |
| `depth_layer` | ordinal depth, smaller is nearer |
| `hand_label` | labels by eye: `age` 0 adult 1 teen 2 kid 3 baby, `gender` 0 male 1 female, `depth_id`; -1 unknown |
| `keypoints_by_eye` | the keypoints are rough; noted |

`hand_label` goes to `Scene.extra` (`hand_age`, `hand_gender`, `hand_depth_layer`) for evaluation and is a cue only on
request (`hand_labels`, `hand_depth`). Intrinsics: `intrinsics` (3 x 3) or `camera` {fx, fy, cx, cy} of the image, else
of the file or its `info`, with `distortion` beside it where the points are distorted; else the calibration file of the
options; else the focal length that the photo's camera wrote; else a field of view. The third number of a keypoint is
COCO's flag (0 not labelled, 1 hidden, 2 visible), unless the file holds fractions or scores: then it is the detector's
confidence. A person's id is the annotation's `id`, else its position in the list.

Which points the keypoints are, the category says by their names; without names their number and the way they lie
(`point_sets.recognise`). Points beyond COCO's 17, also those in COCO-WholeBody's fields (`foot_kpts`, `face_kpts`,
`lefthand_kpts`, `righthand_kpts`), go to `Scene.extra`. Keypoint files of other programs come here as well
(`keypoint_files`), in the form of annotations.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.inputs import coco_people as people
from annyfit_jax.inputs import facts, point_sets
from annyfit_jax.inputs import masks as masks_io
from annyfit_jax.inputs.calibrated_scene import calibrated
from annyfit_jax.inputs.calibration import CalibratedCamera, Calibration, read_calibration
from annyfit_jax.inputs.photo_folder import PhotoFolder
from annyfit_jax.inputs.photos import SUFFIXES, focal_35mm, photo_size
from annyfit_jax.inputs.scene_source import InputOptions, SceneSource
from annyfit_jax.inputs.validate import NUM_JOINTS, checked_image_size
from annyfit_jax.people.camera import intrinsics_from_35mm, intrinsics_from_fov
from annyfit_jax.people.lens import Lens
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES, NUM_DENSE, Scene, SceneError
from annyfit_jax.records.files import open_regular

_ANNOTATION_FIELDS = (
    "id", "image_id", "category_id", "keypoints", "num_keypoints", "bbox", "area", "iscrowd", "segmentation", "score",
    "box", "attributes", "vlm_label", "age", "gender", "depth_layer", "hand_label", "keypoints_by_eye", "file_name",
    "person_id",
)  # fmt: skip
"""Fields of an annotation that are read, or that COCO has."""
_IMAGE_FIELDS = (
    "id", "file_name", "width", "height", "intrinsics", "camera", "distortion", "distortion_model", "license", "coco_url",
    "flickr_url", "date_captured",
)  # fmt: skip
_LOOKED_FOR = 2000
"""Photos whose presence is checked when a file is opened."""


@dataclass
class AnnotationIndex:
    """The parsed input, grouped by image: what `load` needs."""

    path: str
    images: list[dict]
    annotations: list[list[dict]]
    """Per image, in file order; `id` is always present."""
    confidences: bool
    categories: dict[Any, dict] = field(default_factory=dict)
    file_level: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    normalised: bool = False
    """Whether coordinates are shares of the picture's width and height rather than pixels."""
    skeletons: dict[int, tuple[str, ...] | SceneError] = field(default_factory=dict)
    """Number of points -> their names, or why they are not known, for annotations whose category does not say."""
    calibration: Calibration | None = None
    photos: PhotoFolder = field(default_factory=lambda: PhotoFolder("", frozenset()))


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file is annotations in the manner of COCO, or a list of results."""
    if isinstance(content, dict):
        return "images" in content or "annotations" in content
    return isinstance(content, list) and any(
        isinstance(e, dict) and "image_id" in e and "keypoints" in e for e in content
    )


def open_coco(path: str, options: InputOptions, content: Any = None) -> SceneSource:
    """The scenes of a COCO-keypoints JSON, in the order of its images. Raises SceneError on another layout.

    Args:
      content: of the file, where it has been read.
    """
    content = read_json(path) if content is None else content
    index = _index_results(path, content) if isinstance(content, list) else _index_annotations(path, content)
    return open_index(index, options, "coco")


def open_index(index: AnnotationIndex, options: InputOptions, kind: str) -> SceneSource:
    """The scenes of indexed annotations. Raises SceneError where the options do not fit them, or nobody's points are known."""
    path = index.path
    words = read_json(options.words) if options.words else {}
    if not isinstance(words, dict) or not all(isinstance(entry, dict) for entry in words.values()):
        raise SceneError(f'{options.words}: expected {{person id: {{"age": word, "gender": word}}}}')
    if not index.images:
        raise SceneError(f"{path}: images: expected at least one image, got none")
    index.skeletons = _skeletons(index, options)
    if options.calibration:
        index.calibration = read_calibration(options.calibration)
    own = Path(path) if Path(path).is_dir() else Path(path).parent
    index.photos = PhotoFolder.of(options.images or options.images_beside or own)
    names = _scene_names(index.images)
    if options.words:
        index.notes += unknown_fields(list(words.values()), options.words, ("age", "gender"))
        known = {str(annotation["id"]) for group in index.annotations for annotation in group}
        if strangers := set(words) - known:
            index.notes.append(
                f"{options.words}: {len(strangers)} of {len(words)} entries name nobody, e.g. {min(strangers)!r:.60}"
            )
    if options.images:
        index.notes += _missing_photos(index, options)
    return SceneSource(
        kind=kind,
        names=names,
        loader=lambda i: _SceneReader(index, i, names[i], words, options).scene(),
        location=path,
        notes=tuple(index.notes),
        stamps=lambda i: _stamp([index.images[i], index.annotations[i]]),
    )


def _stamp(content: Any) -> str:
    """Of an image and its annotations, 16 hex digits."""
    text = json.dumps(content, sort_keys=True, default=lambda value: np.asarray(value).tolist())
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _skeletons(index: AnnotationIndex, options: InputOptions) -> dict[int, tuple[str, ...] | SceneError]:
    """The names of points that no category tells, by their number. Raises SceneError where those of nobody are known."""
    unnamed: dict[int, list[np.ndarray]] = {}
    for annotation in (annotation for group in index.annotations for annotation in group):
        category = index.categories.get(_key(annotation.get("category_id")), {})
        values = annotation.get("keypoints")
        if not isinstance(values, list) or people.reason_to_skip(annotation, category.get("name")):
            continue
        told = category.get("keypoints") or []
        if len(values) % 3 or (isinstance(told, list) and len(told) == len(values) // 3 and not options.skeleton):
            continue
        points = _numbers_of(values)
        if points is not None and (options.skeleton or len(points) in point_sets.COUNTS):
            unnamed.setdefault(len(points), []).append(points)
    result: dict[int, tuple[str, ...] | SceneError] = {}
    for count, group in unnamed.items():
        try:
            if options.skeleton:
                points = point_sets.declared(options.skeleton, "option skeleton")
                if len(points) != count:
                    raise SceneError(f"{index.path}: {count} points, but {options.skeleton} has {len(points)}")
            else:
                chosen, points = point_sets.recognise(group, index.path)
                if chosen != "coco17":
                    index.notes.append(f"{index.path}: the {count} points are read as {chosen}")
            result[count] = points
        except SceneError as error:
            result[count] = error
    if result and all(isinstance(names, SceneError) for names in result.values()):
        raise next(error for error in result.values() if isinstance(error, SceneError))
    return result


def _numbers_of(values: list) -> np.ndarray | None:
    """(k, 3) of a flat list, None where it does not hold numbers alone."""
    try:
        return np.array(values, np.float64).reshape(-1, 3)
    except (ValueError, TypeError, OverflowError):
        return None


def _missing_photos(index: AnnotationIndex, options: InputOptions) -> list[str]:
    """A note where some of the photos are not in the folder that was given for them. Raises SceneError where none is."""
    step = -(-len(index.images) // _LOOKED_FOR)
    chosen = range(0, len(index.images), step)
    missing = [i for i in chosen if _SceneReader(index, i, "", {}, options)._find_image() is None]
    if not missing:
        return []
    first = str(index.images[missing[0]]["file_name"])
    looked = "" if step == 1 else f" looked for, every {step}th,"
    if len(missing) == len(chosen):
        raise SceneError(
            f"option images: none of the {len(chosen)} photos{looked} of {index.path} is in {options.images}; the first is "
            f"{first!r:.200}"
        )
    return [
        f"option images: {len(missing)} of {len(chosen)} photos{looked} are not in {options.images}, e.g. {first!r:.200}"
    ]


def read_json(path: str) -> Any:
    """The content of a JSON file. Raises SceneError where it is missing or not JSON."""
    try:
        with open_regular(path) as file:
            return json.loads(file.read())
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{path}: not a JSON file ({type(error).__name__}: {error})") from error


def unknown_fields(entries: list[dict], where: str, known: tuple[str, ...] = _ANNOTATION_FIELDS) -> list[str]:
    """A note for each field that is nearly one that is read: files of others may hold fields of any name, misspelt ones not."""
    names = {str(name) for entry in entries for name in entry if name not in known}
    notes = []
    for name in sorted(names):
        if len(name) <= 40 and (near := difflib.get_close_matches(name, known, 1, cutoff=0.84)):
            notes.append(f"{where}: the field `{name}` is not read; did you mean `{near[0]}`?")
    return notes


def _index_annotations(path: str, content: Any) -> AnnotationIndex:
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise SceneError(f"{path}: expected COCO keypoints: lists `images` and `annotations`, or one list of results")
    for key in ("images", "annotations"):
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise SceneError(f"{path}: {key}: expected a list of objects")
    images, annotations = content["images"], _with_ids(content["annotations"])
    position: dict[str, int] = {}
    for i, image in enumerate(images):
        if "id" not in image or not isinstance(image.get("file_name"), str):
            raise SceneError(f"{path}: images[{i}]: expected the fields `id` and `file_name`")
        if position.setdefault(str(image["id"]), i) != i:
            raise SceneError(f"{path}: images[{i}].id: {image['id']} is used twice")
    grouped: list[list[dict]] = [[] for _ in images]
    homeless = 0
    for annotation in annotations:
        i = position.get(str(annotation.get("image_id")))
        if i is None:
            homeless += 1
        else:
            grouped[i].append(annotation)
    categories = content.get("categories")
    info = content.get("info")
    return AnnotationIndex(
        path,
        images,
        grouped,
        confidences=people.holds_confidences(annotations),
        categories={_key(c.get("id")): c for c in categories or [] if isinstance(c, dict)}
        if isinstance(categories, list)
        else {},
        file_level=[content, info if isinstance(info, dict) else {}],
        notes=[
            *([f"{homeless} annotations name an image that is not listed"] if homeless else []),
            *unknown_fields(annotations, f"{path}: annotations"),
            *unknown_fields(images, f"{path}: images", _IMAGE_FIELDS),
        ],
    )


def _index_results(path: str, content: list) -> AnnotationIndex:
    """A bare list of {image_id, keypoints, score}: the images are those it names, to be found in the image folder."""
    if not all(isinstance(entry, dict) and "keypoints" in entry and "image_id" in entry for entry in content):
        raise SceneError(f"{path}: expected a list of results with the fields `image_id` and `keypoints`")
    grouped: dict[str, list[dict]] = {}
    for entry in _with_ids(content):
        grouped.setdefault(str(entry.get("file_name") or entry["image_id"]), []).append(entry)
    images = [{"id": name, "file_name": name, "unresolved": True} for name in grouped]
    notes = unknown_fields(content, path)
    return AnnotationIndex(path, images, list(grouped.values()), not people.holds_flags(content), notes=notes)


def _key(value: Any) -> str:
    return str(value)


def _with_ids(annotations: list[dict]) -> list[dict]:
    return [_flat({**annotation, "id": annotation.get("id", i)}) for i, annotation in enumerate(annotations)]


def _flat(annotation: dict) -> dict:
    """With `keypoints` as one list: some programs write a list of [x, y, score]."""
    points = annotation.get("keypoints")
    if isinstance(points, list) and points and all(isinstance(point, list) and len(point) == 3 for point in points):
        annotation["keypoints"] = [value for point in points for value in point]
    return annotation


def _scene_names(images: list[dict]) -> tuple[str, ...]:
    """File stems, made safe as file names; a name that is taken gets the image's position. Readers may give a `scene_name`."""
    names: list[str] = []
    taken: set[str] = set()
    for i, image in enumerate(images):
        stem = (
            re.sub(r"[^\w.-]+", "_", image.get("scene_name") or Path(image["file_name"]).stem).strip(".")
            or f"image_{i}"
        )
        name = stem if stem not in taken else f"{stem}_{i}"
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    return tuple(names)


@dataclass(frozen=True)
class _Person:
    """What is read of one annotation."""

    index: int
    """Position among the image's annotations."""
    points: np.ndarray
    """(133, 3), of which the first 17 are COCO's."""
    others: dict[str, np.ndarray]
    """Points that COCO-WholeBody does not have."""
    age: float
    gender: float
    depth_layer: int
    box: np.ndarray

    @property
    def keypoints(self) -> np.ndarray:
        """(17, 3)"""
        return self.points[:NUM_JOINTS]


class _SceneReader:
    """Reads one image of the file; an object only to share what every step needs."""

    def __init__(self, index: AnnotationIndex, position: int, name: str, words: dict[str, dict], options: InputOptions):
        self.index, self.name, self.words, self.options = index, name, words, options
        self.image = index.images[position]
        self.annotations = index.annotations[position]
        self.where = f"{index.path}: image {self.image['file_name']}"
        self.notes: list[str] = []
        self.skipped: list[tuple[str, str]] = []

    def scene(self) -> Scene:
        if self.image.get("error"):
            raise SceneError(str(self.image["error"]))
        image_path = self._find_image()
        image_size = self._image_size(image_path)
        intrinsics, lens = self._camera(image_size, image_path)
        depth_map, masks_of_all = self._depth_and_masks(image_size)
        kept = self._people(masks_of_all, image_size)
        n = len(kept)
        annotations = [self.annotations[person.index] for person in kept]
        points = np.stack([person.keypoints for person in kept]) if n else np.zeros((0, NUM_JOINTS, 3))
        masks, medians = self._median_depths(image_size, depth_map, masks_of_all, [person.index for person in kept])
        by_eye = [str(a["id"]) for a in annotations if a.get("keypoints_by_eye")]
        if by_eye:
            self.notes.append(f"keypoints read by eye: {', '.join(by_eye)}")
        extra = _further_points(kept)
        if any(isinstance(a.get("hand_label"), dict) for a in annotations):
            for name, entry in people.HAND_FIELDS.items():
                extra[name] = np.array([people.hand_label(a, entry) for a in annotations], np.int64)
        if odd := [str(a["id"]) for a in annotations if people.odd_hand_label(a)]:
            self.notes.append(f"hand_label beyond any label, taken as unknown: {', '.join(odd)}")
        scene = Scene(
            name=self.name,
            image_size=image_size,
            intrinsics=intrinsics,
            keypoints=points,
            dense_keypoints=np.zeros((n, NUM_DENSE, 3)),
            median_depth=medians,
            depth_layer=np.array([person.depth_layer for person in kept], np.int64),
            age=np.array([person.age for person in kept], np.float64),
            gender=np.array([person.gender for person in kept], np.float64),
            person_ids=[str(a["id"]) for a in annotations],
            boxes=np.array([person.box for person in kept], np.float64).reshape(n, 4),
            masks=self._wanted_masks(masks, n, image_size),
            depth_map=depth_map,
            image_path=image_path,
            skipped=self.skipped,
            notes=self.notes,
            keypoint_convention=self._convention(),
            heights=facts.of_people(annotations, "height_m", self._person_where),
            distances=facts.of_people(annotations, "distance_m", self._person_where),
            camera=facts.of_camera([self.image, *self.index.file_level], self.where),
            extra=extra,
        )
        return scene if lens is None else calibrated(scene, intrinsics, lens)

    def _wanted_masks(self, masks: np.ndarray | None, n: int, image_size: tuple[int, int]) -> np.ndarray | None:
        if not self.options.with_masks:
            return None
        return np.zeros((n, image_size[1], image_size[0]), bool) if masks is None else masks

    def _convention(self) -> str:
        """Who placed the keypoints: `keypoint_convention` of the image or the file, else in the manner of COCO."""
        for holder in (self.image, *self.index.file_level):
            if "keypoint_convention" in holder:
                return str(holder["keypoint_convention"])
        return "coco"

    def _person_where(self, annotation: dict) -> str:
        return f"{self.where}, annotation {annotation['id']}"

    def _find_image(self) -> str | None:
        file_name = self.image["file_name"]
        names = [file_name, Path(file_name).name]
        if self.image.get("unresolved"):  # results name images by number; COCO pads the number to 12 digits
            stems = [file_name] + ([file_name.zfill(12)] if file_name.isdigit() else [])
            stems += [Path(stem).name for stem in stems if "/" in stem]
            names += [stem + suffix for stem in stems for suffix in SUFFIXES]
        return self.index.photos.find(names)

    def _image_size(self, image_path: str | None) -> tuple[int, int]:
        if "width" in self.image and "height" in self.image:
            return checked_image_size([self.image["width"], self.image["height"]], f"{self.where}: width, height")
        if image_path is not None:
            return photo_size(image_path)
        if self.options.image_size is not None:
            return checked_image_size(self.options.image_size, "option image_size")
        if self.index.calibration is not None and (size := self._calibrated_camera().size) is not None:
            return size
        raise SceneError(
            f"{self.where}: no `width` and `height`, and the photo is not in the image folder (else give the option image_size)"
        )

    def _calibrated_camera(self) -> CalibratedCamera:
        assert self.index.calibration is not None
        named = self.image.get("camera")
        return self.index.calibration.camera_of(self.image["file_name"], named if isinstance(named, str) else "")

    def _camera(self, image_size: tuple[int, int], image_path: str | None) -> tuple[np.ndarray, Lens | None]:
        """K and the lens: of the image or the file, else of the calibration file, else guessed, which is noted."""
        for holder in (self.image, *self.index.file_level):
            intrinsics = people.intrinsics_entry(holder, self.where)
            if intrinsics is not None:
                if self.index.calibration is not None:
                    raise SceneError(
                        f"{self.where}: it has intrinsics of its own; leave out the calibration file, or them"
                    )
                return intrinsics, people.lens_entry(holder, self.where)
        if self.index.calibration is not None:
            camera = self._calibrated_camera()
            return camera.intrinsics_for(image_size, self.where), camera.lens
        degrees = self.options.fov_degrees
        told = focal_35mm(image_path) if image_path is not None and degrees == DEFAULT_FOV_DEGREES else None
        if told is not None:
            self.notes.append(f"intrinsics: the photo tells a focal length of {told:g} mm (35 mm equivalent)")
            return intrinsics_from_35mm(image_size, told), None
        self.notes.append(f"intrinsics: {degrees:g} degree field of view")
        return intrinsics_from_fov(image_size, degrees), None

    def _people(self, masks: Mapping[int, np.ndarray | SceneError], image_size: tuple[int, int]) -> list[_Person]:
        """The people to fit. Whoever's annotation cannot be used is set aside alone, with the reason."""
        kept = []
        for i, annotation in enumerate(self.annotations):
            category = self.index.categories.get(_key(annotation.get("category_id")), {})
            reason = people.reason_to_skip(annotation, category.get("name"))
            if reason is None:
                try:
                    if isinstance(broken := masks.get(i), SceneError):
                        raise broken
                    if str(annotation["id"]) in {str(self.annotations[other.index]["id"]) for other in kept}:
                        raise SceneError(f"{self._person_where(annotation)}: the id is that of an earlier person")
                    person = self._person(i, annotation, self._joint_names(category, annotation), image_size)
                    if (person.keypoints[:, 2] > 0).any():
                        kept.append(person)
                        continue
                    reason = "no keypoints"
                except Exception as error:  # also what no check foresaw, such as numbers of any size
                    message = str(error) if isinstance(error, SceneError) else f"{type(error).__name__}: {error}"
                    reason = f"unreadable annotation: {message:.500}"
            self.skipped.append((str(annotation["id"]), reason))
        return kept

    def _person(
        self, index: int, annotation: dict, joint_names: tuple[str, ...], image_size: tuple[int, int]
    ) -> _Person:
        where = self._person_where(annotation)
        points, others = people.points_of(
            annotation, joint_names, where, self.index.confidences, self.options.hidden_confidence
        )
        if (below := points[:, 2] < 0).any():
            self.notes.append(f"person {annotation['id']}: {below.sum()} negative confidences are taken as not seen")
            points[below, 2] = 0.0
        if self.index.normalised:
            points = points * (*image_size, 1.0)
            others = {name: point * (*image_size, 1.0) for name, point in others.items()}
        keypoints = points[:NUM_JOINTS]
        age, gender = self._anchors(annotation)
        return _Person(
            index, points, others, age, gender, people.depth_layer_of(annotation, where, self.options.hand_depth),
            people.box_of(annotation, keypoints, where) if (keypoints[:, 2] > 0).any() else np.zeros(4),
        )  # fmt: skip

    def _joint_names(self, category: dict, annotation: dict) -> tuple[str, ...]:
        """Names of the points of an annotation. Raises SceneError where they are not known."""
        names = category.get("keypoints") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SceneError(f"{self.index.path}: categories: keypoints: expected a list of joint names")
        count = len(annotation["keypoints"]) // 3 if isinstance(annotation["keypoints"], list) else 0
        if len(names) == count and not self.options.skeleton:
            return tuple(names)
        found = self.index.skeletons.get(count)
        if isinstance(found, SceneError):
            raise found
        return found if found is not None else tuple(names)

    def _anchors(self, annotation: dict) -> tuple[float, float]:
        words = self.words.get(str(annotation["id"]))
        return people.anchors_of(annotation, words, self._person_where(annotation), self.options.hand_labels)

    def _depth_and_masks(
        self, image_size: tuple[int, int]
    ) -> tuple[np.ndarray | None, dict[int, np.ndarray | SceneError]]:
        """Depth map or None, and the mask of every annotation but crowd regions, by position, or why there is none."""
        stem = Path(self.image["file_name"]).stem
        depth_map = masks_io.read_depth_map(self.options.depth, stem, image_size) if self.options.depth else None
        if self.options.depth and depth_map is None:
            self.notes.append("no depth map")
        if depth_map is None and not self.options.with_masks:
            return depth_map, {}
        labels = masks_io.read_label_image(self.options.masks, stem, image_size) if self.options.masks else None
        masks: dict[int, np.ndarray | SceneError] = {}
        for i, annotation in enumerate(self.annotations):
            if annotation.get("iscrowd"):  # covers the fitted people too, so it says nothing about who is in front
                continue
            if labels is not None:
                masks[i] = labels == i + 1
                continue
            where = f"{self._person_where(annotation)}.segmentation"
            try:
                masks[i] = masks_io.decode_segmentation(annotation.get("segmentation") or [], image_size, where)
            except SceneError as error:
                masks[i] = error
        return depth_map, masks

    def _median_depths(
        self, image_size: tuple[int, int], depth_map: np.ndarray | None, masks: Mapping[int, Any], kept: list[int]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Masks (n, H, W) of the people kept, None where nobody has one, and their median depths (n,)."""
        width, height = image_size
        if not masks:
            return None, np.full(len(kept), np.nan)
        own = np.stack([masks[i] for i in kept]) if kept else np.zeros((0, height, width), bool)
        others = [mask for i, mask in masks.items() if i not in kept and not isinstance(mask, SceneError)]
        if depth_map is None:
            return own, np.full(len(kept), np.nan)
        return own, masks_io.median_depths(depth_map, own, np.array(others).reshape(-1, height, width).astype(bool))


def _further_points(kept: list[_Person]) -> dict[str, Any]:
    """The points beyond the 17 as `Scene.extra` holds them; nothing where nobody shows one."""
    extra: dict[str, Any] = {}
    if any((person.points[NUM_JOINTS:, 2] > 0).any() for person in kept):
        extra["keypoints_133"] = np.stack([person.points for person in kept])
    names = list(dict.fromkeys(name for person in kept for name, point in person.others.items() if point[2] > 0))
    if names:
        absent = np.zeros(3)
        extra["other_points"] = np.stack([[person.others.get(name, absent) for name in names] for person in kept])
        extra["other_point_names"] = np.array(names)
    return extra
