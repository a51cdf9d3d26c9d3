"""Initial bodies by this package's own Multi-HMR (Flax, no torch): a person per given box, in the order of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.store.locations import place
from annyfit_jax.store.mirrors import local
from experts.adapters.folders import file_fingerprint
from experts.adapters.start_files import unknown_bodies
from experts.interfaces import Card, ExpertError, People, Photo

_FACE = slice(0, 5)
"""Nose, eyes, ears among COCO's keypoints: the network looks for people at their heads."""
_LEAST_CONFIDENCE = 0.3


@dataclass
class MultiHmr:
    """The Anny variant of Multi-HMR with official weights, or weights in that layout (`training` exports them)."""

    checkpoint: str = ""
    """`multiHMR_672_L_anny.pt` of the official release, or a file in its layout."""
    vit: str = "l"
    """Size of the backbone: s, b or l."""
    size: int = 672
    """Side of the square picture, pixels."""
    licence: str = "naver-non-commercial"
    """Of the checkpoint; the official ones are for non-commercial use."""
    commercial: bool = False
    batch: int = field(default=4, metadata={"decides": False})
    """Photos at once."""
    config: Any = field(default=None, repr=False, metadata={"decides": False})
    """A `MultiHmrConfig` in place of `vit` and `size`."""
    _run: Any = field(default=None, init=False, repr=False)
    _version: str = field(default="", init=False, repr=False)

    @property
    def photos_at_once(self) -> int:
        """As many as a batch has."""
        return self.batch

    @property
    def card(self) -> Card:
        """The checkpoint's file, its checksum and the licence stated for it."""
        return Card("multihmr", Path(self.checkpoint).name, self._version, self.licence, self.commercial)

    def load(self) -> None:
        """Reads the checkpoint. Raises ExpertError naming the place that gets it."""
        import jax

        from annyfit_jax.records.torch_files import CheckpointError, read_state_dict
        from annyfit_jax.regressors.multihmr import multihmr_checkpoint, multihmr_model, multihmr_people
        from annyfit_jax.regressors.multihmr.multihmr_config import MultiHmrConfig
        from annyfit_jax.regressors.vit import SIZES
        from body_models import anny

        if not self.checkpoint or not place(self.checkpoint).is_file():
            raise ExpertError(
                f"start: no file {self.checkpoint or '(none given)'}; get multiHMR_672_L_anny.pt as "
                "https://github.com/naver/multi-hmr says, and give --set=start.checkpoint=FILE"
            )
        if self.vit not in SIZES:
            raise ExpertError(f"start: vit is {self.vit!r}; expected one of {', '.join(SIZES)}")
        config = self.config or MultiHmrConfig(vit=SIZES[self.vit], size=self.size)
        try:
            variables, _ = multihmr_checkpoint.from_torch(
                config, read_state_dict(local(self.checkpoint), multihmr_checkpoint.ENTRY)
            )
        except CheckpointError as error:
            raise ExpertError(f"start: {self.checkpoint}: {error}") from error

        @jax.jit
        def see(variables, images):
            return multihmr_model.bind(config, variables).see(images)

        @jax.jit
        def read(variables, body, seen, patches, K):
            return multihmr_people.anny_bodies(body, multihmr_model.bind(config, variables).read(seen, patches, K))

        self._version = file_fingerprint(self.checkpoint)[:12]
        self._run = (config, variables, anny.load(), see, read)

    def close(self) -> None:
        """Lets go of the weights."""
        self._run = None

    def start(self, photos: Sequence[Photo], people: Sequence[People]) -> list[BodyParameters]:
        """A body per box; where the camera of a photo is known it is used, else the one that the network sees."""
        bodies = []
        for first in range(0, len(photos), self.batch):
            part = slice(first, first + self.batch)
            bodies += self._batch(photos[part], people[part])
        return bodies

    def _batch(self, photos: Sequence[Photo], people: Sequence[People]) -> list[BodyParameters]:
        import jax.numpy as jnp

        from annyfit_jax.regressors.multihmr import multihmr_model, square_preprocess
        from annyfit_jax.regressors.multihmr.head_detection import Patches

        config, variables, anny_model, see, read = self._run
        images, placements = zip(
            *(square_preprocess.square(photo.pixels, config.size) for photo in photos), strict=True
        )
        missing = self.batch - len(photos)  # one shape, one compilation
        stacked = np.pad(np.stack(images), [(0, missing)] + [(0, 0)] * 3)
        seen = see(variables, stacked)
        K = np.array(multihmr_model.intrinsics_of(config, seen))
        for i, (crowd, placement) in enumerate(zip(people, placements)):
            if crowd.intrinsics is not None:
                K[i] = placement.intrinsics(crowd.intrinsics)
        scores = np.asarray(seen.scores)
        count = max([config.max_people, *(len(crowd) for crowd in people)])
        count = 1 << (count - 1).bit_length()
        chosen = np.zeros((2, self.batch, count), np.int32)
        valid = np.zeros((self.batch, count), bool)
        for i, (crowd, placement) in enumerate(zip(people, placements)):
            n = len(crowd)
            chosen[:, i, :n] = head_patches(scores[i], crowd, placement, config.vit.patch).T
            valid[i, :n] = True
        bodies = read(
            variables, anny_model, seen, Patches(*map(jnp.asarray, (*chosen, valid, valid.astype(np.float32)))), K
        )
        result = []
        for i, crowd in enumerate(people):
            body = unknown_bodies(len(crowd))
            rows = slice(0, len(crowd))
            body.root_rotvec[:], body.transl[:] = np.asarray(bodies.root_rotvec[i])[rows], bodies.transl[i][rows]
            body.pose[:], body.shape[:] = np.asarray(bodies.pose[i])[rows], bodies.phenotypes[i][rows]
            result.append(body)
        return result


