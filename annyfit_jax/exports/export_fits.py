"""Fits in a format for other programs, by its name: one function in front of the writers of this package."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from annyfit_jax.engine.stages import Engine
from annyfit_jax.exports import exported_people, scene_files
from annyfit_jax.exports.other_programs import PROGRAMS
from annyfit_jax.jobs.fit_source import FitSource, Outcome, open_fits
from annyfit_jax.people.fitted import check_body, drawable
from annyfit_jax.records.fit_files import SceneFit

if TYPE_CHECKING:
    from annyfit_jax.exports.skinned_export import Skinned

_TABLE_NAMES = {"parquet": "people.parquet", "coco": "annotations.json", "bedlam": "bedlam.npz"}
"""Formats of one file, and its name where --output is a folder."""
FORMATS = (
    *scene_files.FORMATS, "bvh", "parquet", "coco", "humandata", "amass", "bedlam", "tfds", "webdataset",
)  # fmt: skip
_NAMES_SHOWN = 20


def export_fits(
    fits: str,
    output: str,
    file_format: str,
    scenes: Sequence[str] = (),
    frame: str = "camera",
    *,
    images: str = "",
    scenes_per_shard: int = 512,
    people_per_file: int = 10_000,
    smplx_model: str = "",
    program: str = "blender",
    skinned: Skinned | None = None,
    log_every_s: float = 10.0,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> tuple[list[Path], list[str]]:
    """Writes fits in one of `FORMATS`; returns the files written and the names of scenes without a mesh.

    Args:
      fits: output of a job, folder of fits, or one fit (`open_fits`).
      output: folder; of `parquet` and `coco` a file or a folder.
      scenes: names; all by default.
      frame: `npz`, `glb`, `ply`, `obj`, `bvh`: origin at the camera or on the floor.
      images: folder of the photos, or for `tfds`, `webdataset` and `photo_plane` a cue dataset that has them.
      smplx_model: `humandata`, `amass`, `bedlam`: the user's model file, for fits of SMPL-X, and for those of Anny as SMPL-X.
      program: one of `other_programs.PROGRAMS`, for which `glb` with bones, `bvh` and `obj` are.
      skinned: `glb` with bones, and how.
      engine, stop: `webdataset`: who writes the shards, and an event that asks to stop.

    Raises FileNotFoundError without fits, FitFileError on a broken one, ValueError on an unknown format, frame or scene,
    StoreError where the folder holds another dataset.
    """
    if file_format not in FORMATS:
        raise ValueError(f"--format={file_format}: expected one of {', '.join(FORMATS)}")
    if frame not in scene_files.FRAMES:
        raise ValueError(f"--frame={frame}: expected one of {', '.join(scene_files.FRAMES)}")
    if program not in PROGRAMS:
        raise ValueError(f"--for={program}: expected one of {', '.join(PROGRAMS)}")
    if skinned and file_format != "glb":
        raise ValueError("--skinned is for --format=glb")
    source = open_fits(fits, details=False)
    known = set(source.names) if scenes else set()
    unknown = [name for name in scenes if name not in known]
    if unknown:
        shown = ", ".join(source.names[:_NAMES_SHOWN]) + (", ..." if len(known) > _NAMES_SHOWN else "")
        raise ValueError(f"--scenes: no fit of {', '.join(unknown)} in {fits}; there are {shown}")
    if source.unfinished:
        logging.warning("%s: %d scenes of the job are not done yet and left out", fits, source.unfinished)

    def outcomes() -> Iterator[Outcome]:
        chosen = map(source.outcome, scenes) if scenes else source.outcomes()
        return exported_people.with_progress(chosen, len(scenes) or source.total, "scenes", log_every_s)

    def fitted() -> Iterator[SceneFit]:
        return (outcome.fit for outcome in outcomes() if outcome.fitted)

    if skinned or file_format == "bvh":
        from annyfit_jax.exports.skinned_export import export_skinned

        kept = (outcome for outcome in outcomes() if outcome.fitted)
        return export_skinned(source, kept, Path(output), frame, PROGRAMS[program], skinned, smplx_model)
    if file_format in scene_files.FORMATS:
        return _scene_files(source, fitted(), Path(output), file_format, frame, program)
    if file_format == "webdataset":
        from annyfit_jax.exports.webdataset_export import write_webdataset

        names, count, people = write_webdataset(
            fits, output, scenes=scenes, images=images, scenes_per_shard=scenes_per_shard, engine=engine, stop=stop
        )
        logging.info("%d scenes and %d people written now", count, people)
        return [Path(output) / name for name in names], []
    if file_format == "tfds":
        return _training_set(source, output, scenes, images, scenes_per_shard), []
    if file_format == "humandata":
        return _humandata(source, fitted(), output, images, people_per_file, smplx_model), []
    if file_format in ("amass", "bedlam"):
        return _smplx_files(source, fitted(), output, file_format, frame, images, smplx_model), []
    return _one_file(outcomes, fitted, Path(output), file_format, images), []


def _scene_files(
    source: FitSource, fits: Iterable[SceneFit], folder: Path, file_format: str, frame: str, program: str
) -> tuple[list[Path], list[str]]:
    from annyfit_jax.people.body_meshes import BodyMeshes
    from annyfit_jax.records.file_names import file_stem, write_table

    meshes = BodyMeshes() if file_format != "npz" or frame == "world" else None
    written: list[Path] = []
    empty: list[str] = []
    odd: list[str] = []
    for fit in fits:
        rows, vertices = drawable(fit), None
        if meshes is not None:
            check_body(source.where(fit.name), fit, meshes.model.labels.asset_version)
            vertices = meshes.vertices(fit.parameters.select(rows))
        transform = scene_files.camera_to_frame(frame, vertices)
        path = folder / f"{file_stem(fit.name)}.{file_format}"
        if file_format == "npz":
            scene_files.export_npz(fit, path, transform, frame)
        elif meshes is None or vertices is None or not len(rows):
            empty.append(fit.name)
            continue
        else:
            write = {
                "glb": scene_files.export_glb,
                "ply": scene_files.export_ply,
                "obj": functools.partial(scene_files.export_obj, program=PROGRAMS[program]),
            }[file_format]
            write(fit, path, vertices, meshes.faces, transform, frame)
        written.append(path)
        if file_stem(fit.name) != fit.name:
            odd.append(fit.name)
    write_table(folder, odd)
    return written, empty


def _one_file(
    outcomes: Callable[[], Iterable[Outcome]], fitted: Callable[[], Iterable[SceneFit]], path: Path, file_format: str,
    images: str,
) -> list[Path]:  # fmt: skip
    from annyfit_jax.exports import coco_export, tables

    name = _TABLE_NAMES[file_format]
    path = path if path.suffix == Path(name).suffix and not path.is_dir() else path / name
    if file_format == "parquet":
        logging.info("%d people", tables.write_people(outcomes(), path))
    else:
        logging.info("%d images, %d people", *coco_export.write_coco(fitted(), path, image_root=images or None))
    return [path]


def _humandata(
    source: FitSource, fits: Iterable[SceneFit], folder: str, images: str, people_per_file: int, smplx_model: str
) -> list[Path]:
    from annyfit_jax.exports import humandata_export
    from body_models import smplx

    model = smplx.load(smplx_model) if smplx_model else None
    return humandata_export.write_humandata(
        fits, folder, people_per_file=people_per_file, image_root=images or None, smplx_model=model,
        to_smplx=_to_smplx(source, smplx_model) if smplx_model else None,
    )  # fmt: skip


def _smplx_files(
    source: FitSource,
    fits: Iterable[SceneFit],
    output: str,
    file_format: str,
    frame: str,
    images: str,
    smplx_model: str,
) -> list[Path]:
    from annyfit_jax.exports import smplx_export
    from body_models import smplx

    if not smplx_model:
        raise ValueError(f"--format={file_format} needs --smplx_model, the user's SMPL-X file")
    model, to_smplx = smplx.load(smplx_model), _to_smplx(source, smplx_model)
    bodies = (fit if tuple(fit.bone_labels.tolist()) == smplx.JOINTS[1:] else to_smplx(fit) for fit in fits)
    if file_format == "amass":
        return smplx_export.write_amass(bodies, output, model, frame)
    path, name = Path(output), _TABLE_NAMES[file_format]
    path = path if path.suffix == Path(name).suffix and not path.is_dir() else path / name
    return smplx_export.write_bedlam(bodies, path, model, images or None)


def _to_smplx(source: FitSource, body_file: str) -> Callable[[SceneFit], SceneFit]:
    """Makes fits of SMPL-X from fits of Anny."""
    from annyfit_jax.conversion.convert_fits import FitConverter

    convert = FitConverter("smplx", body_file)
    return lambda fit: convert(fit, source.where(fit.name))[0]


def _training_set(
    source: FitSource, folder: str, scenes: Sequence[str], images: str, scenes_per_shard: int
) -> list[Path]:
    from annyfit_jax.exports import training_set

    photo = training_set.photos_from(images) if images else None
    state = training_set.write_training_set(
        source, folder, names=scenes, photo=photo, scenes_per_shard=scenes_per_shard,
        on_shard=lambda shard: logging.info("shard %d written", shard),
    )  # fmt: skip
    if not state.finished:
        raise ValueError(f"{folder}: no scene could be written; the reasons are in set_aside.jsonl")
    logging.info("%d scenes, %d fitted people, %d scenes set aside", state.scenes, state.people, state.set_aside)
    return sorted(Path(folder).glob("*.array_record-*"))
