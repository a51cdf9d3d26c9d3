"""Experts by name: the built-in ones, and anybody's own as `module:Class`.

    expert = create("detector", "rtdetr")
    expert = create("keypoints", "my_package.my_module:MyKeypoints")

An expert that is a dataclass has its fields as options (`--set=detector.threshold=0.3`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from annyfit_jax.records.settings import apply_overrides
from experts.interfaces import METHODS, Card, Expert, ExpertError
from experts.people_rules import Rules

_ADAPTERS = "experts.adapters."
BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "detector": {
        "nanodet": "small_networks:NanoDetPeople",
        "rtdetr": "detectors:RtDetr",
        "dfine": "detectors:DFine",
        "grounding_dino": "detectors:GroundingDino",
        "coco": "coco_file:CocoDetector",
    },
    "segmenter": {
        "blazepose": "small_networks:BlazePoseOutlines",
        "sam2": "sam2:Sam2",
        "coco": "coco_file:CocoSegmenter",
        "folder": "folders:MaskFolder",
    },
    "keypoints": {
        "movenet": "small_networks:MoveNetKeypoints",
        "whole_body": "small_networks:WholeBodyKeypoints",
        "vitpose": "vitpose:VitPose",
        "coco": "coco_file:CocoKeypoints",
    },
    "dense": {"folder": "folders:DenseFolder"},
    "depth": {
        "depth_anything": "depth:DepthAnything",
        "depth_pro": "depth:DepthPro",
        "unidepth": "depth:UniDepth",
        "folder": "folders:DepthFolder",
    },
    "camera": {
        "fov": "cameras:FieldOfView",
        "exif": "cameras:ExifFocal",
        "depth": "cameras:FromDepth",
        "calibration": "cameras:CalibrationFile",
        "coco": "coco_file:CocoCamera",
    },
    "words": {"qwen_vl": "qwen_vl:QwenVl", "http": "http_vlm:HttpVlm", "coco": "coco_file:CocoWords"},
    "start": {
        "multihmr": "multihmr_start:MultiHmr",
        "multihmr_files": "start_files:MultiHmrFiles",
        "camerahmr_files": "start_files:CameraHmrFiles",
    },
}
"""Cue -> name -> module and class below `experts.adapters`."""

SETS: Mapping[str, Mapping[str, str]] = {
    "default": {"detector": "nanodet", "segmenter": "blazepose", "keypoints": "movenet", "camera": "exif"},
    "whole_body": {"detector": "nanodet", "segmenter": "blazepose", "keypoints": "whole_body", "camera": "exif"},
    "large": {
        "detector": "rtdetr", "segmenter": "sam2", "keypoints": "vitpose", "depth": "depth_anything", "camera": "fov",
        "words": "qwen_vl",
    },
    "server": {
        "detector": "rtdetr", "segmenter": "sam2", "keypoints": "vitpose", "depth": "depth_anything", "camera": "fov",
        "words": "http",
    },
    "none": {"camera": "fov"},
}  # fmt: skip
"""What --experts may name: cue -> expert; all but `none` allow commercial use.