def head_patches(
    scores: Float[np.ndarray, "n n"], people: People, placement: Any, patch: int
) -> Int[np.ndarray, "person 2"]:
    """(row, column) of the patch that is each person's: where the keypoints have the face, else the best free one in the box.

    Two people never share a patch while there is another one in the box; the surer ones choose first.
    """
    side = len(scores)
    result = np.zeros((len(people), 2), np.int32)
    taken: Bool[np.ndarray, "n n"] = np.zeros((side, side), bool)
    boxes = placement.there(np.asarray(people.boxes, np.float64).reshape(-1, 2, 2)) / patch
    windows = []
    for box in boxes:
        low = np.clip(np.floor(box[0]), 0, side - 1).astype(int)
        high = np.clip(np.floor(box[1]), low, side - 1).astype(int)
        windows.append((slice(low[1], high[1] + 1), slice(low[0], high[0] + 1)))
    faces = [_face(people, i) for i in range(len(people))]
    best = [np.inf if faces[i] is not None else scores[windows[i]].max() for i in range(len(people))]
    for i in np.argsort(-np.asarray(best), kind="stable"):
        face = faces[i]
        if face is not None:
            at = np.clip(np.floor(placement.there(face) / patch), 0, side - 1).astype(int)[::-1]
        else:
            free = np.where(taken[windows[i]], -1.0, scores[windows[i]])
            row, column = np.unravel_index(int(np.argmax(free)), free.shape)
            at = np.array([row + windows[i][0].start, column + windows[i][1].start])
        result[i] = at
        taken[at[0], at[1]] = True
    return result


def _face(people: People, person: int) -> Float[np.ndarray, "2"] | None:
    """Mean of the confident keypoints of the face, pixels; None without one."""
    if people.keypoints is None:
        return None
    points = people.keypoints[person, _FACE]
    sure = points[:, 2] >= _LEAST_CONFIDENCE
    return points[sure, :2].mean(0) if sure.any() else None
