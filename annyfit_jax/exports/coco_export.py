"""One COCO keypoints JSON of the fitted people: `images`, `annotations`, `categories`, as pycocotools and
`inputs.coco_annotations` read.

Standard fields hold what the fit was given: `keypoints` in pixels with COCO's flag (2 = seen, 0 = not), `bbox` around the seen
keypoints, `area` of that box (there is no outline), `iscrowd` 0. On top of them, under names COCO does not use:

| where | field | meaning |
|---|---|---|
| image | `intrinsics` | (3, 3) pixels |
| annotation | `person_id` | the input's name of the person; `id` is a running number |
| | `keypoint_confidences` | 17 confidences of the detector, for which COCO's flags have no room |
| | `age`, `gender` | anchors of the words that the fit was given, absent where it had none |
| | `anny` | `status` and the fields of `SceneFit` that are exported (`Fact.exported`); metres and radians in camera axes |
| `info` | `anny` | names of bones and phenotypes, axes and units |

Numbers of `anny` are rounded to a millionth of a radian or metre. People without a fit have no annotation, scenes without one
no image. Images are written at once; annotations are kept in a file of their own until the images are complete.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from annyfit_jax.exports import exported_people
from annyfit_jax.people.fitted import FACTS, SceneFit
from annyfit_jax.people.scene import COCO17
from annyfit_jax.records.files import replacing, temporary_name

SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11), (2, 3),
    (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)  # fmt: skip
"""COCO's own: pairs of keypoints, counted from 1."""
_CATEGORY = {
    "id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO17), "skeleton": [list(p) for p in SKELETON],
}  # fmt: skip


_NUMBER = re.compile(rb'{"id":\d+,')
_IMAGE = re.compile(rb'{"id":\d+,"image_id":(\d+),')
"""How an image and an annotation begin."""


class Written(NamedTuple):
    """What a file holds."""

    images: int
    annotations: int


def write_coco(fits: Iterable[SceneFit], path: str | Path, *, image_root: str | Path | None = None) -> Written:
    """Writes the file.

    Args:
      image_root: folder that `file_name` is relative to; a photo elsewhere, or without it, is named by its file name alone.

    Raises OSError; errors of `fits` pass through.
    """
    path = Path(path)
    images = annotations = 0
    info: dict[str, Any] = {"description": "Bodies fitted by annyfit-jax", "version": "1.0"}
    with replacing(path) as temporary, ExitStack() as stack:
        aside = temporary_name(path)
        stack.callback(aside.unlink, missing_ok=True)
        with temporary.open("w") as file, aside.open("w") as waiting:
            file.write('{"images": [')
            for fit in fits:
                rows = np.flatnonzero(fit.ok)
                if not len(rows):
                    continue
                images += 1
                file.write((",\n" if images > 1 else "\n") + _dump(image_entry(fit, images, image_root)))
                if images == 1:
                    info["anny"] = _facts(fit)
                boxes = exported_people.boxes(fit)
                for row in rows:
                    annotations += 1
                    entry = annotation_entry(fit, int(row), annotations, images, boxes[row])
                    waiting.write((",\n" if annotations > 1 else "\n") + _dump(entry))
            file.write('\n],\n"annotations": [')
        with temporary.open("ab") as file:
            with aside.open("rb") as waiting:
                shutil.copyfileobj(waiting, file)
            file.write(f'\n],\n"categories": [{_dump(_CATEGORY)}],\n"info": {_dump(info)}\n}}\n'.encode())
    return Written(images, annotations)


