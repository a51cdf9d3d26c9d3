"""Flags that say what to read, shared by every program that reads scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from absl import flags

from annyfit_jax.people.scene import DEFAULT_FOV_DEGREES
from experiments import program

if TYPE_CHECKING:
    from annyfit_jax.inputs import SceneSource

FLAGS = flags.FLAGS
_OPTIONAL = ("images", "calibration", "skeleton", "words", "depth", "masks", "hand_labels", "hand_depth")


def define_flags() -> tuple[flags.FlagHolder, ...]:
    """`--input` and what belongs to it."""
    return (
        flags.DEFINE_string(
            "input", None, "Scenes: folder of .npz, COCO .json, keypoints of OpenPose, MMPose, Ultralytics or MediaPipe, "
            "an official preprocessing folder, or a cue dataset.",
        ),
        flags.DEFINE_string("images", None, "Folder of the photos (COCO input, keypoint files)."),
        flags.DEFINE_string("calibration", None, "Camera file: OpenCV YAML, Pose2Sim TOML, Qualisys (not for scenes)."),
        flags.DEFINE_string("skeleton", None, "Which points the keypoints are, e.g. body_25, where the input does not say."),
        flags.DEFINE_string("image_size", None, "WIDTHxHEIGHT of pictures that are not there (keypoint files)."),
        flags.DEFINE_float("fov", DEFAULT_FOV_DEGREES, "Field of view of the longest image side, degrees, where K is unknown."),
        flags.DEFINE_string("words", None, "JSON file of age and gender words per annotation id (COCO input)."),
        flags.DEFINE_string("depth", None, "Folder of depth maps, <stem>.npy, .npz or 16-bit .png in mm (COCO input)."),
        flags.DEFINE_string("masks", None, "Folder of label images <stem>.png (COCO input)."),
        flags.DEFINE_bool("hand_labels", False, "Use hand labels of age and gender where there are no words (COCO)."),
        flags.DEFINE_bool("hand_depth", False, "Use hand-labelled depth layers as the ranking cue (COCO)."),
        flags.DEFINE_enum(
            "translation", "pelvis", ["pelvis", "head"],
            "Multi-HMR translation to read; `head` repeats the release (official).",
        ),
    )  # fmt: skip


def input_options() -> dict[str, Any]:
    """The flags as options of `open_input`; flags at their default are left out, except field of view and translation."""
    chosen = {name: FLAGS[name].value for name in _OPTIONAL if FLAGS[name].value}
    if FLAGS.image_size:
        chosen["image_size"] = _size(FLAGS.image_size)
    return {"fov_degrees": FLAGS.fov, "translation": FLAGS.translation, **chosen}


def refuse_for_photos() -> None:
    """Raises ValueError for flags about scenes where experts look at photos."""
    about_scenes = ("skeleton", "image_size", "words", "depth", "masks", "hand_labels", "hand_depth", "translation")
    program.refuse_given(about_scenes, "for keypoints and other scenes, not for photos that experts look at")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ValueError(f"--image_size: expected WIDTHxHEIGHT in pixels, e.g. 1920x1080, got {text!r}")
    return int(width), int(height)


def open_from_flags(**options: Any) -> SceneSource:
    """Opens --input; `options` are added to those of the flags. Raises SceneError."""
    from annyfit_jax.inputs import open_input

    return open_input(FLAGS.input, **input_options(), **options)
