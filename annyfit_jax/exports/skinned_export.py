"""Fits as people with bones, scene after scene: bodies made ready for the writers of `skinned_files`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from annyfit_jax.exports import rigs, scene_files, skinned_files
from annyfit_jax.exports.other_programs import OtherProgram
from annyfit_jax.exports.training_set import photos_from
from annyfit_jax.jobs.fit_source import FitSource, Outcome
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fit_meshes import FitMeshes, SmplxMeshes
from annyfit_jax.people.fitted import SceneFit, check_body, drawable
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.records.file_names import file_stem, write_table


@dataclass(frozen=True)
class Skinned:
    """How a `.glb` with bones is written."""

    per_person: bool = False
    """A file for each person, `<scene>_person_<id>.glb`, instead of one for the scene."""
    photos: str = ""
    """Folder of the photos, or the cue dataset that has them, for a plane behind the people; empty = no plane."""
    influences: int = 0
    """Skinning weights per vertex; 0 = as many as the program takes."""


def export_skinned(
    source: FitSource,
    outcomes: Iterable[Outcome],
    folder: Path,
    frame: str,
    program: OtherProgram,
    skinned: Skinned | None,
    meshes: FitMeshes | None = None,
) -> tuple[list[Path], list[str]]:
    """Writes skinned `.glb` files, or with None for `skinned` a `.bvh` for each person; `meshes` have SMPL-X for its fits.

    Returns the files and the names of scenes without a body. Raises ValueError for fits of another body and for a number of
    influences that no mesh has, FileNotFoundError for photos that are no folder, SceneError for a photo that is missing.
    """
    known = meshes or FitMeshes()
    influences = (skinned.influences if skinned else 0) or program.influences
    photo = photos_from(skinned.photos) if skinned and skinned.photos else None
    written: list[Path] = []
    empty: list[str] = []
    odd: list[str] = []
    for outcome in outcomes:
        fit = outcome.fit
        rows = drawable(fit)
        body = _body_of(fit, influences, known, source.where(fit.name))
        check_body(source.where(fit.name), fit, body.version)
        if not len(rows):
            empty.append(fit.name)
            continue
        people = fit.parameters.select(rows)
        transform = scene_files.camera_to_frame(frame, body.vertices(people) if frame == "world" else None)
        rig, rigged = body.rig, list(body.rigged(people))
        alone = skinned is None or skinned.per_person
        parts = [(row,) for row in rows] if alone else [tuple(rows)]
        picture = photo(outcome) if photo else b""
        for k, part in enumerate(parts):
            name = person_file(fit, part[0], rows) if alone else fit.name
            path = folder / f"{file_stem(name)}.{'glb' if skinned else 'bvh'}"
            if skinned:
                bodies = rigged[k : k + 1] if alone else rigged
                skinned_files.export_skinned_glb(fit, part, path, rig, bodies, transform, frame, program, picture)
            else:
                skinned_files.export_bvh(path, rig, rigged[k], transform, frame, program)
            written.append(path)
            if file_stem(name) != name:
                odd.append(name)
    write_table(folder, odd)
    return written, empty


@dataclass(frozen=True)
class _Body:
    """A body of either kind as it is exported."""

    version: str
    rig: rigs.Rig
    rigged: Callable[[BodyParameters], Iterable[rigs.RiggedPerson]]
    vertices: Callable[[BodyParameters], np.ndarray]


def _body_of(fit: SceneFit, influences: int, bodies: FitMeshes, where: str) -> _Body:
    meshes = bodies.of(fit, where)
    return _smplx(influences, meshes) if isinstance(meshes, SmplxMeshes) else _anny(influences)


@functools.lru_cache(maxsize=1)
def _anny(influences: int) -> _Body:
    meshes = BodyMeshes()
    rig = rigs.anny_rig(meshes.model, influences)
    return _Body(
        meshes.model.labels.asset_version, rig, functools.partial(rigs.rigged_anny, meshes.model), meshes.vertices
    )


@functools.lru_cache(maxsize=1)
def _smplx(influences: int, meshes: SmplxMeshes) -> _Body:
    model = meshes.model
    rig = rigs.smplx_rig(model, influences)

    def vertices(people: BodyParameters) -> np.ndarray:
        bodies = rigs.rigged_smplx(model, people)
        return np.stack([rigs.skinned(rig, body, rigs.world_poses(rig, _in_camera(rig, body))) for body in bodies])

    return _Body(model.labels.asset_version, rig, functools.partial(rigs.rigged_smplx, model), vertices)


def _in_camera(rig: rigs.Rig, body: rigs.RiggedPerson) -> np.ndarray:
    return rigs.local_poses(rig, body, np.eye(4))


def person_file(fit: SceneFit, row: int, rows: np.ndarray) -> str:
    """`<scene>_person_<id>`: the name of a person's own file."""
    return f"{fit.name}_{scene_files.node_names(fit, rows)[list(rows).index(row)]}"
