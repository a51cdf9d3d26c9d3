"""How well people of photos are found by the networks that come with the installation, against people's annotations.

    python -m experiments.studies.photo_networks --data=FOLDER      # COCO annotations.json with its photos beside it
    python -m experiments.studies.photo_networks --data=FOLDER --throughput
    python -m experiments.studies.photo_networks --data=FOLDER,COPIES/half,COPIES/turned  # and all of them together

Found: a person with annotated keypoints whose box overlaps a found one's by at least half (best assignment). False: a found
box that overlaps no annotated box by half and lies in no crowd region. Keypoints of found people: PCK is the share within a
part of the box's longer side, OKS COCO's similarity, hidden but annotated points included. `--each` names every miss.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from annyfit_jax.inputs.masks import decode_segmentation
from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.people.boxes import pairwise_iou
from experts.interfaces import People, Photo
from experts.networks.association import AREA_OF_BOX, COCO_SIGMAS

_DATA = flags.DEFINE_list("data", [], "Folders with annotations.json (COCO keypoints) and the photos.")
_SET = flags.DEFINE_multi_string("set", [], "Options of the experts, as experiments.precompute takes them.")
_EACH = flags.DEFINE_bool("each", False, "Also list who is missed, false, or wrong.")
_THROUGHPUT = flags.DEFINE_bool("throughput", False, "Also time every network and the whole, after compilation.")
_BATCHES = flags.DEFINE_list("batches", ["1", "4", "16"], "Crops per call that --throughput times.")
_LEAST = 0.5


@dataclass
class Tally:
    """Figures over photos."""

    annotated: int = 0
    found: int = 0
    false: int = 0
    errors: list[float] = field(default_factory=list)
    """Distances in longer sides of the annotated box, one per annotated point of found people."""
    oks: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    mask_iou: list[float] = field(default_factory=list)
    each: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line of results."""
        errors = np.array(self.errors)
        pck = " ".join(f"PCK@{limit} {np.mean(errors < limit):.3f}" for limit in (0.05, 0.1, 0.2))
        masks = f", mask IoU {np.mean(self.mask_iou):.3f}" if self.mask_iou else ""
        return (
            f"found {self.found} of {self.annotated}, false {self.false}, {pck}, OKS {np.mean(self.oks):.3f}, "
            f"median error {np.median(errors):.4f}{masks}"
        )


def compare(
    tally: Tally,
    annotations: list[Mapping[str, Any]],
    boxes: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    name: str = "",
) -> dict[int, int]:
    """Adds a photo to the tally; returns annotation -> found person, by position."""
    from scipy.optimize import linear_sum_assignment

    people = [a for a in annotations if not a.get("iscrowd")]
    truth = np.array([corners(a["bbox"]) for a in people]).reshape(-1, 4)
    overlap = pairwise_iou(truth, boxes)
    free = set(range(len(people)))
    for row in np.argsort(-scores):
        hits = [j for j in free if overlap[j, row] >= _LEAST]
        if hits:
            free.discard(max(hits, key=lambda j: overlap[j, row]))
        elif not any(_share_inside(boxes[row], corners(a["bbox"])) > 0.5 for a in annotations if a.get("iscrowd")):
            tally.false += 1
            tally.each.append(f"{name}: false {boxes[row].round().astype(int).tolist()} score {scores[row]:.2f}")
    wanted = [j for j, a in enumerate(people) if a["num_keypoints"] > 0]
    rows, columns = linear_sum_assignment(-overlap[wanted]) if len(boxes) else ((), ())
    matched = {wanted[r]: int(c) for r, c in zip(rows, columns, strict=True) if overlap[wanted[r], c] >= _LEAST}
    for j in wanted:
        tally.annotated += 1
        if j not in matched:
            tally.each.append(
                f"{name}: missed {np.round(people[j]['bbox']).tolist()}, {people[j]['num_keypoints']} points"
            )
            continue
        points = np.array(people[j]["keypoints"], float).reshape(17, 3)
        seen = points[:, 2] > 0
        away = np.linalg.norm(keypoints[matched[j], :, :2] - points[:, :2], axis=-1)[seen]
        area = people[j].get("area") or AREA_OF_BOX * people[j]["bbox"][2] * people[j]["bbox"][3]
        oks = float(np.exp(-(away**2) / (2 * area * (2 * COCO_SIGMAS[seen]) ** 2)).mean())
        tally.found += 1
        tally.errors += (away / max(people[j]["bbox"][2:])).tolist()
        tally.confidences += keypoints[matched[j], seen, 2].tolist()
        tally.oks.append(oks)
        if oks < 0.7:
            tally.each.append(f"{name}: OKS {oks:.2f} {np.round(people[j]['bbox']).tolist()}")
    return matched


def corners(box: Any) -> np.ndarray:
    """x, y, width, height -> x0, y0, x1, y1."""
    return np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]], float)


def _share_inside(box: np.ndarray, other: np.ndarray) -> float:
    shared = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None).prod()
    return float(shared / max((box[2:] - box[:2]).prod(), 1e-9))


