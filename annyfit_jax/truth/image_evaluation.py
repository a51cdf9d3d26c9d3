"""Errors of predictions by the published protocols: the labelled people of an image are looked for among the predicted ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.metrics.people_of_image import PredictedPeople, TruthPeople
from annyfit_jax.people.scene import BodyParameters, SceneError
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.truth.foreign_predictions import (
    AnnyPeople,
    SmplxPeople,
    agora_body,
    agora_files,
    read_agora,
    read_meshes,
)
from annyfit_jax.truth.protocols import checked, image_protocol
from annyfit_jax.truth.scene_evaluation import Columns
from annyfit_jax.truth.smplx_parts import read_parts
from annyfit_jax.truth.smplx_truth import joint_regressor
from annyfit_jax.truth.truth_source import TruthOptions, TruthSource, open_truth
from body_models.smplx import JOINTS as SMPLX_JOINTS

WITHOUT_FIT = ("missed", "left_out")
"""What becomes of images for which there is no prediction: everybody in them is missed, or they are not judged."""


def judge_images(
    fits: str, truth: str, protocol: str, options: TruthOptions, kind: str, parts: str | None, without_fit: str,
    collected: dict[str, Columns],
) -> dict[str, Any]:  # fmt: skip
    """Fills `collected` with the errors of every image; returns how errors are pooled, who was left out, and the settings.

    Raises SceneError on truth or predictions that do not fit the protocol, ValueError where no image has a prediction.
    """
    image_protocol(protocol, kind)  # refuses before anything is read
    predicted = _Predictions(fits, kind, options.smplx)
    regressor = joint_regressor(options.smplx) if predicted.body == "smplx" and kind != "agora" else None
    chosen = image_protocol(protocol, kind, predicted.body, parts=read_parts(parts), regressor=regressor)
    errors_of, source = checked(chosen), open_truth(protocol, truth, options)
    unfitted, absent = 0, []
    for people in source:
        columns = predicted.of(people)
        if columns is None:
            absent.append(people.name)
            if without_fit == "left_out":
                continue
            columns = predicted.nobody()
        else:
            unfitted += predicted.unfitted
        collected[people.name] = {name: errors_of(column, people) for name, column in columns.items()}
    if any("init" not in columns for columns in collected.values()):
        for columns in collected.values():
            columns.pop("init", None)
    if len(absent) == len(source):
        raise ValueError(
            f"{truth}: none of its {len(source)} images has a fit in {fits}; the first is {source.names[0]}"
        )
    settings = chosen.settings | {"images without a fit": without_fit} | _notes(source)
    return {"pool": chosen.pool, "not_fitted": unfitted, "scenes_without_fit": absent, "settings": settings}


def _notes(source: TruthSource) -> dict[str, str]:
    return {"note": "; ".join(source.notes)} if source.notes else {}


class _Predictions:
    """Predicted people by image, whatever they are stored as."""

    def __init__(self, path: str, kind: str, smplx: str | None) -> None:
        self._kind, self._smplx = kind, smplx
        self.unfitted = 0
        """People of the latest image who have no fit."""
        self._load: Callable[[str, TruthPeople | None], dict[str, PredictedPeople]]
        if kind == "fits":
            stored = open_fits(path)
            if stored.unfinished:
                logging.warning("%s: %d scenes are not fitted yet", path, stored.unfinished)
            first = stored.load(stored.names[0]) if stored.names else None
            self.body = "smplx" if first is not None and _is_smplx(first) else "anny"
            people = SmplxPeople(smplx) if self.body == "smplx" else AnnyPeople()
            self._names = set(stored.names)
            self._load = lambda name, truth: self._fit(stored.load(name), people, truth)
        elif kind == "agora":
            files = agora_files(path)
            self.body = agora_body(next(iter(files.values())))
            self._names, self._load = set(files), lambda name, _: {"fit": read_agora(files[name], self.body)}
        else:
            meshes = {file.stem: file for file in sorted(Path(path).glob("*.npz"))}
            if not meshes:
                raise FileNotFoundError(f"{path}: no predictions (<image>.npz)")
            self.body, regressor = "smplx", joint_regressor(smplx)
            self._names, self._load = set(meshes), lambda name, _: {"fit": read_meshes(meshes[name], regressor)}
        self._empty: dict[str, PredictedPeople] | None = None

    def of(self, truth: TruthPeople) -> dict[str, PredictedPeople] | None:
        """Predictions by column; None where there are none for the image."""
        for name in (truth.name, *truth.aliases):
            if name in self._names:
                return self._load(name, truth)
        return None

    def nobody(self) -> dict[str, PredictedPeople]:
        """An image without a prediction, in all columns."""
        if self._empty is None:
            empty = self._load(min(self._names), None)["fit"].select(np.zeros(0, np.int64))
            self._empty = dict.fromkeys(("init", "fit") if self._kind == "fits" else ("fit",), empty)
        return self._empty

    def _fit(
        self, fit: SceneFit, body: AnnyPeople | SmplxPeople, truth: TruthPeople | None
    ) -> dict[str, PredictedPeople]:
        if _is_smplx(fit) != (self.body == "smplx"):
            raise SceneError(
                f"{fit.name}: pose: expected the bones of {self.body} like the first fit, got {fit.pose.shape}"
            )
        self.unfitted = int((~fit.ok).sum())
        intrinsics = fit.K if truth is None else of_truth_size(fit.K, fit.image_size, truth.image_size)
        people, first = fit.parameters, fit.start
        ok = np.flatnonzero(fit.ok)
        meshes = () if self.body == "anny" or fit.vertices is None else (fit.vertices[ok],)
        fitted = body.predict(people.select(ok), intrinsics, *meshes)
        if all(np.array_equal(a, b) for a, b in zip(_arrays(people), _arrays(first), strict=True)):
            # A network's prediction is its own start.
            return {"fit": fitted} if len(fitted) else {"init": fitted, "fit": fitted}
        start = body.predict(first, intrinsics)
        # Fitted people had a start: where there is none, it is not stored.
        return {"init": start, "fit": fitted} if len(start) or not len(fitted) else {"fit": fitted}


def _is_smplx(fit: SceneFit) -> bool:
    return fit.pose.shape[1] == len(SMPLX_JOINTS) - 1


def _arrays(people: BodyParameters) -> tuple[np.ndarray, ...]:
    return people.root_rotvec, people.transl, people.pose, people.shape


def of_truth_size(
    intrinsics: Float[np.ndarray, "3 3"], size: np.ndarray | tuple[int, int], truth: tuple[int, int] | None
) -> Float[np.ndarray, "3 3"]:
    """(3, 3) intrinsics for the pixels of the truth, where the prediction saw the same picture in another size.

    A picture whose sides do not scale alike (to a pixel) is another one, a crop say: its intrinsics stay.
    """
    if truth is None or not np.all(np.asarray(size) > 0):
        return intrinsics
    scale = np.asarray(truth, np.float64) / np.asarray(size, np.float64)
    if abs(scale[0] / scale[1] - 1) * min(size) > 1:
        return intrinsics
    return np.diag([*scale, 1.0]) @ np.asarray(intrinsics, np.float64)