def join_coco(parts: Sequence[Path], path: str | Path) -> Written:
    """One file of several that `write_coco` wrote, as it would write the scenes of all: entries are numbered on.

    An entry is a line, so that no more than one is in memory.
    """
    path = Path(path)
    images, annotations, end = 0, 0, b""
    with path.open("wb") as file, tempfile.TemporaryFile() as waiting:
        file.write(b'{"images": [')
        for part in parts:
            first_image, in_images = images, True
            with part.open("rb") as lines:
                for line in lines:
                    entry = line.rstrip(b",\n")
                    if entry.startswith(b'"annotations": ['):
                        in_images = False
                    elif entry.startswith(b'{"id":') and in_images:
                        images += 1
                        file.write(
                            (b",\n" if images > 1 else b"\n") + _NUMBER.sub(b'{"id":%d,' % images, entry, count=1)
                        )
                    elif entry.startswith(b'{"id":'):
                        annotations += 1
                        image = first_image + int(_IMAGE.match(entry)[1])  # pyright: ignore[reportOptionalSubscript]
                        text = _IMAGE.sub(b'{"id":%d,"image_id":%d,' % (annotations, image), entry, count=1)
                        waiting.write((b",\n" if annotations > 1 else b"\n") + text)
                    elif entry.startswith(b'"info": ') and (not end or not first_image):
                        end = entry
        file.write(b'\n],\n"annotations": [')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file)
        file.write(f'\n],\n"categories": [{_dump(_CATEGORY)}],\n'.encode() + end + b"\n}\n")
    return Written(images, annotations)


def image_entry(fit: SceneFit, number: int, image_root: str | Path | None = None) -> dict[str, Any]:
    """An entry of `images`; a scene without a photo is named by the scene."""
    width, height = (int(side) for side in fit.image_size)
    return {
        "id": number,
        "file_name": photo_name(fit, image_root),
        "width": width,
        "height": height,
        "intrinsics": _rounded(fit.K),
    }


def photo_name(fit: SceneFit, image_root: str | Path | None = None) -> str:
    """The photo's path relative to a folder, its file name where it is not in there, the scene's name where there is none."""
    if not fit.image_path:
        return fit.name
    path = Path(fit.image_path)
    if image_root is not None and path.absolute().is_relative_to(Path(image_root).absolute()):
        return path.absolute().relative_to(Path(image_root).absolute()).as_posix()
    return path.name


def annotation_entry(fit: SceneFit, row: int, number: int, image: int, box: np.ndarray) -> dict[str, Any]:
    """An entry of `annotations` for a fitted person; `box` as of `exported_people.boxes`."""
    seen = exported_people.seen(fit)[row]
    points = np.round(np.where(seen[:, None], fit.keypoints_2d[row, :, :2], 0.0).astype(np.float64), 3).tolist()
    x0, y0, x1, y1 = (exported_people.number(side, 3) or 0.0 for side in box)
    words = {"age": float(fit.age_word[row]), "gender": float(fit.gender_word[row])}
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "person_id": str(fit.person_ids[row]),
        "iscrowd": 0,
        "bbox": [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)],
        "area": round((x1 - x0) * (y1 - y0), 3),
        "num_keypoints": int(seen.sum()),
        "keypoints": [number for (x, y), known in zip(points, seen) for number in (x, y, 2 if known else 0)],
        "keypoint_confidences": _rounded(np.where(seen, fit.keypoints_2d[row, :, 2], 0.0)),
        **{name: round(anchor, 6) for name, anchor in words.items() if anchor >= 0},
        "anny": {
            **{fact.exported: _rounded(getattr(fit, name)[row]) for name, fact in FACTS.items() if fact.exported},
            "status": str(fit.status[row]),
        },
    }


def _facts(fit: SceneFit) -> dict[str, Any]:
    return {
        "bone_labels": [str(label) for label in fit.bone_labels],
        "phenotype_labels": [str(label) for label in fit.phenotype_labels],
        "frame": fit.frame,
        "asset_version": fit.asset_version,
    }


def _rounded(values: Any) -> Any:
    """Nested lists of numbers, null for NaN."""
    array = np.round(np.asarray(values, np.float64), 6)
    if np.isfinite(array).all():
        return array.tolist()
    return None if array.ndim == 0 else [_rounded(value) for value in array]


def _dump(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False, separators=(",", ":"))