`default` comes with the installation, and so does `whole_body`, which finds hands, faces and feet too; `large` needs PyTorch,
`transformers` and checkpoints; `server` is `large` with words from an HTTP server.
"""
NONE = "none"
"""No expert for a cue: it stays unknown."""


@dataclass(frozen=True)
class ExpertSet:
    """The experts of a run, and the rules for people; one without a model is None."""

    detector: Any = None
    segmenter: Any = None
    keypoints: Any = None
    dense: Any = None
    depth: Any = None
    camera: Any = None
    words: Any = None
    start: Any = None
    people: Rules = field(default_factory=Rules)

    def items(self) -> list[tuple[str, Expert]]:
        """(cue, expert) in the order in which they run."""
        return [(cue, expert) for cue in METHODS if (expert := getattr(self, cue)) is not None]


def create(cue: str, name: str, **options: Any) -> Expert:
    """The expert `name` for a cue; nothing is loaded yet. Raises ExpertError naming what there is."""
    known = BUILT_IN[cue]
    target = _ADAPTERS + known[name] if name in known else name
    module_name, _, class_name = target.partition(":")
    if not class_name:
        raise ExpertError(f"{cue}: no expert {name!r}; there are {', '.join(known)}, or your own as module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise ExpertError(f"{cue}: {name}: importing {module_name} failed ({error})") from error
        raise ExpertError(
            f"{cue}: no module {module_name}; run from the folder that holds it, or set PYTHONPATH"
        ) from None
    kind = getattr(module, class_name, None)
    if kind is None:
        raise ExpertError(f"{cue}: {module_name} has no {class_name}")
    try:
        expert = kind(**options)
    except TypeError as error:
        raise ExpertError(f"{cue}: {name}: {error}") from error
    check(cue, name, expert)
    return expert


def check(cue: str, name: str, expert: Any) -> None:
    """Raises ExpertError unless the object offers what an expert for the cue must."""
    wanted = ("card", "load", "close", METHODS[cue])
    missing = [entry for entry in wanted if not hasattr(expert, entry)]
    if missing:
        raise ExpertError(f"{cue}: {name}: lacks {', '.join(missing)} (experts/interfaces.py says what they do)")
    if not isinstance(expert.card, Card):
        raise ExpertError(f"{cue}: {name}: card: expected an experts.interfaces.Card, got {type(expert.card).__name__}")


def build(experts: str, assignments: list[str] | tuple[str, ...] = ()) -> ExpertSet:
    """The experts of a set, changed by assignments.

    `cue=name` chooses an expert (`none` = none), `cue.option=value` sets one of its options, `people.rule=value` a rule.
    Choices are made before options are set. Raises ExpertError or ValueError naming what there is.
    """
    if experts not in SETS:
        raise ExpertError(f"--experts={experts}: expected one of {', '.join(SETS)}")
    names = dict(SETS[experts])
    options = []
    for assignment in assignments:
        path, separator, value = assignment.partition("=")
        if not separator:
            raise ExpertError(f"--set={assignment}: expected cue=expert or cue.option=value")
        cue = path.partition(".")[0]
        if cue != "people" and cue not in METHODS:
            raise ExpertError(
                f"--set={assignment}: no cue {cue!r}; there are {', '.join(METHODS)}, and the rules people"
            )
        if "." in path:
            options.append(assignment)
        else:
            names[cue] = value
    made = {cue: create(cue, name) for cue, name in names.items() if name != NONE}
    for assignment in options:
        cue = assignment.partition(".")[0]
        if cue != "people" and cue not in made:
            raise ExpertError(f"--set={assignment}: there is no expert for {cue}; choose one with --set={cue}=NAME")
        if cue != "people" and not is_dataclass(made[cue]):
            raise ExpertError(f"--set={assignment}: {type(made[cue]).__name__} is not a dataclass and has no options")
        option = assignment.partition("=")[0].split(".")[1]
        holder: Any = Rules if cue == "people" else made[cue]
        known = [f.name for f in fields(holder) if f.init]
        if option not in known:
            owner = "people" if cue == "people" else type(made[cue]).__name__
            raise ExpertError(f"--set={assignment}: {owner} has no option {option!r}; there are {', '.join(known)}")
    options = [_quoted(assignment, made) for assignment in options]
    return apply_overrides(ExpertSet(**made), options)  # pyright: ignore[reportArgumentType, reportReturnType]


def _quoted(assignment: str, made: Mapping[str, Any]) -> str:
    """The assignment with the value of a text option in quotes: a commit such as 12345 is no number."""
    path, _, value = assignment.partition("=")
    cue, _, option = path.partition(".")
    return f"{path}={value!r}" if isinstance(getattr(made.get(cue), option, None), str) else assignment


def options_of(expert: Any) -> dict[str, Any]:
    """The options of an expert as JSON data: what decides its answers besides its card.

    Fields with `metadata={"decides": False}` are left out; `fingerprint()`, where an expert has it, is added.
    """
    extra = {"fingerprint": expert.fingerprint()} if hasattr(expert, "fingerprint") else {}
    if not is_dataclass(expert):
        return extra
    decisive = [f.name for f in fields(expert) if f.init and f.metadata.get("decides", True)]
    return {name: _plain(getattr(expert, name)) for name in decisive} | extra


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def check_licences(experts: ExpertSet, allow_noncommercial: bool) -> None:
    """Raises ExpertError where an expert's licence does not allow commercial use and the user has not said that it may."""
    closed = [(cue, expert.card) for cue, expert in experts.items() if not expert.card.commercial]
    if closed and not allow_noncommercial:
        names = "; ".join(
            f"{cue} {card.expert} ({card.checkpoint}): {card.licence or 'not stated'}" for cue, card in closed
        )
        raise ExpertError(
            f"licences that do not allow commercial use, or are not stated: {names}. Give --allow_noncommercial if your use "
            "is allowed by them, or state a licence you know with --set=CUE.licence=NAME"
        )
