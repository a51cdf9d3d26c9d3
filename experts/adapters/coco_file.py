"""Cues that somebody has already: a COCO JSON of annotations or of detection results.

Each cue is an expert of its own. Photos are found by file name; people who were detected otherwise take the annotation
whose box overlaps theirs most (at least by half).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.inputs import coco_people
from annyfit_jax.inputs.coco_annotations import read_json
from annyfit_jax.inputs.masks import decode_segmentation
from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES, SceneError
from annyfit_jax.store.mirrors import local
from experts.adapters.folders import file_fingerprint
from experts.attributes import DEFAULT_ATTRIBUTES, Attribute
from experts.interfaces import Card, Detections, ExpertError, People, Photo, Words
from experts.people_rules import match_boxes

_PARTS = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
"""COCO-WholeBody's fields, in the order of its 133 points after the 17."""


class CocoIndex:
    """Annotations by photo."""

    def __init__(self, path: str) -> None:
        """Raises ExpertError where the file is not COCO."""
        self.path = path
        try:
            content = read_json(local(path))
        except (SceneError, FileNotFoundError) as error:
            raise ExpertError(str(error)) from None
        results = isinstance(content, list)
        entries = content if results else content.get("annotations") if isinstance(content, dict) else None
        images = [] if results else content.get("images") if isinstance(content, dict) else None
        rows = [*(entries or []), *(images or [])]
        if not isinstance(entries, list) or not isinstance(images, list) or not all(isinstance(r, dict) for r in rows):
            raise ExpertError(f"{path}: expected COCO: lists `images` and `annotations`, or one list of results")
        self.holders: list[Mapping[str, Any]] = []
        if isinstance(content, dict):
            info = content.get("info")
            self.holders = [content, info if isinstance(info, dict) else {}]
        categories = [] if results else content.get("categories") or []
        self.categories = {str(c.get("id")): c for c in categories if isinstance(c, dict)}
        self.entries = [{**entry, "id": entry.get("id", i)} for i, entry in enumerate(entries)]
        self.confidences = results or coco_people.holds_confidences(self.entries)
        by_image: dict[str, list[dict]] = {}
        for entry in self.entries:
            by_image.setdefault(str(entry.get("image_id")), []).append(entry)
        self._photos: dict[str, tuple[Mapping[str, Any], list[dict]]] = {}
        self._bare: dict[str, tuple[Mapping[str, Any], list[dict]]] = {}
        for image in images:
            name = image.get("file_name")
            if not isinstance(name, str) or "id" not in image:
                raise ExpertError(f"{path}: images: expected the fields `id` and `file_name`")
            own = (image, by_image.get(str(image["id"]), []))
            self._photos[PurePosixPath(name).as_posix()] = own
            self._bare.setdefault(PurePosixPath(name).name, own)
        for image_id, own in by_image.items() if results else ():
            name = PurePosixPath(str(own[0].get("file_name") or image_id))
            # Results name images by number, without a suffix; COCO's files pad the number to 12 digits.
            for key in (name.as_posix(), name.stem, image_id.zfill(12)):
                self._photos.setdefault(key, ({}, own))

    def find(self, photo: Photo) -> tuple[Mapping[str, Any], list[dict]]:
        """(image entry, annotations) of a photo. Raises SceneError where the file does not name it.

        The file's names are paths below the folder of photos. A photo that lies in the folder itself is also found by its name
        alone; one in a subfolder is not, since another subfolder may hold one of the same name.
        """
        for table, key in ((self._photos, photo.relative), (self._photos, photo.stem), (self._bare, photo.relative)):
            if key in table:
                return table[key]
        raise SceneError(f"{self.path}: does not name the photo {photo.relative}")

    def people(self, photo: Photo) -> list[dict]:
        """The annotations of people in a photo, without crowd regions."""
        annotations = self.find(photo)[1]
        return [a for a in annotations if self.category(a).get("name", "person") == "person" and not a.get("iscrowd")]

    def category(self, annotation: Mapping[str, Any]) -> Mapping[str, Any]:
        """The entry of an annotation's category; empty where the file has none."""
        return self.categories.get(str(annotation.get("category_id")), {})

    def where(self, photo: Photo, annotation: Mapping[str, Any]) -> str:
        """File, image and annotation, for messages."""
        return f"{self.path}: image {photo.relative}, annotation {annotation['id']}"

    def box(self, photo: Photo, annotation: Mapping[str, Any]) -> Float[np.ndarray, "4"]:
        """x0, y0, x1, y1; of an annotation with neither box nor keypoints an empty one."""
        points = np.zeros((0, 3))
        if annotation.get("bbox") is None:
            points = self.keypoints(photo, annotation)
            if not (points[:, 2] > 0).any():
                return np.zeros(4)
        return coco_people.box_of(annotation, points[:17], self.where(photo, annotation))

    def keypoints(self, photo: Photo, annotation: Mapping[str, Any], hidden: float = 1.0) -> Float[np.ndarray, "k 3"]:
        """17 or 133 keypoints; all of confidence 0 where the annotation has none."""
        where = self.where(photo, annotation)
        if annotation.get("keypoints") is None or annotation.get("num_keypoints") == 0:
            return np.zeros((17, 3))
        names = self.category(annotation).get("keypoints") or []
        body = coco_people.keypoints_of(annotation, names, where, self.confidences, hidden)
        if all(annotation.get(part) is not None for part in _PARTS):
            rest = [checked_array(annotation[part], f"{where}.{part}", ("3 k",)) for part in _PARTS]
        elif not names and len(annotation["keypoints"]) == 3 * 133:
            rest = [checked_array(annotation["keypoints"], f"{where}.keypoints", (3 * 133,))[3 * 17 :]]
        else:
            return body
        points = np.concatenate([body, np.concatenate(rest).reshape(-1, 3)])
        if len(points) != 133:
            raise SceneError(f"{where}: expected 133 whole-body keypoints, got {len(points)}")
        return points


