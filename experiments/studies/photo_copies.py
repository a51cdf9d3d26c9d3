"""Altered copies of annotated photos, to see what the networks that come with the installation bear.

    python -m experiments.studies.photo_copies --data=FOLDER --output=COPIES   # COCO annotations.json, photos beside it
    python -m experiments.studies.photo_networks --data=COPIES/turned

A folder for each kind: `half` (of the size), `dark`, `jpeg` (quality 15), `turned` (by 20 degrees, left and right in turn),
`cropped` (a random window of .7 of the sides), `pairs` (two photos side by side). `--random=N` makes N copies of every photo
in the folder `random`, each a random window, scaled and perhaps mirrored, and nothing else. Annotations follow: points
outside are no longer annotated, and a person of whom less than .4 of the box is left is a region that does not count.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from jaxtyping import Float
from PIL import Image

from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.regressors.aios.augment import COCO_MIRROR
from experts.networks.association import AREA_OF_BOX
from experts.networks.person_crops import GREY

_LEFT = 0.4
"""Share of a box that must be left for the person to count."""
_PAIR_HEIGHT = 480

Picture = Image.Image
People = list[dict[str, Any]]
"""Annotations of one photo."""


def moved(people: People, way: Float[np.ndarray, "2 3"], size: tuple[int, int]) -> People:
    """The annotations in a copy of `size` (width, height) whose pixels are `way` of those of the photo, without outlines."""
    linear, shift = way[:, :2], way[:, 2]
    result = []
    for person in people:
        points = np.array(person.get("keypoints") or np.zeros(51), float).reshape(17, 3)
        points[:, :2] = points[:, :2] @ linear.T + shift
        seen = (points[:, 2] > 0) & (points[:, :2] >= 0).all(-1) & (points[:, :2] < size).all(-1)
        points = np.where(seen[:, None], points, 0.0)
        if np.linalg.det(linear) < 0:
            points = points[list(COCO_MIRROR)]
        outline = _outline(person, upright=bool((np.abs(linear[[0, 1], [1, 0]]) < 1e-9).all())) @ linear.T + shift
        low, high = outline.min(0), outline.max(0)
        clipped = np.clip(low, 0, size), np.clip(high, 0, size)
        share = float((clipped[1] - clipped[0]).prod() / max((high - low).prod(), 1e-9))
        if share == 0.0:
            continue
        area = person.get("area") or AREA_OF_BOX * person["bbox"][2] * person["bbox"][3]
        counts = share >= _LEFT and not person.get("iscrowd") and person.get("num_keypoints", 0) > 0
        result.append({
            "bbox": [*clipped[0].tolist(), *(clipped[1] - clipped[0]).tolist()],
            "keypoints": points.ravel().tolist(),
            "num_keypoints": int(seen.sum()) if counts else 0,
            "area": float(area * abs(np.linalg.det(linear)) * share),
            "iscrowd": int(person.get("iscrowd", 0) or share < _LEFT),
            "category_id": person.get("category_id", 1),
        })  # fmt: skip
    return result


def _outline(person: Mapping[str, Any], upright: bool) -> Float[np.ndarray, "n 2"]:
    """Corners of the box; points of the outline where there is one and the box would turn."""
    polygons = person.get("segmentation")
    if not upright and isinstance(polygons, list) and polygons:
        return np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    x, y, width, height = person["bbox"]
    return np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]], float)


def turned(picture: Picture, people: People, degrees: float) -> tuple[Picture, People]:
    """About the middle of the photo, clockwise as seen; grey where nothing is known."""
    centre, angle = np.array(picture.size) / 2, np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.column_stack([turn.T, centre - turn.T @ centre])
    copy = picture.transform(
        picture.size, Image.Transform.AFFINE, tuple(back.ravel()), Image.Resampling.BICUBIC, fillcolor=(GREY,) * 3
    )
    return copy, moved(people, np.column_stack([turn, centre - turn @ centre]), picture.size)


def window(
    picture: Picture, people: People, box: tuple[int, int, int, int], scale: float = 1.0, mirror: bool = False
) -> tuple[Picture, People]:
    """The part in `box` (x0, y0, x1, y1), enlarged by `scale`, mirrored or not."""
    x0, y0, x1, y1 = box
    width, height = max(round((x1 - x0) * scale), 1), max(round((y1 - y0) * scale), 1)
    across, down = width / (x1 - x0), height / (y1 - y0)
    way = np.array([[across, 0.0, -x0 * across], [0.0, down, -y0 * down]])
    copy = picture.crop(box).resize((width, height), Image.Resampling.LANCZOS)
    if mirror:
        copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        way = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ way + np.array([[0.0, 0.0, width], [0.0, 0.0, 0.0]])
    return copy, moved(people, way, (width, height))


def side_by_side(first: tuple[Picture, People], second: tuple[Picture, People]) -> tuple[Picture, People]:
    """Two photos at one height."""
    parts = []
    for picture, people in (first, second):
        parts.append(window(picture, people, (0, 0, *picture.size), _PAIR_HEIGHT / picture.height))
    (left, people), (right, others) = parts
    whole = Image.new("RGB", (left.width + right.width, _PAIR_HEIGHT), (GREY,) * 3)
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width, 0))
    beside = moved(others, np.array([[1.0, 0.0, left.width], [0.0, 1.0, 0.0]]), whole.size)
    return whole, people + beside


def recoded(picture: Picture, quality: int) -> Picture:
    """As JPEG has it."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.fromarray(read_photo(stream.getvalue()))


