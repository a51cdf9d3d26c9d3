"""Flags that say what to read, shared by every program that reads scenes."""

from __future__ import annotations

from typing import Any

from absl import app, flags

from annyfit_jax.inputs import SceneSource, open_input
from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES

INPUT = flags.DEFINE_string(
    "input", None, "Scenes: folder of .npz, COCO .json, an official preprocessing folder, or a cue dataset."
)
IMAGES = flags.DEFINE_string("images", None, "Folder of the photos (COCO input).")
FOV = flags.DEFINE_float(
    "fov", DEFAULT_FOV_DEGREES, "Field of view of the longest image side, degrees, where K is unknown."
)
WORDS = flags.DEFINE_string("words", None, "JSON file of age and gender words per annotation id (COCO input).")
DEPTH = flags.DEFINE_string("depth", None, "Folder of depth maps, <stem>.npy, .npz or 16-bit .png in mm (COCO input).")
MASKS = flags.DEFINE_string("masks", None, "Folder of label images <stem>.png (COCO input).")
HAND_LABELS = flags.DEFINE_bool(
    "hand_labels", False, "Use hand labels of age and gender where there are no words (COCO)."
)
HAND_DEPTH = flags.DEFINE_bool("hand_depth", False, "Use hand-labelled depth layers as the ranking cue (COCO).")
TRANSLATION = flags.DEFINE_enum(
    "translation", "pelvis", ["pelvis", "head"], "Multi-HMR translation to read; `head` repeats the release (official)."
)


def input_options() -> dict[str, Any]:
    """The flags as options of `open_input`; flags at their default are left out, except field of view and translation."""
    optional = {
        "images": IMAGES.value,
        "words": WORDS.value,
        "depth": DEPTH.value,
        "masks": MASKS.value,
        "hand_labels": HAND_LABELS.value,
        "hand_depth": HAND_DEPTH.value,
    }
    chosen = {name: value for name, value in optional.items() if value}
    return {"fov_degrees": FOV.value, "translation": TRANSLATION.value, **chosen}


def open_from_flags(**options: Any) -> SceneSource:
    """Opens --input; `options` are added to those of the flags. Raises UsageError without --input, SceneError."""
    if not INPUT.value:
        raise app.UsageError("--input is missing")
    return open_input(INPUT.value, **input_options(), **options)