@dataclass
class _CocoExpert:
    """What the experts that read a COCO file share."""

    path: str = field(default="", metadata={"decides": False})
    """The JSON file."""
    licence: str = "as given by the user"
    """Of the annotations."""
    _index: CocoIndex | None = field(default=None, init=False, repr=False)

    needs_pixels = False

    @property
    def card(self) -> Card:
        return Card("coco", Path(self.path).name, "", self.licence, commercial=True)

    @property
    def index(self) -> CocoIndex:
        assert self._index is not None, "load() comes first"
        return self._index

    def load(self) -> None:
        """Reads the file. Raises ExpertError."""
        if not self.path:
            raise ExpertError("expert coco: no file; give --annotations=FILE.json")
        self._index = CocoIndex(self.path)

    def close(self) -> None:
        """Lets go of the file's content."""
        self._index = None

    def fingerprint(self) -> str:
        """Checksum of the file, which may move but not change between runs."""
        return file_fingerprint(self.path)

    def matched(self, photo: Photo, people: People) -> list[dict | None]:
        """Per person the annotation, None where no box overlaps enough. A person of this file is found by id."""
        annotations = self.index.people(photo)
        boxes = np.array([self.index.box(photo, a) for a in annotations]).reshape(-1, 4)
        by_id = {str(a["id"]): k for k, a in enumerate(annotations)}
        chosen = match_boxes(people.boxes, boxes)
        # Equal ids mean the same person only if the boxes agree: another detector numbers people from 0 as well.
        for i, person in enumerate(people.ids):
            k = by_id.get(person)
            clipped = None if k is None else np.clip(boxes[k], 0, [*photo.size, *photo.size])
            if clipped is not None and np.allclose(clipped, people.boxes[i], atol=1e-6):
                chosen[i] = k
        return [None if k is None else annotations[k] for k in chosen]


@dataclass
class CocoDetector(_CocoExpert):
    """The file's people, with its ids."""

    def detect(self, photos: Sequence[Photo]) -> list[Detections]:
        """The people of each photo; crowd regions are skipped, a score the file lacks is 1."""
        result = []
        for photo in photos:
            annotations = self.index.people(photo)
            skipped = [(str(a["id"]), "crowd region") for a in self.index.find(photo)[1] if a.get("iscrowd")]
            boxes = np.array([self.index.box(photo, a) for a in annotations], np.float64).reshape(-1, 4)
            scores = np.array([float(a.get("score", 1.0)) for a in annotations])
            result.append(Detections(boxes, scores, [str(a["id"]) for a in annotations], skipped))
        return result


@dataclass
class CocoSegmenter(_CocoExpert):
    """The file's outlines: polygons or run lengths."""

    def segment(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Bool[np.ndarray, "n H W"]]:
        """(n, H, W) per photo; empty masks for people that the file does not outline."""
        result = []
        for photo, crowd in zip(photos, people, strict=True):
            width, height = photo.size
            masks = np.zeros((len(crowd), height, width), bool)
            for i, annotation in enumerate(self.matched(photo, crowd)):
                if annotation is not None:
                    where = f"{self.index.where(photo, annotation)}.segmentation"
                    masks[i] = decode_segmentation(annotation.get("segmentation") or [], photo.size, where)
            result.append(masks)
        return result


