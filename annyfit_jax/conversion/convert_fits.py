"""Fits of one body as fits of another, scene after scene."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from annyfit_jax.conversion.convert_people import Converted, Converter, Cues
from annyfit_jax.conversion.convertible import Convertible, convertible_anny, convertible_smplx
from annyfit_jax.conversion.matching import BATCH
from annyfit_jax.people.camera import project
from annyfit_jax.people.fitted import SceneFit, check_body, drawable, is_smplx
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records import fit_files
from annyfit_jax.records.file_names import TABLE, file_stem, table_lines
from annyfit_jax.records.files import json_lines
from annyfit_jax.store.holds import held
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.mirrors import local
from body_models import anny, smplx

BODIES = ("anny", "smplx")
REPORT = "conversion.jsonl"
"""A line for each person: scene, person_id, status, and how near the two bodies are."""
CHILD_NOTE = "child_as_adult_shape"
"""Note of a person whom SMPL-X has no shape for: a child, where there is no kid template."""
_AGE, CHILD_AGE = anny.PHENOTYPE_LABELS.index("age"), 0.45
"""Column of the phenotypes, and the age phenotype of some eleven years."""
_PARAMETERS = ("root_rotvec", "transl", "pose", "shape")
_WINDOW = 4 * BATCH
"""People of scenes that are converted together."""
_BODY_KEYPOINTS = np.arange(5, 17)


class Summary(NamedTuple):
    """What `write_converted` did."""

    scenes: int
    people: int
    surface_mm: float
    """Mean over people; NaN without any."""
    worst_mm: float


class FitConverter:
    """Fits of Anny as fits of SMPL-X, or back. Bodies are read and paired when the first fit comes."""

    def __init__(
        self,
        to: str,
        body_file: str | Path,
        *,
        num_betas: int = 10,
        kid_template: str | Path | None = None,
        to_keypoints: bool = False,
    ) -> None:
        """
        Args:
          to: `smplx` or `anny`.
          body_file: the user's SMPL-X file, needed in both directions; it and the next may be in a bucket.
          num_betas: of the SMPL-X bodies that are made; those that are read say themselves how many they have.
          kid_template: AGORA's file, for a blend with a child as the last coefficient of shape.
          to_keypoints: bodies of SMPL-X are also fitted to the keypoints that the fit was given (`Cues`).

        Raises ValueError for another body.
        """
        if to not in BODIES:
            raise ValueError(f"--to={to}: expected one of {', '.join(BODIES)}")
        self.to, self._file, self._num_betas, self._kid = to, body_file, num_betas, kid_template
        self._to_keypoints = to_keypoints and to == "smplx"
        self._converters: dict[int, Converter] = {}

    def __call__(self, fit: SceneFit, where: str = "") -> tuple[SceneFit, Converted]:
        """The fit as one of the other body, and the figures of its people (those with finite parameters, in order).

        Raises ValueError where the fit is not of the body that is converted.
        """
        return self.many([fit], where)[0]

    def many(self, fits: Sequence[SceneFit], where: str = "") -> list[tuple[SceneFit, Converted]]:
        """The same for several fits of one body, whose people are converted together."""
        converter = self._converter(fits, where)
        rows = [drawable(fit) for fit in fits]
        chosen = [fit.parameters.select(kept) for fit, kept in zip(fits, rows)]
        people = BodyParameters(*(np.concatenate([getattr(p, name) for p in chosen]) for name in _PARAMETERS))
        cues = None
        if self._to_keypoints:
            cameras = [np.tile(np.asarray(fit.K, np.float64), (len(kept), 1, 1)) for fit, kept in zip(fits, rows)]
            points = [np.asarray(fit.keypoints_2d, np.float64)[kept] for fit, kept in zip(fits, rows)]
            cues = Cues(np.concatenate(points), np.concatenate(cameras))
        converted = converter.convert(people, cues)
        ends = np.cumsum([len(kept) for kept in rows])
        parts = [converted.select(np.arange(end - len(kept), end)) for end, kept in zip(ends, rows)]
        return [(self._fit(converter, *each), each[2]) for each in zip(fits, rows, parts)]

    def _converter(self, fits: Sequence[SceneFit], where: str) -> Converter:
        """The converter for fits of one body. Raises ValueError where they are not what it converts."""
        kinds = {(is_smplx(fit), fit.shape.shape[1]) for fit in fits}
        (of_smplx, count), name = next(iter(kinds)), where or fits[0].name
        if len(kinds) > 1:
            raise ValueError(f"{name}, ...: fits of different bodies; convert them one after another")
        if of_smplx == (self.to == "smplx"):
            raise ValueError(f"{name}: is a fit of {self.to} already")
        betas = count - ("kid" in fits[0].phenotype_labels.tolist()) if of_smplx else self._num_betas
        if betas not in self._converters:
            self._converters[betas] = self._made(betas)
        converter = self._converters[betas]
        for fit in () if of_smplx else fits:
            check_body(where or fit.name, fit, converter.source.facts.version)
        return converter

    def _fit(self, converter: Converter, fit: SceneFit, rows: np.ndarray, converted: Converted) -> SceneFit:
        def spread(values: np.ndarray) -> np.ndarray:
            out = np.full((len(fit), *values.shape[1:]), np.nan, np.float32)
            out[rows] = values
            return out

        target = converter.target.facts
        notes = np.array(fit.notes, "U256")
        if self.to == "smplx" and self._kid is None:
            for row in rows[fit.shape[rows, _AGE] < CHILD_AGE]:
                notes[row] = ";".join(filter(None, [str(notes[row]), CHILD_NOTE]))
        people = {name: spread(getattr(converted.people, name)) for name in _PARAMETERS}
        points = spread(converted.keypoints)
        changed = {
            **people,
            **{f"start_{name}": np.full_like(people[name], np.nan) for name in _PARAMETERS},
            "notes": notes,
            "shape_raw": people["shape"],
            "fitted_keypoints_3d": points,
            "depth_m": people["transl"][:, 2],
            "reprojection_px": _reprojection(fit, points),
            "conversion_m": spread(converted.surface_m),
            "sd_joints_m": np.full_like(fit.sd_joints_m, np.nan),
            "bone_labels": np.array(target.bones[1:]),
            "phenotype_labels": np.array(target.shape_labels),
            "asset_version": target.version,
            "vertices": None,
        }
        return replace(fit, **changed)

    def _made(self, betas: int) -> Converter:
        kid = None if self._kid is None else local(str(self._kid))
        with jax.default_matmul_precision("highest"):
            bodies: dict[str, Convertible] = {
                "anny": convertible_anny(anny.load()),
                "smplx": convertible_smplx(smplx.load(local(str(self._file)), num_betas=betas, kid_template=kid)),
            }
            return Converter(bodies["smplx" if self.to == "anny" else "anny"], bodies[self.to])


def write_converted(fits: Iterable[SceneFit], folder: str | Path | Location, convert: FitConverter) -> Summary:
    """Writes `<scene>.npz` of the other body into `folder/fits`, and `folder/conversion.jsonl`; each file atomically.

    Raises TakenError where another process is at work on the folder, of a bucket.
    """
    folder = place(folder)
    lines: list[dict[str, Any]] = []
    names: list[str] = []
    scenes = 0
    with held(folder) as hold:
        for window in _windows(fits):
            for made, converted in convert.many(window):
                if hold is not None:
                    hold.check()
                with (folder / "fits" / f"{file_stem(made.name)}.npz").replacing() as file:
                    fit_files.save(made, file)
                lines += _lines(made, converted)
                names.append(made.name)
                scenes += 1
        if table := b"".join(table_lines(names)):
            (folder / "fits" / TABLE).put(table)
        (folder / REPORT).put_parts(json_lines(lines))
    errors = np.array([line["surface_mm"] for line in lines if "surface_mm" in line])
    people = len(errors)
    return Summary(
        scenes, people, float(errors.mean()) if people else np.nan, float(errors.max()) if people else np.nan
    )


def _windows(fits: Iterable[SceneFit]) -> Iterator[list[SceneFit]]:
    """Scenes that are converted together: so many that their people fill a few batches."""
    window: list[SceneFit] = []
    people = 0
    for fit in fits:
        window.append(fit)
        people += len(fit)
        if people >= _WINDOW:
            yield window
            window, people = [], 0
    if window:
        yield window


def _lines(fit: SceneFit, converted: Converted) -> Iterator[dict[str, Any]]:
    figures = zip(converted.surface_m, converted.surface_p95_m, converted.turn_rad, strict=True)
    for row in range(len(fit)):
        line: dict[str, Any] = {
            "scene": fit.name,
            "person_id": str(fit.person_ids[row]),
            "status": str(fit.status[row]),
        }
        if np.isfinite(fit.conversion_m[row]):
            mean, p95, turn = next(figures)
            line |= {
                "surface_mm": round(1e3 * mean, 3),
                "surface_p95_mm": round(1e3 * p95, 3),
                "turn_degrees": round(float(np.degrees(turn)), 3),
            }
        yield line


def _reprojection(fit: SceneFit, points: np.ndarray) -> np.ndarray:
    """(n,) mean distance in pixels of the body's keypoints from those that the fit was given, by their confidence."""
    seen = np.nan_to_num(fit.keypoints_2d[:, _BODY_KEYPOINTS, 2]) > 0
    pixels = project(points[:, _BODY_KEYPOINTS].astype(np.float64), np.asarray(fit.K, np.float64))
    off = np.where(seen, np.linalg.norm(pixels - fit.keypoints_2d[:, _BODY_KEYPOINTS, :2], axis=-1), 0.0)
    count = seen.sum(1)
    return np.where(count > 0, off.sum(1) / np.maximum(count, 1), np.nan).astype(np.float32)
