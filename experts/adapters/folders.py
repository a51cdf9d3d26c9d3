"""Cues that somebody has already, as one file per photo: masks, depth maps, dense points."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from annyfit_jax.inputs.masks import read_depth_map, read_label_image
from annyfit_jax.inputs.validate import checked_array
from annyfit_jax.people.scene import NUM_DENSE, SceneError
from annyfit_jax.records.files import sha256
from annyfit_jax.records.npz import open_npz
from annyfit_jax.store.locations import is_remote, place
from annyfit_jax.store.mirrors import local
from experts.interfaces import Card, DepthEstimate, ExpertError, People, Photo
from experts.people_rules import match_boxes

_LEAST_OVERLAP = 0.3
"""A label's outline is often smaller than a detector's box (occlusion)."""


def folder_fingerprint(folder: str) -> str:
    """Checksum of the names, sizes and times (of objects: fingerprints) of a folder's files; empty where there is none."""
    digest, root = hashlib.sha256(), Path(folder)
    if is_remote(folder):
        listed = place(folder).tree()
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest() if listed else ""
    if not folder or not root.is_dir():
        return ""
    for where, folders, names in os.walk(root):
        folders.sort()
        for path in (Path(where) / name for name in sorted(names)):
            facts = path.stat()
            digest.update(
                f"{path.relative_to(root).as_posix()} {facts.st_size} {facts.st_mtime_ns}\n".encode(
                    errors="surrogateescape"
                )
            )
    return digest.hexdigest()


def file_fingerprint(path: str) -> str:
    """Checksum of a file's content; empty where there is no file."""
    return sha256(Path(local(path))) if path and place(path).is_file() else ""


@dataclass
class _Folder:
    """What the experts that read a folder share."""

    path: str = field(default="", metadata={"decides": False})
    """The folder; a photo's file has the photo's stem, in the same subfolder as the photo."""
    licence: str = "as given by the user"
    _local: str = field(default="", init=False, repr=False)

    needs_pixels = False

    @property
    def folder(self) -> str:
        """The folder on this machine, since `load`."""
        return self._local or self.path

    @property
    def card(self) -> Card:
        return Card("folder", Path(self.path).name, "", self.licence, commercial=True)

    def load(self) -> None:
        """Raises ExpertError where there is no such folder."""
        if not self.path or not place(self.path).is_dir():
            raise ExpertError(f"expert folder: no folder {self.path or '(none given)'}")
        self._local = local(self.path)

    def close(self) -> None:
        """Nothing to do."""

    def fingerprint(self) -> str:
        """The folder may move, but files that are added or changed are read anew."""
        return folder_fingerprint(self.path)


@dataclass
class DepthFolder(_Folder):
    """`<stem>.npy`, `.npz` (metres) or 16-bit `.png` (millimetres)."""

    def depth(self, photos: Sequence[Photo]) -> list[DepthEstimate]:
        """(H, W) metres per photo. Raises SceneError where a photo has no file."""
        result = []
        for photo in photos:
            depth = read_depth_map(self.folder, photo.stem, photo.size)
            if depth is None:
                raise SceneError(f"{self.path}: no depth map for {photo.relative}")
            result.append(DepthEstimate(depth))
        return result


@dataclass
class MaskFolder(_Folder):
    """Label images `<stem>.png`: 0 background, each other value a person, who is found by the box of the label."""

    def segment(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Bool[np.ndarray, "n H W"]]:
        """(n, H, W) per photo; empty masks for people whose box no label has. Raises SceneError without a file."""
        result = []
        for photo, crowd in zip(photos, people, strict=True):
            labels = read_label_image(self.folder, photo.stem, photo.size)
            if labels is None:
                raise SceneError(f"{self.path}: no label image for {photo.relative}")
            values = [int(value) for value in np.unique(labels) if value != 0]
            boxes = np.array([_extent(labels == value) for value in values], np.float64).reshape(-1, 4)
            masks = np.zeros((len(crowd), *labels.shape), bool)
            for i, k in enumerate(match_boxes(crowd.boxes, boxes, _LEAST_OVERLAP)):
                if k is not None:
                    masks[i] = labels == values[k]
            result.append(masks)
        return result


@dataclass
class DenseFolder(_Folder):
    """`<stem>.npz` with `boxes` (m, 4) and `dense` (m, 138, 3): x, y in pixels of the photo and confidence.

    The points must be those of the set that is fitted (`annyfit_jax.people.dense_points`, or the user's own regressor).
    """

    def dense(self, photos: Sequence[Photo], people: Sequence[People]) -> list[Float[np.ndarray, "n 138 3"]]:
        """(n, 138, 3) per photo; confidence 0 for people whose box is not in the file. Raises SceneError without one."""
        result = []
        for photo, crowd in zip(photos, people, strict=True):
            file = Path(self.folder) / f"{photo.stem}.npz"
            with open_npz(str(file)) as npz:
                boxes = checked_array(npz.read("boxes"), npz.where("boxes"), ("m", 4))
                dense = checked_array(npz.read("dense"), npz.where("dense"), (len(boxes), NUM_DENSE, 3))
            points = np.zeros((len(crowd), NUM_DENSE, 3))
            for i, k in enumerate(match_boxes(crowd.boxes, boxes, _LEAST_OVERLAP)):
                if k is not None:
                    points[i] = dense[k]
            result.append(points)
        return result


def _extent(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