@dataclass
class CocoKeypoints(_CocoExpert):
    """The file's keypoints, 17 or 133."""

    hidden_confidence: float = 1.0
    """Of a keypoint that is labelled but hidden (flag 1)."""

    def keypoints(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Float[np.ndarray, "n k 3"]]:
        """(n, 17 or 133, 3) per photo, pixels and confidence; 0 for people that the file does not have."""
        result = []
        for photo, crowd in zip(photos, people, strict=True):
            points = [
                np.zeros((17, 3)) if a is None else self.index.keypoints(photo, a, self.hidden_confidence)
                for a in self.matched(photo, crowd)
            ]
            count = max((len(p) for p in points), default=17)
            padded = [np.pad(p, ((0, count - len(p)), (0, 0))) for p in points]
            result.append(np.array(padded).reshape(len(crowd), count, 3))
        return result


@dataclass
class CocoWords(_CocoExpert):
    """Age and gender words or anchors that stand in the annotations, or in a JSON file beside them."""

    words_file: str = field(default="", metadata={"decides": False})
    """JSON `{annotation id: {"age": word or number, "gender": ...}}`; overrides the annotations."""
    hand_labels: bool = False
    """Use labels by eye (`hand_label`) where there is no word."""
    attributes: tuple[Attribute, ...] = DEFAULT_ATTRIBUTES
    _table: dict = field(default_factory=dict, init=False, repr=False)

    def load(self) -> None:
        """Reads both files. Raises ExpertError."""
        super().load()
        try:
            table = read_json(local(self.words_file)) if self.words_file else {}
        except (SceneError, FileNotFoundError) as error:
            raise ExpertError(str(error)) from None
        if not isinstance(table, dict):
            raise ExpertError(f'{self.words_file}: expected {{annotation id: {{"age": word, "gender": word}}}}')
        self._table = table

    def fingerprint(self) -> str:
        """Of both files."""
        return super().fingerprint() + file_fingerprint(self.words_file)

    def words(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Words]:
        """Anchors of age and gender per photo, -1 for people that the file says nothing of."""
        result = []
        for photo, crowd in zip(photos, people, strict=True):
            anchors = [
                (-1.0, -1.0)
                if a is None
                else coco_people.anchors_of(
                    a, self._table.get(str(a["id"])), self.index.where(photo, a), self.hand_labels
                )
                for a in self.matched(photo, crowd)
            ]
            values = np.array(anchors, np.float64).reshape(-1, 2)
            named = {a.name: a for a in self.attributes}
            words = {
                name: [_class_at(value, named[name]) for value in values[:, k]]
                for k, name in enumerate(("age", "gender"))
                if name in named
            }
            result.append(Words({"age": values[:, 0], "gender": values[:, 1]}, words))
        return result


def _class_at(value: float, attribute: Attribute) -> str:
    return next((name for name, anchor in attribute.anchors.items() if anchor == value), "")


@dataclass
class CocoCamera(_CocoExpert):
    """Intrinsics that stand in the file (`intrinsics`, `camera`); else a field of view."""

    fov_degrees: float = DEFAULT_FOV_DEGREES
    """Over the longest side."""

    def intrinsics(
        self, photos: Sequence[Photo], depths: Sequence[Float[np.ndarray, "3 3"] | None]
    ) -> list[Float[np.ndarray, "3 3"]]:
        """(3, 3) per photo in pixels."""
        result = []
        for photo in photos:
            holders = [self.index.find(photo)[0], *self.index.holders]
            matrices = (coco_people.intrinsics_entry(holder, f"{self.path}: image {photo.name}") for holder in holders)
            known = next((k for k in matrices if k is not None), None)
            result.append(intrinsics_from_fov(photo.size, self.fov_degrees) if known is None else known)
        return result


def cues_in(path: str) -> set[str]:
    """The cues that a COCO file holds. Raises ExpertError where it is not one."""
    index = CocoIndex(path)
    cues = {"detector"} if index.entries else set()
    for cue, keys in (
        ("keypoints", ("keypoints",)),
        ("segmenter", ("segmentation",)),
        ("words", ("age", "gender", "attributes", "vlm_label")),
    ):
        if any(entry.get(key) is not None for entry in index.entries for key in keys):
            cues.add(cue)
    images = [image for image, _ in index._photos.values()]
    if any(holder.get(key) is not None for holder in (*images, *index.holders) for key in ("intrinsics", "camera")):
        cues.add("camera")
    return cues
