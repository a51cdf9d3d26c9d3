"""Hands and faces of annotated photos by the bundled networks: how many are found, and how well they agree with themselves.

    python -m experiments.studies.photo_parts --data=DATA

`DATA` holds photos and `annotations.json` (COCO keypoints; `face_kpts`, `lefthand_kpts` and `righthand_kpts` are compared where
annotators marked them). Wrists, eyes and noses are the annotated ones, so that people are the right ones. Each photo is looked
at as it is and mirrored: a part that is really seen comes out alike, to within a share of its length.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from absl import app, flags

from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.people.scene import COCO17
from experts.networks.hands_and_faces import PartFinder, Parts, metre_px

FLAGS = flags.FLAGS
_PARTS = {"left_hand": "lefthand_kpts", "right_hand": "righthand_kpts", "face": "face_kpts"}
_LENGTH_M = {"left_hand": 0.19, "right_hand": 0.19, "face": 0.2}


def exchanged(name: str) -> str:
    """The name of the same point or part on the other side."""
    side, _, rest = name.partition("_")
    return {"left": "right_", "right": "left_"}.get(side, f"{side}_" if rest else side) + rest


def mirrored_parts(finder: PartFinder, pixels: np.ndarray, keypoints: np.ndarray) -> dict[str, np.ndarray]:
    """What is found in the mirror image, in pixels of the photo, by the name of the part in the photo."""
    width = pixels.shape[1]
    other = [COCO17.index(exchanged(name)) for name in COCO17]
    points = keypoints[:, other] * [-1, 1, 1] + [width - 1, 0, 0]
    found = finder(np.ascontiguousarray(pixels[:, ::-1]), points, None)
    return {name: getattr(found, exchanged(name)) * [-1, 1, 1] + [width - 1, 0, 0] for name in _PARTS}


def main(_: list[str]) -> None:
    data = Path(FLAGS.data)
    content = json.loads((data / "annotations.json").read_text())
    finder, rows, seconds, annotated = PartFinder(), defaultdict(list), [], []
    for image in content["images"]:
        people = [
            a
            for a in content["annotations"]
            if a["image_id"] == image["id"] and a["num_keypoints"] > 5 and not a["iscrowd"]
        ]
        if not people:
            continue
        pixels = read_photo(data / image["file_name"])
        keypoints = np.array([a["keypoints"] for a in people], float).reshape(-1, 17, 3)
        keypoints[..., 2] = keypoints[..., 2] > 0
        finder(pixels, keypoints, None)  # compiles
        start = time.process_time()
        found: Parts = finder(pixels, keypoints, None)
        seconds.append(time.process_time() - start)
        mirror = mirrored_parts(finder, pixels, keypoints)
        for name, field in _PARTS.items():
            points = getattr(found, name)
            for i, person in enumerate(people):
                length = metre_px(keypoints[i]) * _LENGTH_M[name]
                kept, again = points[i, 0, 2] > 0, mirror[name][i, 0, 2] > 0
                off = np.nan
                if kept and again and name != "face":
                    off = np.linalg.norm(points[i, :, :2] - mirror[name][i, :, :2], axis=1).mean() / length
                elif kept and again:  # the middle line of the face is the same in the mirror
                    middle = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
                    off = np.linalg.norm(points[i, middle, :2] - mirror[name][i, middle, :2], axis=1).mean() / length
                rows[name].append((length >= finder.limits.least_px, kept, again, off))
                truth = np.array(person.get(field, [0.0]), float).reshape(-1, 3) if person.get(field) else None
                if truth is not None and truth[:, 2].max() > 0:
                    seen = truth[:, 2] > 0
                    error = np.linalg.norm(points[i, :, :2] - truth[:, :2], axis=1)[seen].mean() if kept else np.nan
                    annotated.append((image["file_name"], person["id"], name, int(seen.sum()), error, length))
    print(
        "| part | large enough | found | in the mirror too | apart, share of length: median, 90 % |\n"
        + "|---" * 5
        + "|"
    )
    for name, values in rows.items():
        large, kept, again, off = np.array(values, float).T
        both = off[np.isfinite(off)]
        print(
            f"| {name} | {int(large.sum())} of {len(large)} | {int(kept.sum())} | {len(both)} | "
            f"{np.median(both):.3f}, {np.quantile(both, 0.9):.3f} |"
        )
    print("\n| photo | person | part | points | error, px | length, px |\n" + "|---" * 6 + "|")
    for photo, person, name, count, error, length in annotated:
        print(f"| {photo} | {person} | {name} | {count} | {error:.1f} | {length:.0f} |")
    print(f"\n{1000 * np.sum(seconds) / len(rows['face']):.0f} ms of processor time a person, compilation apart")


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "Folder of photos with annotations.json.", required=True)
    app.run(main)
