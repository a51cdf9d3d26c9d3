"""Labels of scenes in the form of fits: what a cue dataset states about its people, and how much each person counts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from annyfit_jax.fit import trust
from annyfit_jax.inputs.cue_source import CueSource, open_cues
from annyfit_jax.inputs.scene_source import InputOptions
from annyfit_jax.jobs.fit_source import FitSource, Outcome
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import UNKNOWN_WORD, BodyParameters, Scene
from annyfit_jax.records.fit_files import FitFileError, SceneFit
from annyfit_jax.regressors.regressed_people import scene_fit
from body_models import anny


def open_scenes(path: str | Path) -> CueSource:
    """A cue dataset without masks and depth maps, which no label needs. Raises SceneError."""
    return open_cues(str(path), InputOptions(with_masks=False, with_depth_map=False))


def as_fit(scene: Scene, people: BodyParameters, meshes: BodyMeshes, origin: str) -> SceneFit:
    """Parameters of all people of a scene in the form of a fit, with the cues that it was not fitted to."""
    keypoints, tall = meshes.keypoints_and_height(people)
    labels = (np.array(meshes.model.labels.bones[1:]), np.array(anny.PHENOTYPE_LABELS))
    fit = scene_fit(
        scene.name, scene.image_path or "", scene.image_size, scene.intrinsics, people, labels, keypoints_3d=keypoints,
        height_m=tall, keypoints_2d=scene.keypoints, origin=origin, asset_version=meshes.model.labels.asset_version,
    )  # fmt: skip
    ids = scene.person_ids or [str(i) for i in range(len(scene))]
    return dataclasses.replace(
        fit, person_ids=np.array(ids, np.str_), depth_cue_m=np.asarray(scene.median_depth, np.float32),
        age_word=np.asarray(scene.age, np.float32), gender_word=np.asarray(scene.gender, np.float32),
    )  # fmt: skip


class StatedPeople(FitSource):
    """The people of a cue dataset as its starts or its truth state them, as if somebody had fitted them."""

    def __init__(self, path: str | Path, states: Literal["start", "truth"], meshes: BodyMeshes | None = None) -> None:
        """Raises SceneError where the dataset cannot be read."""
        self._source, self._states = open_scenes(path), states
        self._meshes = BodyMeshes() if meshes is None else meshes
        self._index = {name: i for i, name in enumerate(self._source.names)}
        self.location, self.total = str(path), len(self._source)

    @property
    def fingerprint(self) -> str:
        plan = Path(self.location) / "plan.json"
        content = plan.read_bytes() if plan.is_file() else json.dumps(self.names).encode()
        return hashlib.sha256(self._states.encode() + content).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._source.names)

    def where(self, name: str) -> str:
        return f"{self.location}: scene {name}"

    def outcome(self, name: str) -> Outcome:
        if name not in self._index:
            raise FitFileError(f"{self.location}: no scene {name}")
        return self._outcome(self._index[name])

    def part(self, span: range) -> Iterator[Outcome]:
        return map(self._outcome, span)

    def _outcome(self, index: int) -> Outcome:
        scene = self._source.load(index)
        people = scene.start if self._states == "start" else scene.truth
        if people is None:
            raise FitFileError(f"{self.where(scene.name)}: no {self._states}")
        return Outcome(as_fit(scene, people, self._meshes, self._states), index=index)


def without(scene: Scene, cues: Iterable[str]) -> Scene:
    """The scene without some of its cues: `words`, `depth`."""
    gone = set(cues)
    n = len(scene)
    words = {name: np.full(n, UNKNOWN_WORD) for name in ("age", "gender")} if "words" in gone else {}
    depth = {"median_depth": np.full(n, np.nan), "depth_layer": np.full(n, -1, np.int64), "depth_map": None}
    return dataclasses.replace(scene, **words, **(depth if "depth" in gone else {}))


# ------------------------------------------------------------------------------------------------ selection


class Selected(NamedTuple):
    """Which labels are learned from."""

    names: tuple[str, ...]
    """Scenes in which somebody counts, in order."""
    people: int
    """... and how many do."""
    all_people: int


def trusted(threshold: float) -> Callable[[SceneFit], Float[np.ndarray, "n"]]:
    """How much each person of a fit counts: 1 from a trust score of `threshold` on, else 0."""
    return lambda fit: (trust.scores(fit) >= threshold).astype(np.float32)


def select(source: FitSource, weigh: Callable[[SceneFit], Float[np.ndarray, "n"]]) -> Selected:
    """The scenes in which somebody counts. Raises ValueError where there is none."""
    names, people, everyone = [], 0, 0
    for fit in source:
        counted = int((weigh(fit) > 0).sum())
        everyone, people = everyone + int(fit.ok.sum()), people + counted
        if counted:
            names.append(fit.name)
    if not names:
        raise ValueError(f"{source.location}: nobody is trusted; the threshold is too high for these fits")
    return Selected(tuple(names), people, everyone)
