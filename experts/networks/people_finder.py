"""Photos to people: boxes and skeletons of everybody, from NanoDet and MoveNet together.

1. The detector looks at each photo and at its mirror image; boxes of one person are averaged.
2. Small people: where the first look saw any, overlapping tiles of the photo are looked at as well, twice as large.
3. Each box is cut out, the photo outside it made grey, and MoveNet gives a few skeletons.
4. `association` puts boxes and skeletons together.
5. Where a box's own skeleton is another person's, that person is painted over and the box looked at again; then step 4
   once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8

from annyfit_jax.people.boxes import pairwise_iou
from experts.networks import association, movenet
from experts.networks.association import Pair, Pairing
from experts.networks.nanodet import NanoDet
from experts.networks.person_crops import Square, crop, grown, square_of

_CROP_SCALE, _CROP_MARGIN = 1.25, 0.1
"""Side of a crop in longer sides of the box, and how much of them around the box is not grey."""
_GROWN = 0.7
"""How far a person's box goes from the detector's to the one that holds all points as well."""


@dataclass(frozen=True)
class Search:
    """Limits of the search; chosen, as those of `Pairing`, on the ten photos of the study."""

    mirror: bool = True
    tiles: bool = True
    small: float = 0.12
    """Share of the photo's longer side below which a box makes tiles worth while: some 50 pixels of the detector's picture."""
    least_score: float = 0.28
    """Of a box."""
    least_tile_score: float = 0.45
    tile_trust: float = 0.6
    """Factor for scores of boxes that only a tile shows: enlarged, things pass for small people."""
    again_score: float = 0.25
    """Of a box that is looked at again with the others painted over."""
    most_boxes: int = 60
    """Per photo; a crowd's weakest boxes are left out."""
    least_side_px: float = 8.0
    """Of the shorter side of a box."""
    least_long_px: float = 12.0
    pairing: Pairing = field(default_factory=Pairing)


@dataclass(frozen=True)
class FoundPeople:
    """The people of a photo, the surest first."""

    boxes: Float[np.ndarray, "n 4"]
    values: Float[np.ndarray, "n"]
    """How good box and skeleton are (`association.Pair`): an order, not a probability."""
    keypoints: Float[np.ndarray, "n 17 3"]
    """x, y in pixels, MoveNet's score; 0 outside the photo."""


@dataclass
class _Photo:
    """What is known about a photo so far."""

    pixels: UInt8[np.ndarray, "height width 3"]
    boxes: Float[np.ndarray, "n 4"] = field(default_factory=lambda: np.zeros((0, 4)))
    scores: Float[np.ndarray, "n"] = field(default_factory=lambda: np.zeros(0))
    skeletons: list[Float[np.ndarray, "17 3"]] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    def pairs(self, pairing: Pairing) -> list[Pair]:
        if not self.skeletons:
            return []
        owners, ranks = np.array(self.owners), np.array(self.ranks)
        return association.associate(
            self.boxes, self.scores, np.array(self.skeletons), owners, ranks, self.size, pairing
        )


