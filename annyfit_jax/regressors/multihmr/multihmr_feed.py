"""The data of a training run of Multi-HMR as config: datasets of fits with their photos, mixed by probabilities."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from annyfit_jax.exports.training_set import FitRecords, record_name, record_photo
from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.people.anatomy import other_side
from annyfit_jax.people.scene import SceneError
from annyfit_jax.regressors.aios.picture_preprocess import normalise
from annyfit_jax.regressors.multihmr import square_preprocess
from annyfit_jax.regressors.multihmr.multihmr_batch import Batch, Targets, blank_targets
from annyfit_jax.training.training_data import Mixed, Size, Source

_SHAPES = ((1, 6), (1, 3), (1, 162, 3), (1, 3))
"""Of the parameters of one person."""
_MIRRORED_AXES = np.array([1.0, -1.0, -1.0])
"""Signs of a rotation vector when x is mirrored."""
_DOUBT = {"depth": 0.04, "height": 0.04, "joints": 0.1}
"""Standard deviations at which a person counts 1: shares of depth and height, metres. The medians of the trusted fits of
`experiments/configs/distill_tiny.py` (0.038, 0.041, 0.108), so that weights are about 1 on average."""


@dataclass(frozen=True)
class FitSet:
    """One dataset of fits (`experiments.export --format=tfds --images=...`)."""

    name: str
    probability: float
    """Share of the rows that come from it; 0: not opened."""
    path: str = ""
    every: int = 1
    """n: only every n-th picture is used."""
    uncertainty: bool = False
    """Weigh people by how sure their fit is (`certainty`); people whose fit does not say count 1."""
    in_memory: bool = False
    """Keep the pictures, decoded and made square: for small pictures, which cost more to read than to learn from."""


class Decoded(NamedTuple):
    """A record with its picture made square; n people."""

    pixels: UInt8[np.ndarray, "S S 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    """Of the square picture."""
    fields: dict[str, np.ndarray]
    known: Bool[np.ndarray, "n"]
    weight: Float[np.ndarray, "n"]


class _InMemory:
    """Records that are decoded once."""

    def __init__(self, records: FitRecords, decode: Callable[[Any], Decoded]) -> None:
        self._records, self._decode = records, decode
        self._known: dict[int, Decoded] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Decoded:
        if index not in self._known:
            self._known[index] = self._decode(self._records[index])
        return self._known[index]


class Row(NamedTuple):
    """One picture, prepared."""

    image: Float[np.ndarray, "S S 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    targets: Targets
    """Without a batch axis."""


@dataclass(frozen=True)
class MultiHmrFeed:
    """See `annyfit_jax.training.training_data.Feed`."""

    sets: tuple[FitSet, ...]
    side: int = 672
    """Pixels of the square picture; as `size` of the network."""
    max_people: int = 20
    """Rows of the targets; of more people in a picture the nearest stay."""
    flip: float = 0.5
    """Probability of mirroring."""
    colour: float = 0.0
    """Half range of a factor on each colour channel."""

    def sources(self) -> list[Mixed]:
        """Opens the sets of positive probability."""
        return [Mixed(part.name, self._source(part), part.probability) for part in self.sets if part.probability > 0]

    def row(self, source: str, example: Any, random: np.random.Generator) -> Row:
        """Square picture, camera and people of a record; mirrored at times."""
        record = example if isinstance(example, Decoded) else self._decoded(source, example)
        pixels, K, fields = record.pixels, record.intrinsics, record.fields
        if random.random() < self.flip:
            pixels, K, fields = pixels[:, ::-1], _mirrored_camera(K, self.side), mirrored(fields)
        image = normalise(pixels.astype(np.float32))
        if self.colour:
            image = image * random.uniform(1 - self.colour, 1 + self.colour, 3).astype(np.float32)
        return Row(image, K.astype(np.float32), self._targets(fields, record.known, record.weight))

    def _decoded(self, source: str, example: Any) -> Decoded:
        """A record as far as nothing is random. Raises SceneError where it cannot be learned from."""
        name = record_name(example)
        photo = read_photo(record_photo(example, name), where=name, upright=False)
        fields = {key: np.asarray(example[key], np.float64) for key in ("root_rotvec", "transl", "pose", "shape")}
        known = np.asarray(example["fitted"], bool) & np.all(
            [np.isfinite(v).reshape(len(v), -1).all(1) for v in fields.values()], axis=0
        )
        weight = np.asarray(example.get("loss_weight", np.ones(len(known))), np.float64)
        if self._named[source].uncertainty:
            weight = weight * _certainty_of(example)
        pixels, placement = square_preprocess.square_pixels(photo, self.side)
        K = placement.intrinsics(np.asarray(example["intrinsics"], np.float64))
        return Decoded(pixels, K, fields, known, weight)

    def _source(self, part: FitSet) -> Source:
        records = FitRecords(self._path(part), part.every)
        return _InMemory(records, functools.partial(self._decoded, part.name)) if part.in_memory else records

    def size(self, rows: Sequence[Row]) -> Size:
        """All pictures are squares of one size."""
        del rows
        return self.side, self.side

    def batch(self, rows: Sequence[Row], size: Size) -> Batch:
        """Rows side by side."""
        del size
        targets = Targets(*(np.stack(part) for part in zip(*(row.targets for row in rows), strict=True)))  # pyright: ignore
        images, intrinsics = (np.stack([row[k] for row in rows]) for k in (0, 1))
        return Batch(images, intrinsics, targets)  # pyright: ignore[reportArgumentType]

    def _targets(self, fields: dict[str, np.ndarray], known: np.ndarray, weight: np.ndarray) -> Targets:
        order = np.flatnonzero(known)
        order = order[np.argsort(fields["transl"][order, 2], kind="stable")][: self.max_people]
        blank = blank_targets(1, self.max_people)
        values = {name: np.asarray(array)[0].copy() for name, array in blank._asdict().items()}
        n = len(order)
        values["people"][:n] = True
        values["weight"][:n] = weight[order]
        for ours, theirs in (("root_rotvec",) * 2, ("transl",) * 2, ("pose",) * 2, ("phenotypes", "shape")):
            values[ours][:n] = fields[theirs][order]
        return Targets(**values)

    def _path(self, part: FitSet) -> str:
        if not part.path:
            raise ValueError(f"set {part.name}: no path; give --set=feed.sets.{part.name}.path=... or probability=0")
        return part.path

    @functools.cached_property
    def _named(self) -> dict[str, FitSet]:
        return {part.name: part for part in self.sets}


def certainty(spread: dict[str, Float[np.ndarray, "n"]]) -> Float[np.ndarray, "n"]:
    """Weights of people by the standard deviations of their fits: 2 / (1 + s^2), s^2 the mean of (spread / `_DOUBT`)^2.

    Args:
      spread: of depth and height as shares, of joints in metres, from the fit's calibrated covariance; NaN = not known. A
        person of whom nothing is known counts 1.
    """
    squares = np.stack([(np.asarray(spread[name], np.float64) / typical) ** 2 for name, typical in _DOUBT.items()])
    known = np.isfinite(squares)
    mean = np.where(known, squares, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known.any(0), 2.0 / (1.0 + mean), 1.0)


def _certainty_of(example: Any) -> Float[np.ndarray, "n"]:
    """`certainty` of the people of a record. Raises SceneError where the dataset was written without spreads."""
    fields = ("sd_depth_m", "depth_m", "sd_height_m", "height_m", "sd_joints_m")
    missing = [name for name in fields if name not in example]
    if missing:
        raise SceneError(
            f"{record_name(example)}: no {', '.join(missing)}: export the fits again, or uncertainty=False"
        )
    sd_depth, depth, sd_height, height, sd_joints = (np.asarray(example[name], np.float64) for name in fields)
    joints = np.sqrt((sd_joints**2).mean(-1))
    return certainty({"depth": sd_depth / depth, "height": sd_height / height, "joints": joints})


class Mirror(NamedTuple):
    """Row b of the mirrored pose is `turn[b] @ pose[bone[b]]`."""

    bone: np.ndarray
    """Row of the bone on the other side of the body."""
    turn: Float[np.ndarray, "162 3 3"]


@functools.cache
def mirror() -> Mirror:
    """How rotation vectors change sides. With resting frames R, R' of a bone and its twin and S the reflection in x, the twin
    turns by M q M^T, M = R'^T S R; a rotation vector w becomes det(M) M w. Frames are those of the average body."""
    import jax

    from body_models import anny

    model = anny.load()
    bones = model.labels.bones[1:]
    twin = np.array([bones.index(other_side(name)) for name in bones])
    resting: Any = anny.Params(*(np.full(s, 0.5 * (k == 0), np.float32) for k, s in enumerate(_SHAPES)))  # pyright: ignore
    bones_of = jax.jit(lambda model, people: anny.forward(model, people).bone_poses)
    frames = np.asarray(bones_of(model, resting), np.float64)[0, 1:, :3, :3]
    change = frames.transpose(0, 2, 1) @ np.diag([-1.0, 1.0, 1.0]) @ frames[twin]
    return Mirror(twin, np.linalg.det(change)[:, None, None] * change)


def mirrored(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of the people in the mirrored picture."""
    return {
        "root_rotvec": fields["root_rotvec"] * _MIRRORED_AXES,
        "transl": fields["transl"] * np.array([-1.0, 1.0, 1.0]),
        "pose": np.einsum("bij,nbj->nbi", mirror().turn, fields["pose"][:, mirror().bone]),
        "shape": fields["shape"],
    }


def _mirrored_camera(K: np.ndarray, width: int) -> np.ndarray:
    moved = K.copy()
    moved[0, 2] = width - K[0, 2]
    return moved
