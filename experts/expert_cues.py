"""Each cue's way from an expert's answer to a stored entry and back, with the checks that an answer must pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from annyfit_jax.inputs.validate import NUM_JOINTS, NUM_PHENOTYPES, NUM_POSED_BONES, checked_array
from annyfit_jax.people.scene import NUM_DENSE, BodyParameters, SceneError
from annyfit_jax.records import codecs
from experts.expert_store import Entry
from experts.interfaces import Detections, Outlines, People, Photo
from experts.people_rules import Rules, confident, select_detections

_BODY = {"root_rotvec": (3,), "transl": (3,), "pose": (NUM_POSED_BONES, 3), "shape": (NUM_PHENOTYPES,)}
NUM_LANDMARKS = 33
"""Of BlazePose."""
NEEDS_PEOPLE = ("segmenter", "keypoints", "dense", "words", "start")
"""Cues that are asked about people: nothing to ask where there are none."""
MAX_DEPTH_PIXELS = 1536 * 1536
"""Of a stored depth map; the input of Depth Pro, the finest network here."""


def encode(cue: str, answer: Any, photo: Photo, people: People | None, rules: Rules) -> Entry:
    """A checked answer as an entry. Raises SceneError naming the cue and what was expected."""
    try:
        arrays, texts = _ENCODERS[cue](answer, photo, people, rules)
    except SceneError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise SceneError(
            f"{cue}: the answer is not what the interface says ({type(error).__name__}: {error})"
        ) from error
    return Entry(photo.name, arrays, texts)


def _detections(answer: Any, photo: Photo, people: Any, rules: Rules):
    boxes = checked_array(answer.boxes, "detector: boxes", ("n", 4))
    scores = checked_array(answer.scores, "detector: scores", (len(boxes),))
    if answer.ids and len({*answer.ids}) != len(boxes):
        raise SceneError(f"detector: ids: expected {len(boxes)} different names, got {len({*answer.ids})}")
    points = answer.keypoints
    if points is not None:
        points = confident(checked_array(points, "detector: keypoints", (len(boxes), NUM_JOINTS, 3)), photo.size)
    kept = select_detections(
        Detections(boxes, scores, list(answer.ids), list(answer.skipped), points), photo.size, rules
    )
    if len(kept.boxes) > rules.max_people:
        raise SceneError(f"crowd: {len(kept.boxes)} people, expected at most {rules.max_people}")
    arrays = {"boxes": kept.boxes, "scores": kept.scores}
    if kept.keypoints is not None:
        arrays["keypoints"] = kept.keypoints
    return arrays, {"ids": kept.ids, "skipped": [list(s) for s in kept.skipped]}


def _masks(answer: Any, photo: Photo, people: People, rules: Rules):
    width, height = photo.size
    n, more = len(people), {}
    if isinstance(answer, Outlines):
        points = checked_array(answer.landmarks, "segmenter: landmarks", (n, NUM_LANDMARKS, 3))
        world = checked_array(answer.world_landmarks, "segmenter: world_landmarks", (n, NUM_LANDMARKS, 3))
        more = {"landmarks": confident(points, photo.size), "world_landmarks": world}
        answer = answer.masks
    return codecs.fold_masks(checked_array(answer, "segmenter: masks", (n, height, width), np.bool_)) | more, {}


def _keypoints(answer: Any, photo: Photo, people: People, rules: Rules):
    points = checked_array(answer, "keypoints", (len(people), "17 or 133", 3))
    if points.shape[1] not in (NUM_JOINTS, 133):
        raise SceneError(f"keypoints: expected shape ({len(people)}, 17 or 133, 3), got {points.shape}")
    return {"keypoints": confident(points, photo.size)}, {}


def _dense(answer: Any, photo: Photo, people: People, rules: Rules):
    points = checked_array(answer, "dense", (len(people), NUM_DENSE, 3))
    return {"dense": confident(points, photo.size)}, {}


def _depth(answer: Any, photo: Photo, people: Any, rules: Rules):
    width, height = photo.size
    depth = thinned(checked_array(answer.depth, "depth", (height, width), np.float32))
    arrays = {"depth": np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))}
    if answer.intrinsics is not None:
        arrays["intrinsics"] = checked_array(answer.intrinsics, "depth: intrinsics", (3, 3))
    return arrays, {}


def _intrinsics(answer: Any, photo: Photo, people: Any, rules: Rules):
    k = checked_array(answer, "camera: intrinsics", (3, 3))
    if not (np.isfinite(k).all() and k[0, 0] > 0 and k[1, 1] > 0 and np.array_equal(k[2], [0, 0, 1])):
        raise SceneError(f"camera: intrinsics: expected a pinhole matrix, got {k.tolist()}")
    return {"intrinsics": k}, {}


def _words(answer: Any, photo: Photo, people: People, rules: Rules):
    n = len(people)
    arrays = {}
    for name, values in answer.anchors.items():
        anchors = checked_array(values, f"words: anchors {name}", (n,))
        if not ((anchors == -1) | ((anchors >= 0) & (anchors <= 1))).all():
            raise SceneError(f"words: anchors {name}: expected [0, 1] or -1, got {anchors}")
        arrays[f"anchors/{name}"] = anchors
    for name, values in answer.probabilities.items():
        arrays[f"probabilities/{name}"] = checked_array(values, f"words: probabilities {name}", (n, "c"))
    for name, texts in (*answer.words.items(), *([("answers", answer.answers)] if answer.answers else [])):
        if len(texts) != n:
            raise SceneError(f"words: {name}: expected {n} texts, one per person, got {len(texts)}")
    return arrays, {"words": {k: list(v) for k, v in answer.words.items()}, "answers": list(answer.answers)}


def _start(answer: Any, photo: Photo, people: People, rules: Rules):
    return {
        name: checked_array(getattr(answer, name), f"start: {name}", (len(people), *shape))
        for name, shape in _BODY.items()
    }, {}


_ENCODERS: Mapping[str, Callable[..., tuple[dict[str, np.ndarray], dict[str, Any]]]] = {
    "detector": _detections, "segmenter": _masks, "keypoints": _keypoints, "dense": _dense, "depth": _depth,
    "camera": _intrinsics, "words": _words, "start": _start,
}  # fmt: skip


def thinned(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "h w"]:
    """Every k-th pixel of a map that is larger than any network here sees; what lies between is interpolated anyway."""
    step = math.ceil(math.sqrt(depth.size / MAX_DEPTH_PIXELS))
    return depth[::step, ::step] if step > 1 else depth


def depth_of(entry: Entry, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """The depth map of an entry at the size (width, height) of its photo."""
    depth, (width, height) = entry.arrays["depth"], size
    step = math.ceil(height / max(len(depth), 1))
    return depth if step <= 1 else depth.repeat(step, axis=0)[:height].repeat(step, axis=1)[:, :width]


def people_of(entries: Mapping[str, Entry], size: tuple[int, int]) -> People:
    """The people of a photo as the later experts see them, from the entries of the earlier ones."""
    detected = entries["detector"]
    n = len(detected.arrays["boxes"])
    keypoints, camera, segmenter = (entries.get(cue) for cue in ("keypoints", "camera", "segmenter"))
    outlines = segmenter.arrays if segmenter else {}
    return People(
        boxes=detected.arrays["boxes"].reshape(n, 4),
        ids=list(detected.texts["ids"]),
        masks=masks_of(segmenter, n, size),
        keypoints=keypoints.arrays.get("keypoints") if keypoints else None,
        intrinsics=camera.arrays.get("intrinsics") if camera else None,
        detected_keypoints=detected.arrays.get("keypoints"),
        landmarks=outlines.get("landmarks"),
        world_landmarks=outlines.get("world_landmarks"),
    )


def masks_of(entry: Entry | None, n: int, size: tuple[int, int]) -> np.ndarray | None:
    """(n, H, W) masks of an entry of the segmenter; None without one."""
    if entry is None or entry.error or not n:
        return None
    folded = codecs.FoldedMasks(*(entry.arrays[name] for name in ("mask_size", "mask_runs", "mask_counts")))
    codecs.check_masks(folded, n, size, "segmenter")
    return codecs.unfold_masks(folded, size)


def start_of(entry: Entry) -> BodyParameters:
    """Initial bodies; NaN rows where there are none."""
    return BodyParameters(**{name: entry.arrays[name] for name in _BODY})


def empty(cue: str, photo: Photo) -> Entry:
    """The entry of a photo without people, for a cue that is about people."""
    assert cue in NEEDS_PEOPLE
    return Entry(photo.name)


def ask(
    cue: str,
    expert: Any,
    photos: Sequence[Photo],
    people: Sequence[People | None],
    depths: Sequence[np.ndarray | None],
) -> list[Any]:
    """One call of an expert about several photos. Raises SceneError where it does not answer once per photo."""
    match cue:
        case "detector":
            answers = expert.detect(photos)
        case "depth":
            answers = expert.depth(photos)
        case "camera":
            answers = expert.intrinsics(photos, depths)
        case "segmenter":
            answers = expert.segment(photos, people)
        case _:
            answers = getattr(expert, cue)(photos, people)
    answers = list(answers)
    if len(answers) != len(photos):
        raise SceneError(f"{cue}: expected {len(photos)} answers, one per photo, got {len(answers)}")
    return answers