class PeopleFinder:
    """Holds the two networks."""

    def __init__(self, search: Search | None = None) -> None:
        self.search = search or Search()
        self.detector, self.keypoints = NanoDet(), movenet.MoveNet()

    def __call__(self, photos: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[FoundPeople]:
        """The people of each photo; crops of all photos go through the networks together."""
        looked = [_Photo(pixels) for pixels in photos]
        self._detect(looked)
        self._look(looked, [(i, box, None) for i, photo in enumerate(looked) for box in range(len(photo.boxes))])
        pairing = self.search.pairing
        again = [(i, *task) for i, photo in enumerate(looked) for task in self._conflicts(photo)]
        self._look(looked, again)
        return [_found(photo, photo.pairs(pairing), pairing.seen) for photo in looked]

    def keypoints_of(
        self, pixels: UInt8[np.ndarray, "height width 3"], boxes: Float[np.ndarray, "n 4"]
    ) -> Float[np.ndarray, "n 17 3"]:
        """The skeleton of each box, each another one where that is possible: x, y in pixels, MoveNet's score."""
        photo = _Photo(pixels, boxes, np.ones(len(boxes)))
        self._look([photo], [(0, box, None) for box in range(len(boxes))])
        self._look([photo], [(0, *task) for task in self._conflicts(photo)])
        result = np.zeros((len(boxes), 17, 3))
        for owner, rank, skeleton in zip(photo.owners, photo.ranks, photo.skeletons, strict=True):
            if rank == 0 and not result[owner].any():
                result[owner] = skeleton
        for person in photo.pairs(self.search.pairing):
            result[person.box] = photo.skeletons[person.skeleton]
        return result

    # ------------------------------------------------------------------------------------------------ boxes

    def _detect(self, photos: list[_Photo]) -> None:
        search = self.search
        views = [photo.pixels for photo in photos]
        if search.mirror:
            views += [np.ascontiguousarray(photo.pixels[:, ::-1]) for photo in photos]
        seen = self.detector(views)
        for i, photo in enumerate(photos):
            candidates = seen[i]
            if search.mirror:
                mirrored = seen[len(photos) + i].copy()
                mirrored[:, [0, 2]] = photo.size[0] - mirrored[:, [2, 0]]
                candidates = np.concatenate([candidates, mirrored])
            self._keep(photo, candidates)
        if search.tiles:
            self._detect_small([photo for photo in photos if self._has_small(photo)])

    def _keep(self, photo: _Photo, candidates: Float[np.ndarray, "k 5"]) -> None:
        """The boxes of candidates, each averaged over those that show the same, without what cannot be a body."""
        search, (width, height) = self.search, photo.size
        candidates = candidates[candidates[:, 4] > search.least_score / 2]
        candidates[:, :4] = candidates[:, :4].clip(0, [width, height, width, height])
        merged = merged_boxes(candidates)
        sides = merged[:, 2:4] - merged[:, :2]
        at_edge = (merged[:, 1] < 2) | (merged[:, 3] > height - 3)
        flat = at_edge & (sides[:, 0] > 2.5 * sides[:, 1])  # heads or feet of people who are outside
        large = (sides.min(-1) > search.least_side_px) & (sides.max(-1) > search.least_long_px)
        merged = merged[(merged[:, 4] > search.least_score) & large & ~flat][: search.most_boxes]
        photo.boxes, photo.scores = merged[:, :4], merged[:, 4]

    def _has_small(self, photo: _Photo) -> bool:
        sides = (photo.boxes[:, 2:] - photo.boxes[:, :2]).max(-1)
        return bool((sides < self.search.small * max(photo.size)).any())

    def _detect_small(self, photos: list[_Photo]) -> None:
        """Looks at tiles; small boxes that stand in no tile's edge and overlap none of before are added."""
        views, places = [], []
        for photo in photos:
            width, height = photo.size
            tile = round(0.6 * max(width, height))
            for x in sorted({0, max(width - tile, 0)}):
                for y in sorted({0, max(height - tile, 0)}):
                    views.append(np.ascontiguousarray(photo.pixels[y : y + tile, x : x + tile]))
                    places.append((photo, x, y))
        boxes_of: dict[int, list[np.ndarray]] = {}
        for (photo, x, y), view, candidates in zip(places, views, self.detector(views), strict=True):
            height, width = view.shape[:2]
            low, high = candidates[:, :2], candidates[:, 2:4]
            cut = (low < 3) & (np.array([x, y]) > 0)
            cut |= (high > np.array([width, height]) - 3) & (np.array([x + width, y + height]) < photo.size)
            small = (high - low).max(-1) < self.search.small * max(photo.size)
            kept = candidates[~cut.any(-1) & small & (candidates[:, 4] > self.search.least_tile_score)]
            boxes_of.setdefault(id(photo), []).append(kept + np.array([x, y, x, y, 0]))
        for photo in photos:
            new = merged_boxes(np.concatenate(boxes_of[id(photo)]))
            sides = new[:, 2:4] - new[:, :2]
            known = (
                pairwise_iou(new[:, :4], photo.boxes).max(-1, initial=0.0) if len(photo.boxes) else np.zeros(len(new))
            )
            new = new[
                (known < 0.6)
                & (sides.min(-1) > self.search.least_side_px)
                & (sides.max(-1) > self.search.least_long_px)
            ]
            room = max(self.search.most_boxes - len(photo.boxes), 0)
            photo.boxes = np.concatenate([photo.boxes, new[:room, :4]])
            photo.scores = np.concatenate([photo.scores, new[:room, 4] * self.search.tile_trust])

    # ------------------------------------------------------------------------------------------------ skeletons

    def _look(
        self, photos: list[_Photo], tasks: Sequence[tuple[int, int, Bool[np.ndarray, "height width"] | None]]
    ) -> None:
        """Adds the skeletons of boxes: (photo, box, what is painted over)."""
        squares: list[Square] = [square_of(photos[i].boxes[box], _CROP_SCALE) for i, box, _ in tasks]
        crops = [
            crop(photos[i].pixels, square, movenet.SIZE, grown(photos[i].boxes[box], _CROP_MARGIN), hidden)
            for (i, box, hidden), square in zip(tasks, squares, strict=True)
        ]
        for (i, box, _), square, people in zip(tasks, squares, self.keypoints(crops), strict=True):
            for rank, points in enumerate(people):
                skeleton = np.concatenate([square.to_photo(points[:, :2], movenet.SIZE), points[:, 2:]], -1)
                outside = (skeleton[:, :2] < 0).any(-1) | (skeleton[:, :2] >= photos[i].size).any(-1)
                skeleton[outside, 2] = 0.0
                photos[i].skeletons.append(skeleton)
                photos[i].owners.append(box)
                photos[i].ranks.append(rank)

    def _conflicts(self, photo: _Photo) -> list[tuple[int, Bool[np.ndarray, "height width"]]]:
        """Boxes whose own first skeleton is another person's or that were given a foreign one: (box, whom to paint over)."""
        pairing = self.search.pairing
        people, tasks = photo.pairs(pairing), []
        if len(people) < 2 and len(photo.boxes) < 2:
            return []
        overlaps = pairwise_iou(photo.boxes, photo.boxes)
        same = association.wholes_of_parts(photo.boxes, pairing.part_apart)
        same |= same.T
        areas = association.AREA_OF_BOX * (photo.boxes[:, 2:] - photo.boxes[:, :2]).prod(-1)
        for box in np.flatnonzero(photo.scores >= self.search.again_score):
            own = next(
                s for s, o, r in zip(photo.skeletons, photo.owners, photo.ranks, strict=True) if o == box and not r
            )
            alike = association.similarity(
                own, np.array([photo.skeletons[p.skeleton] for p in people]).reshape(-1, 17, 3), areas[box]
            )
            others = [
                k for k, person in enumerate(people) if overlaps[box, person.box] < 0.6 and not same[box, person.box]
            ]
            clashing = [k for k in others if alike[k] > 0.3]
            foreign = any(person.box == box and alike[k] < 0.5 for k, person in enumerate(people))
            if clashing or (foreign and others):
                hidden = np.zeros(photo.pixels.shape[:2], bool)
                for k in clashing or others:
                    skeleton = photo.skeletons[people[k].skeleton]
                    hidden |= association.body_shape(skeleton, photo.boxes[people[k].box], photo.size, pairing.seen)
                tasks.append((int(box), hidden))
        return tasks


def _found(photo: _Photo, people: list[Pair], seen: float) -> FoundPeople:
    every = [[person.box, *person.more_boxes] for person in people]
    boxes = np.array([np.average(photo.boxes[own], axis=0, weights=photo.scores[own]) for own in every]).reshape(-1, 4)
    skeletons = np.array([photo.skeletons[person.skeleton] for person in people]).reshape(-1, 17, 3)
    if people:  # detector and points each miss a part of the person: most of the way to the box that holds both
        points = association.extents(skeletons, seen, photo.size, margin=0.04)
        both = np.concatenate([np.minimum(boxes, points)[:, :2], np.maximum(boxes, points)[:, 2:]], -1)
        boxes += _GROWN * (both - boxes)
    return FoundPeople(boxes, np.array([person.value for person in people]), skeletons)


def merged_boxes(
    candidates: Float[np.ndarray, "k 5"], same: float = 0.6, averaged: float = 0.7
) -> Float[np.ndarray, "n 5"]:
    """One box per group of candidates that overlap, the surest first: the average, by score, of those that overlap its
    surest most.
    """
    order = candidates[np.argsort(-candidates[:, 4], kind="stable")]
    result, free = [], np.ones(len(order), bool)
    while free.any():
        first = int(free.argmax())
        overlap = pairwise_iou(order[first : first + 1, :4], order[:, :4])[0]
        near = overlap >= averaged
        near[first] = True
        box = np.average(order[near, :4], axis=0, weights=order[near, 4])
        result.append([*box, order[first, 4]])
        free &= overlap < same
        free[first] = False
    return np.array(result).reshape(-1, 5)
