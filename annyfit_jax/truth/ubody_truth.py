"""UBody: SMPL-X parameters and a camera per annotated person, in the layout of its makers.

| file under the root | what is read |
|---|---|
| `annotations/<scene>/keypoint_annotation.json` | COCO whole-body: `images` (`file_name`, `width`, `height`), `annotations` (`id`, `image_id`, `iscrowd`, `num_keypoints`, `valid_label`) |
| `annotations/<scene>/smplx_annotation.json` | {annotation id: {`smplx_param`, `cam_param`}} |
| `splits/intra_scene_test_list.npy` | names of the test videos |

`smplx_param`: `root_pose` (3), `body_pose` (63), `lhand_pose`, `rhand_pose` (45, relative to the mean hand), `jaw_pose` (3), `shape` (10), `expr`
(10), `trans` (3), in camera axes; `cam_param`: `focal` (2), `princpt` (2). Crowds, people without keypoints and those with `valid_label` 0 are left out. A
person is called `<scene>-<video>-<picture>-<annotation id>`; fits may also be called by video and picture, or by the picture alone. Only
vertices inside the picture count. A HumanData `.npz`, or a folder of them, is read by `humandata_truth`.
"""  # noqa: E501 (table rows)

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from annyfit_jax.inputs.coco_annotations import read_json
from annyfit_jax.inputs.validate import checked_image_size
from annyfit_jax.metrics.people_of_image import TruthPeople
from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth import humandata_truth
from annyfit_jax.truth.smplx_parts import read_npy
from annyfit_jax.truth.smplx_truth import OfficialParameters, SmplxPoser, flat_numbers, joint_regressor, one_person
from annyfit_jax.truth.truth_source import TruthOptions, TruthSource

_KEYS = {
    "global_orient": ("root_pose", 3), "body_pose": ("body_pose", 63), "betas": ("shape", 10), "transl": ("trans", 3),
    "left_hand_pose": ("lhand_pose", 45), "right_hand_pose": ("rhand_pose", 45), "jaw_pose": ("jaw_pose", 3),
    "expression": ("expr", 10),
}  # fmt: skip
"""Key and size of each official parameter."""
_NOT_NEEDED = ("lhand_pose", "rhand_pose", "jaw_pose", "expr")
"""Parts that some people lack: zero there."""


class _Person(NamedTuple):
    scene: str
    file: str
    annotation: dict
    image: dict
    parameters: Mapping[str, Any]
    camera: Mapping[str, Any]


def open_source(path: Path, options: TruthOptions) -> TruthSource:
    """The annotated people of a UBody root, of one `annotations/<scene>` folder, or of HumanData files."""
    if path.suffix == ".npz" or (path.is_dir() and not (path / "annotations").is_dir() and any(path.glob("*.npz"))):
        return humandata_truth.open_source(path, options, only_inside=True)
    folders = [path] if (path / "smplx_annotation.json").is_file() else sorted((path / "annotations").glob("*/"))
    folders = [folder for folder in folders if (folder / "smplx_annotation.json").is_file()]
    if not folders:
        raise SceneError(f"{path}: no UBody annotations; looked for annotations/<scene>/smplx_annotation.json")
    regressor = joint_regressor(options.smplx)
    people = [person for folder in folders for person in _people(folder)]
    notes = []
    listed = path / "splits" / "intra_scene_test_list.npy"
    if options.split == "test" and listed.is_file():
        test = {str(name) for name in read_npy(listed).ravel()}
        people = [person for person in people if _video(person) in test]
    elif options.split == "test":
        notes.append("no splits/intra_scene_test_list.npy: all videos are judged")
    names = [_name(person) for person in people]
    poser = SmplxPoser(options.smplx)

    def load(index: int) -> TruthPeople:
        person = people[index]
        where = f"{person.file}: {person.annotation['id']}"
        size = checked_image_size([person.image.get("width"), person.image.get("height")], f"{where}: width, height")
        focal, centre = (flat_numbers(person.camera, key, 2, f"{where}: cam_param") for key in ("focal", "princpt"))
        intrinsics = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1.0]])
        picture = PurePosixPath(person.image["file_name"]).stem
        vertices = poser.vertices(_parameters(person.parameters, f"{where}: smplx_param"), where)
        return one_person(
            names[index], vertices, regressor, intrinsics,
            image_size=size, only_inside=True, group=person.scene, aliases=(f"{_video(person)}-{picture}", picture),
        )  # fmt: skip

    return TruthSource(tuple(names), load, str(path), tuple(notes))


def _people(folder: Path) -> list[_Person]:
    keypoints, meshes = folder / "keypoint_annotation.json", folder / "smplx_annotation.json"
    content, parameters = read_json(str(keypoints)), read_json(str(meshes))
    lists = [content.get(key) for key in ("images", "annotations")] if isinstance(content, dict) else [None]
    if not all(isinstance(x, list) and all(isinstance(entry, dict) and "id" in entry for entry in x) for x in lists):
        raise SceneError(f"{keypoints}: images, annotations: expected lists of objects with an id")
    if not isinstance(parameters, dict):
        raise SceneError(f"{meshes}: expected an object {{annotation id: parameters}}")
    images = {image["id"]: image for image in lists[0] or []}
    out = []
    for annotation in lists[-1] or []:
        entry = parameters.get(str(annotation["id"]))
        left_out = (
            annotation.get("iscrowd") or not annotation.get("num_keypoints") or annotation.get("valid_label") == 0
        )
        if left_out or entry is None:
            continue
        where = f"{meshes}: {annotation['id']}"
        parameters_of, camera = (
            entry.get(key) if isinstance(entry, dict) else None for key in ("smplx_param", "cam_param")
        )
        if not isinstance(parameters_of, dict) or not isinstance(camera, dict):
            raise SceneError(f"{where}: expected the objects smplx_param and cam_param")
        image = images.get(annotation.get("image_id"))
        if image is None or not isinstance(image.get("file_name"), str):
            raise SceneError(
                f"{keypoints}: annotation {annotation['id']}: image_id: names no listed image with a file_name"
            )
        out.append(_Person(folder.name, str(meshes), annotation, image, parameters_of, camera))
    return out


def _video(person: _Person) -> str:
    """Folder of the picture, without the part of a trimmed video."""
    return PurePosixPath(person.image["file_name"].lstrip("/")).parent.name.split("_Trim")[0]


def _name(person: _Person) -> str:
    path = PurePosixPath(person.image["file_name"].lstrip("/"))
    return f"{person.scene}-{path.parent.name}-{path.stem}-{person.annotation['id']}"


def _parameters(source: Mapping[str, Any], where: str) -> OfficialParameters:
    values = {
        name: np.zeros(size)
        if key in _NOT_NEEDED and source.get(key) is None
        else flat_numbers(source, key, size, where)
        for name, (key, size) in _KEYS.items()
    }
    return OfficialParameters(**values)
