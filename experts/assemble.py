"""From the experts' stored answers to scenes: who is kept, median depths, words, starts, and what it all depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from annyfit_jax.inputs import masks as masks_io
from annyfit_jax.inputs.calibrated_scene import calibrated
from annyfit_jax.inputs.cue_dataset import SetAside
from annyfit_jax.inputs.photos import photo_size
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES, NUM_DENSE, UNKNOWN_WORD, BodyParameters, Scene, SceneError
from experts import expert_cues, expert_store
from experts.adapters.cameras import CalibrationFile
from experts.expert_store import Entry
from experts.people_rules import DUPLICATE, Rules, reasons_to_skip
from experts.pipeline import Stages

REQUIRED = ("detector", "keypoints", "camera")
"""A photo without one of these is set aside; without another cue it is a scene in which that cue is unknown."""


def scenes(stages: Stages, indices: Sequence[int]) -> Iterator[Scene | SetAside]:
    """The scenes of the photos of a unit, each when its turn comes."""
    notes = [licence_note(stages)]
    with ExitStack() as stack:
        opened = {cue: stack.enter_context(expert_store.open_unit(stages.path(cue, indices))) for cue in stages.keys}
        for position, index in enumerate(indices):
            entries = {cue: file.entry(position) for cue, file in opened.items()}
            name, path = stages.collection.names[index], stages.collection.paths[index]
            try:
                scene = scene_of(name, path, entries, stages.experts.people, notes)
                camera = stages.experts.camera
                if isinstance(camera, CalibrationFile):
                    scene = calibrated(scene, scene.intrinsics, camera.lens_of(stages.collection.files[index]))
                yield scene
            except SceneError as error:
                yield SetAside(name, str(error))


def licence_note(stages: Stages) -> str:
    """Goes into the notes of every scene, and with them into every fit."""
    by_licence: dict[str, list[str]] = {}
    for cue in stages.keys:
        card = stages.card(cue)
        if card.checkpoint or card.licence:
            by_licence.setdefault(card.licence or "not stated", []).append(cue)
    return "licences of the cues: " + ("; ".join(f"{k} ({', '.join(v)})" for k, v in by_licence.items()) or "none")


def provenance(stages: Stages) -> dict[str, Any]:
    """What the records say about where their cues come from."""
    cards = {cue: stages.card(cue) for cue in stages.keys}
    licences = sorted({card.licence or "not stated" for card in cards.values() if card.checkpoint or card.licence})
    words = stages.experts.words
    attributes = getattr(words, "asked", getattr(words, "attributes", ()))
    return {
        "cues": {cue: card.to_json() for cue, card in cards.items()},
        "licences": licences,
        "commercial": all(card.commercial for card in cards.values()),
        "word_classes": {a.name: dict(a.anchors) for a in attributes},
    }


def scene_of(name: str, path: str, entries: dict[str, Entry], rules: Rules, notes: list[str]) -> Scene:
    """The scene of one photo. Raises SceneError with the reason for which the photo is set aside."""
    for cue in REQUIRED:
        if cue in entries and entries[cue].error:
            blocked = entries[cue].blocked
            raise SceneError(entries[cue].error if blocked else f"{cue}: {entries[cue].error}")
    size = photo_size(path)
    usable = {cue: entry for cue, entry in entries.items() if not entry.error}
    notes = [*notes, *(f"{cue}: none ({entry.error})" for cue, entry in entries.items() if entry.error)]
    people = expert_cues.people_of(usable, size)
    detected = usable["detector"]
    skipped = [(str(person), str(reason)) for person, reason in detected.texts["skipped"]]
    if not len(people):
        raise SceneError("no people" + "".join(f"; {person}: {reason}" for person, reason in skipped[:3]))
    assert people.keypoints is not None and people.intrinsics is not None
    reasons = reasons_to_skip(people.keypoints, people.boxes, people.ids, rules, people.masks)
    skipped += [(people.ids[i], reason) for i, reason in sorted(reasons.items())]
    kept = np.array([i for i in range(len(people)) if i not in reasons], int)
    if not len(kept):
        raise SceneError(
            "nobody to fit" + "".join(f"; {people.ids[i]}: {reason}" for i, reason in sorted(reasons.items())[:3])
        )

    depth_map = expert_cues.depth_of(usable["depth"], size) if "depth" in usable else None
    masks = None if people.masks is None else people.masks[kept]
    anchors, extra = _words(usable.get("words"), kept)
    if people.keypoints.shape[1] == 133:
        extra["keypoints_133"] = people.keypoints[kept]
    extra["detection_scores"] = detected.arrays["scores"][kept]
    if people.landmarks is not None and people.world_landmarks is not None:
        extra |= {"landmarks": people.landmarks[kept], "world_landmarks": people.world_landmarks[kept]}
    start = _start(usable.get("start"), kept, people.ids, notes)
    estimated = usable["depth"].arrays.get("intrinsics") if "depth" in usable else None
    if estimated is not None and np.array_equal(people.intrinsics, estimated):
        notes.append("intrinsics: estimated by the depth expert")
    elif np.array_equal(people.intrinsics, intrinsics_from_fov(size, DEFAULT_FOV_DEGREES)):
        notes.append(
            f"intrinsics: a field of view of {DEFAULT_FOV_DEGREES:g} degrees, for nothing tells the focal length"
        )
    return Scene(
        name=name,
        image_size=size,
        intrinsics=people.intrinsics,
        keypoints=people.keypoints[kept, :17],
        keypoint_convention="coco",
        dense_keypoints=usable["dense"].arrays["dense"][kept]
        if "dense" in usable
        else np.zeros((len(kept), NUM_DENSE, 3)),
        median_depth=_medians(depth_map, people.masks, kept, [i for i in reasons if reasons[i].startswith(DUPLICATE)]),
        depth_layer=np.full(len(kept), -1, np.int64),
        age=anchors["age"],
        gender=anchors["gender"],
        start=start,
        person_ids=[people.ids[i] for i in kept],
        boxes=people.boxes[kept],
        masks=masks,
        depth_map=depth_map,
        image_path=path,
        skipped=skipped,
        notes=notes,
        extra=extra,
    )


def _medians(
    depth_map: np.ndarray | None, masks: np.ndarray | None, kept: np.ndarray, nobody: Sequence[int] = ()
) -> np.ndarray:
    """(n,) median depth inside each eroded mask where no other mask lies, of anybody detected but duplicates (`nobody`);
    NaN = unknown.
    """
    medians = np.full(len(kept), np.nan)
    if depth_map is None or masks is None:
        return medians
    for row, person in enumerate(kept):
        rows, columns = np.flatnonzero(masks[person].any(1)), np.flatnonzero(masks[person].any(0))
        if not len(rows):
            continue
        # Only the surroundings of the person: a crowd in a large photo would take a minute otherwise.
        margin = masks_io.EROSION_PX + 1
        window = (
            slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin),
            slice(max(columns[0] - margin, 0), columns[-1] + 1 + margin),
        )
        near = masks[:, *window]
        others = near[np.setdiff1d(np.arange(len(masks)), [person, *nobody])]
        depth = depth_map[window].astype(np.float64)
        (medians[row],) = masks_io.median_depths(depth, near[person : person + 1], others)
    return medians


def _words(entry: Entry | None, kept: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Age and gender anchors, and what else is known, as `Scene.extra`."""
    unknown = np.full(len(kept), UNKNOWN_WORD)
    anchors = {"age": unknown, "gender": unknown}
    extra: dict[str, Any] = {}
    if entry is None:
        return anchors, extra
    for key, values in entry.arrays.items():
        kind, _, name = key.partition("/")
        if kind == "anchors" and name in anchors:
            anchors[name] = values[kept]
        elif kind == "anchors":
            extra[f"anchor_{name}"] = values[kept]
        else:
            extra[f"probabilities_{name}"] = values[kept]
    for name, words in entry.texts["words"].items():
        chosen = [str(words[i]) for i in kept]
        extra[f"{name}_words"] = chosen if name in anchors else np.array(chosen)
    answers = entry.texts.get("answers") or []
    if any(answers):
        extra["answers"] = np.array([str(answers[i]) for i in kept])
    return anchors, extra


def _start(entry: Entry | None, kept: np.ndarray, ids: list[str], notes: list[str]) -> BodyParameters | None:
    """Initial bodies of the people kept. One without any stands at the camera, from where the fit takes the keypoint start."""
    if entry is None:
        return None
    bodies = expert_cues.start_of(entry).select(kept)
    parts = [bodies.root_rotvec, bodies.transl, bodies.pose.reshape(len(kept), -1), bodies.shape]
    has_start = np.asarray(np.isfinite(np.concatenate(parts, axis=1)).all(axis=1))
    if not has_start.any():
        notes.append("start: none for anybody")
        return None
    if not has_start.all():
        lost = ", ".join(ids[i] for i, ok in zip(kept, has_start, strict=True) if not ok)
        notes.append(f"start: none for person {lost}, who starts from the keypoints")
    zero = lambda values: np.where(has_start.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)  # noqa: E731
    shape = np.where(has_start[:, None], bodies.shape, 0.5)
    return BodyParameters(zero(bodies.root_rotvec), zero(bodies.transl), zero(bodies.pose), shape)