def main(_: list[str]) -> None:
    from experts import people_rules
    from experts.registry import build

    if not _DATA.value:
        raise app.UsageError("--data is missing", 2)
    experts = build("default", _SET.value)
    for _cue, expert in experts.items():
        expert.load()

    def look(photo: Photo) -> tuple[People, np.ndarray]:
        """As the pipeline does it, one photo at a time."""
        detections = people_rules.select_detections(experts.detector.detect([photo])[0], photo.size, experts.people)
        crowd = People(detections.boxes, detections.ids, detected_keypoints=detections.keypoints)
        points = people_rules.confident(experts.keypoints.keypoints([photo], [crowd])[0], photo.size)
        outlines = experts.segmenter.segment([photo], [crowd])[0] if len(crowd) else None
        drawn = None if outlines is None else outlines.masks
        reasons = people_rules.reasons_to_skip(points, crowd.boxes, crowd.ids, experts.people, drawn)
        kept = np.array([i for i in range(len(crowd)) if i not in reasons], int)
        masks = np.zeros((0, *photo.pixels.shape[:2]), bool) if outlines is None else outlines.masks
        people = People(detections.boxes[kept], masks=masks[kept], keypoints=points[kept].reshape(-1, 17, 3))
        return people, detections.scores[kept]

    tallies = []
    for folder in map(Path, _DATA.value):
        content = json.loads((folder / "annotations.json").read_text())
        photos = [
            Photo(image["file_name"], str(folder / image["file_name"]), read_photo(folder / image["file_name"]))
            for image in content["images"]
        ]
        if not tallies:
            begun = time.perf_counter(), time.process_time()
            look(max(photos, key=lambda photo: photo.pixels.size))
            wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
            print(f"first photo: {wall:.1f} s ({cpu:.1f} s of CPU), compilation included")
        begun = time.perf_counter(), time.process_time()
        looks = [look(photo) for photo in photos]
        wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        tallies.append(measured(content, photos, looks))
        count = sum(len(people) for people, _ in looks)
        print(f"{folder.name}: {tallies[-1].line()}")
        print(f"  {count} people: {wall / len(photos):.2f} s a photo ({cpu / len(photos):.2f} s of CPU)", flush=True)
    tally = together(tallies)
    if len(tallies) > 1:
        print(f"all: {tally.line()}")
    for low, high in ((0.0, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.85), (0.85, 0.95), (0.95, 1.01)):
        inside = [e < 0.1 for e, c in zip(tally.errors, tally.confidences, strict=True) if low <= c < high]
        if inside:
            print(f"  confidence {low:.2f} to {high:.2f}: {len(inside)} annotated points, right {np.mean(inside):.2f}")
    if _EACH.value:
        print("\n".join(tally.each))
    if _THROUGHPUT.value:
        throughput([int(size) for size in _BATCHES.value])


def measured(content: Mapping[str, Any], photos: Sequence[Photo], looks: Sequence[tuple[People, np.ndarray]]) -> Tally:
    """Figures of the people found in the photos of a folder (with the scores of their boxes) against its annotations."""
    tally = Tally()
    for image, photo, (people, scores) in zip(content["images"], photos, looks, strict=True):
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert people.keypoints is not None
        matched = compare(tally, own, people.boxes, people.keypoints, scores, image["file_name"])
        real = [a for a in own if not a.get("iscrowd")]
        for j, row in matched.items():
            if real[j].get("segmentation") and people.masks is not None:
                truth = decode_segmentation(real[j]["segmentation"], photo.size, image["file_name"])
                mask = people.masks[row]
                tally.mask_iou.append(float((truth & mask).sum() / max((truth | mask).sum(), 1)))
    return tally


def together(tallies: Sequence[Tally]) -> Tally:
    """The figures of several folders as those of one."""
    whole = Tally()
    for tally, item in itertools.product(tallies, dataclasses.fields(Tally)):
        setattr(whole, item.name, getattr(whole, item.name) + getattr(tally, item.name))
    return whole


def throughput(sizes: list[int]) -> None:
    """Prints milliseconds a picture of every network of the default set, by pictures a call, on one device; compilation is
    cold, nothing is read from a cache of programs. CPU time counts all threads; the fastest of six calls.
    """
    import jax
    import jax.numpy as jnp

    from experts.networks import frozen_graph

    print("| network | pictures a call | compilation (s) | its CPU time (s) | ms a picture | CPU ms a picture |")
    print("| --- | --- | --- | --- | --- | --- |")
    compilations = dict.fromkeys(sizes, 0.0)
    for name in ("nanodet", "movenet_thunder", "blazepose_full", "hand_landmarks", "face_landmarks"):
        network = frozen_graph.bundled(name)
        weights = [jnp.asarray(weight) for weight in network.weights]
        program = jax.jit(functools.partial(frozen_graph.run, network.graph))
        for size in sizes:
            pictures = jnp.full((size, *network.graph.input_shape), 0.5)
            begun = time.perf_counter(), time.process_time()
            compiled = program.lower(weights, pictures).compile()
            wall, cpu, times = time.perf_counter() - begun[0], time.process_time() - begun[1], []
            compilations[size] += cpu
            for _ in range(6):
                begun = time.perf_counter(), time.process_time()
                jax.block_until_ready(compiled(weights, pictures))
                times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
            each = " | ".join(f"{1e3 * min(t) / size:.1f}" for t in zip(*times, strict=True))
            print(f"| {name} | {size} | {wall:.1f} | {cpu:.1f} | {each} |", flush=True)
    for size, seconds in compilations.items():
        print(f"all networks for {size} at a time: {seconds:.1f} s of CPU to compile")


if __name__ == "__main__":
    app.run(main)