def copies(
    photos: list[tuple[str, Picture, People]], random: int, seed: int = 0
) -> dict[str, list[tuple[str, Picture, People]]]:
    """Kind -> (name, picture, people)."""
    draw = np.random.default_rng(seed)

    def part(picture: Picture, people: People, share: float, scale: float = 1.0, mirror: bool = False):
        sides = [max(int(share * side), 1) for side in picture.size]
        x, y = (int(draw.integers(0, whole - side + 1)) for whole, side in zip(picture.size, sides, strict=True))
        return window(picture, people, (x, y, x + sides[0], y + sides[1]), scale, mirror)

    if random:
        made = []
        for k in range(random):
            for name, picture, people in photos:
                share, scale = draw.uniform(0.5, 1.0), draw.uniform(0.4, 1.2)
                made.append((f"{Path(name).stem}_{k:04d}", *part(picture, people, share, scale, k % 2 == 1)))
        return {"random": made}
    same = np.eye(2, 3)
    kinds: dict[str, Callable[[int, Picture, People], tuple[Picture, People]]] = {
        "half": lambda n, picture, people: window(picture, people, (0, 0, *picture.size), 0.5),
        "dark": lambda n, picture, people: (
            picture.point([round(0.6 * 255 * (v / 255) ** 1.8) for v in range(256)] * 3),
            moved(people, same, picture.size),
        ),
        "jpeg": lambda n, picture, people: (recoded(picture, 15), moved(people, same, picture.size)),
        "turned": lambda n, picture, people: turned(picture, people, -20.0 if n % 2 == 0 else 20.0),
        "cropped": lambda n, picture, people: part(picture, people, 0.7),
    }
    made = {
        kind: [(Path(name).stem, *change(n, picture, people)) for n, (name, picture, people) in enumerate(photos)]
        for kind, change in kinds.items()
    }
    made["pairs"] = [
        (Path(a[0]).stem, *side_by_side(a[1:], b[1:])) for a, b in zip(photos[::2], photos[1::2], strict=False)
    ]
    return made


def write(folder: Path, photos: list[tuple[str, Picture, People]], quality: int) -> None:
    """The photos, as PNG or with a JPEG quality, and annotations.json."""
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for number, (name, picture, people) in enumerate(photos, 1):
        file = f"{name}.jpg" if quality else f"{name}.png"  # quality says nothing to PNG
        picture.save(folder / file, quality=quality)
        width, height = picture.size
        content["images"].append({"id": number, "file_name": file, "width": width, "height": height})
        for person in people:
            content["annotations"].append({**person, "image_id": number, "id": len(content["annotations"]) + 1})
    (folder / "annotations.json").write_text(json.dumps(content))


def main(_: list[str]) -> None:
    data = Path(FLAGS.data)
    content = json.loads((data / "annotations.json").read_text())
    photos = [
        (
            image["file_name"],
            Image.fromarray(read_photo(data / image["file_name"])),
            [person for person in content["annotations"] if person["image_id"] == image["id"]],
        )
        for image in content["images"]
    ]
    for kind, made in copies(photos, FLAGS.random).items():
        write(Path(FLAGS.output) / kind, made, 90 if FLAGS.random else 0)
        count = sum(person["num_keypoints"] > 0 for _, _, people in made for person in people)
        print(f"{kind}: {len(made)} photos, {count} people with keypoints")


FLAGS = flags.FLAGS

if __name__ == "__main__":
    flags.DEFINE_string("data", None, "Folder with annotations.json (COCO keypoints) and the photos.", required=True)
    flags.DEFINE_string("output", None, "Folder of the copies.", required=True)
    flags.DEFINE_integer("random", 0, "Random copies of every photo, in place of the kinds.")
    app.run(main)
