"""Fits in a format for other programs, by its name: one function in front of the writers of this package.

Every export is cut into parts of consecutive scenes, which the workers of an engine write (`annyfit_jax.store.parts`): files of
their own, or parts of one file, which the driver puts together. The result does not depend on who writes it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stages import Engine
from annyfit_jax.exports import scene_files, usd_file
from annyfit_jax.exports.data_card import CARD, Counts, write_card
from annyfit_jax.exports.other_programs import PROGRAMS
from annyfit_jax.jobs.fit_source import FitSource, Outcome, open_fits
from annyfit_jax.people.fitted import check_body, drawable, is_smplx
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.store.holds import TakenError
from annyfit_jax.store.locations import Location, place
from annyfit_jax.store.mirrors import local
from annyfit_jax.store.parts import LEDGER, Made, Parts, Record, Write

if TYPE_CHECKING:
    from annyfit_jax.exports.skinned_export import Skinned
    from annyfit_jax.people.fit_meshes import FitMeshes
    from body_models.smplx import SmplxModel

_TABLE_NAMES = {"parquet": "people.parquet", "coco": "annotations.json", "bedlam": "bedlam.npz"}
"""Formats of one file, and its name where --output is a folder."""
FORMATS = (
    *scene_files.FORMATS, "bvh", "parquet", "coco", "humandata", "amass", "bedlam", "tfds", "webdataset",
)  # fmt: skip
_NAMES_SHOWN = 20
_CONVERTED_BETAS = 10
"""Of SMPL-X that fits of Anny are converted to."""


@dataclass(frozen=True)
class _Wanted:
    """What decides the files of an export besides the fits; JSON by `asdict`."""

    file_format: str
    frame: str = "camera"
    images: str = ""
    smplx_model: str = ""
    kid_template: str = ""
    program: str = "blender"
    skinned: Skinned | None = None
    partition_by: tuple[str, ...] = ()


@dataclass
class _Export:
    """An export under way."""

    source: FitSource
    names: tuple[str, ...]
    """Chosen scenes; empty: all."""
    wanted: _Wanted
    scenes_per_part: int
    engine: Engine | None
    stop: threading.Event | None
    log_every_s: float
    counts: Counts = field(default_factory=Counts)

    @property
    def total(self) -> int:
        """Scenes that are exported."""
        return len(self.names) or self.source.total

    @contextlib.contextmanager
    def written(
        self, output: Location, make: Callable[[], Write], spans: Sequence[range] = (), name: str = "",
        ledger: Location | None = None,
    ) -> Iterator[tuple[Parts, list[Record]]]:  # fmt: skip
        """Has all parts written; gives their records for the block, in which no other driver writes the same.

        Args:
          make: of `Parts`; its tasks are (part, span, names).
          spans: the scenes of each part; default `scenes_per_part` each.
        """
        step, total = self.scenes_per_part, self.total
        spans = spans or [range(k, min(k + step, total)) for k in range(0, total, step)]
        tasks = [(part, span, self.names[span.start : span.stop]) for part, span in enumerate(spans)]
        settings = {"fits": self.source.fingerprint, "names": self.names, "step": step, **asdict(self.wanted)}
        parts = Parts(
            name or self.wanted.file_format, output, tasks, make, settings, ledger=ledger, things=(total, "scenes"),
            counted=_counted, log_every_s=self.log_every_s,
        )  # fmt: skip
        with parts.alone():
            # Counts are one of two calls: what is chosen for the other one is no mistake here.
            engine = self.engine.of([parts.name]) if name and self.engine else self.engine
            run([parts.stage()], engine, self.stop)
            records = parts.finish()
            if not self.counts.scenes:
                for record in records:
                    self.counts.add_json(record["card"])
            yield parts, records
            if name:  # nothing but counts
                parts.forget()

    def files(self, output: Location, spans: Sequence[range] = ()) -> tuple[list[Path], list[str]]:
        """Files of their own for every part; those written, and the scenes without a mesh."""
        from annyfit_jax.records.file_names import TABLE, table_lines

        with self.written(output, functools.partial(_writer, self.source, self.wanted), spans) as (_, records):
            if odd := [name for record in records for name in record["odd"]]:
                (output / TABLE).put_parts(table_lines(odd))
        names = [name for record in records for name in record["files"]]
        return _paths(output, names), [name for record in records for name in record.get("empty", ())]

    def one_file(self, target: Location) -> list[Path]:
        """One file, put together from parts that are removed afterwards."""
        folder = target.parent / LEDGER / target.name
        write = functools.partial(_writer, self.source, self.wanted)
        with self.written(folder, write, ledger=folder) as (parts, records):
            with target.replacing() as temporary:
                pieces = [(folder / name).fetched() for record in records for name in record["files"]]
                join, expected = _JOIN[self.wanted.file_format], sum(record["rows"] for record in records)
                if (rows := join(pieces, temporary)) != expected:
                    raise RuntimeError(f"{target}: {rows} people, {expected} were written to its parts")
            logging.info("%s: %d people", target.name, rows)
            parts.forget()
        return _paths(target.parent, [target.name])


def export_fits(
    fits: str,
    output: str | Location,
    file_format: str,
    scenes: Sequence[str] = (),
    frame: str = "camera",
    *,
    images: str = "",
    scenes_per_shard: int = 512,
    people_per_file: int = 10_000,
    smplx_model: str = "",
    kid_template: str = "",
    program: str = "blender",
    skinned: Skinned | None = None,
    partition_by: Sequence[str] = (),
    log_every_s: float = 10.0,
    engine: Engine | None = None,
    stop: threading.Event | None = None,
) -> tuple[list[Path], list[str]]:
    """Writes fits in one of `FORMATS`, and a data card beside them; returns the files and the names of scenes without a mesh.

    Where it was stopped, the same call goes on. In a bucket the paths are those below it.

    Args:
      fits: output of a job, folder of fits, or one fit (`open_fits`).
      output: folder; of `parquet`, `coco` and `bedlam` a file or a folder. Like `fits` also in a bucket.
      scenes: names; all by default.
      frame: `npz`, `glb`, `ply`, `obj`, `usd`, `bvh`: origin at the camera or on the floor.
      images: folder of the photos, or for `tfds`, `webdataset` and `photo_plane` a cue dataset that has them.
      scenes_per_shard: scenes that a worker writes at a time, and of a shard of `tfds`, `webdataset` and partitioned `parquet`.
      smplx_model: the user's model file, for fits of SMPL-X; `humandata`, `amass`, `bedlam`: and for those of Anny as SMPL-X.
      kid_template: AGORA's file, where SMPL-X's last beta blends with a child, and for children of Anny as SMPL-X.
      program: one of `other_programs.PROGRAMS`, for which `glb` with bones, `bvh` and `obj` are.
      skinned: `glb` with bones, and how.
      partition_by: `parquet`: columns whose values become folders (`tables.PARTITIONS`), or `part` for files alone.
      engine, stop: who writes, and an event that asks to stop.

    Raises FileNotFoundError without fits, FitFileError on a broken one, ValueError on an unknown format, frame or scene,
    StoreError where the folder holds another dataset, Interrupted.
    """
    if file_format not in FORMATS:
        raise ValueError(f"--format={file_format}: expected one of {', '.join(FORMATS)}")
    if frame not in scene_files.FRAMES:
        raise ValueError(f"--frame={frame}: expected one of {', '.join(scene_files.FRAMES)}")
    if program not in PROGRAMS:
        raise ValueError(f"--for={program}: expected one of {', '.join(PROGRAMS)}")
    if skinned and file_format != "glb":
        raise ValueError("--skinned is for --format=glb")
    if file_format in ("amass", "bedlam") and not smplx_model:
        raise ValueError(f"--format={file_format} needs --smplx_model, the user's SMPL-X file")
    if file_format == "usd":
        usd_file.usd_core("Usd")
    if partition_by:
        from annyfit_jax.exports.tables import check_partition

        check_partition(file_format, partition_by)
    source = open_fits(fits, details=False)
    known = set(source.names) if scenes else set()
    unknown = [name for name in scenes if name not in known]
    if unknown:
        shown = ", ".join(source.names[:_NAMES_SHOWN]) + (", ..." if len(known) > _NAMES_SHOWN else "")
        raise ValueError(f"--scenes: no fit of {', '.join(unknown)} in {fits}; there are {shown}")
    if source.unfinished:
        logging.warning("%s: %d scenes of the job are not done yet and left out", fits, source.unfinished)
    wanted = _Wanted(file_format, frame, images, smplx_model, kid_template, program, skinned, tuple(partition_by))
    export = _Export(source, tuple(scenes), wanted, scenes_per_shard, engine, stop, log_every_s)
    with _nothing_of_refused(place(output)):
        return _exported(export, place(output), people_per_file)


def _exported(export: _Export, folder: Location, people_per_file: int) -> tuple[list[Path], list[str]]:
    source, wanted, empty, card = export.source, export.wanted, [], CARD
    file_format = wanted.file_format
    if file_format == "tfds":
        written = _training_set(export, folder)
        with export.written(folder, functools.partial(_counter, source), name="tfds-card"):
            pass
    elif file_format == "humandata":
        written, _ = export.files(folder, _humandata_spans(export, folder, people_per_file))
    elif file_format in _TABLE_NAMES and not wanted.partition_by:
        name = _TABLE_NAMES[file_format]
        if folder.name.endswith(Path(name).suffix) and not folder.is_dir():  # a file: its card stands beside it
            card = f"{folder.name.removesuffix(Path(name).suffix)}.{CARD}"
            folder, name = folder.parent, folder.name
        written = export.one_file(folder / name)
    else:
        written, empty = export.files(folder)
    if wanted.partition_by:  # readers of folders of tables pass such names over
        card = f"_{CARD}"
    write_card(folder / card, source, export.counts, file_format, len(written))
    return written, empty


@contextlib.contextmanager
def _nothing_of_refused(output: Location) -> Iterator[None]:
    """Where an export is refused before a part of it is done, the folder that was made for it goes."""
    is_new = not output.exists()
    try:
        yield
    except TakenError:  # it is another's
        raise
    except ValueError:
        if is_new and all(name.startswith(f"{LEDGER}/") for name in output.tree()):
            output.remove()
        raise


def _counted(record: Record) -> tuple[int, dict[str, int]]:
    """The scenes of a part, and those without a fit by status."""
    scenes = record["card"]["scenes"]
    return sum(scenes.values()), {status: count for status, count in scenes.items() if status != "ok"}


def _paths(folder: Location, names: Iterable[str]) -> list[Path]:
    return [Path(name) if folder.remote else folder.path / name for name in names]


# ------------------------------------------------------------------------------------------------ parts

_Part = Callable[[Iterable[Outcome], Path, int], tuple[Sequence[Path], dict[str, Any]]]
"""Writes outcomes into a folder as a part of a number; returns files and facts."""


def _counter(source: FitSource) -> Write:
    """Writes nothing but the counts of a data card, and how many people of each scene HumanData has."""
    from annyfit_jax.exports.humandata_export import kept_people

    def count(outcomes: Iterable[Outcome], folder: Path, part: int) -> tuple[list[Path], dict[str, Any]]:
        return [], {"kept": [len(kept_people(o.fit)) if o.fitted else 0 for o in outcomes]}

    return _counting(source, count)


def _writer(source: FitSource, wanted: _Wanted) -> Write:
    """What writes the parts of a format; models are loaded here, once in every worker."""
    kind = wanted.file_format
    if wanted.skinned or kind == "bvh":
        return _counting(source, functools.partial(_skinned, source, wanted))
    if kind in scene_files.FORMATS:
        return _counting(source, functools.partial(_scene_files, source, wanted))
    if kind == "webdataset":
        from annyfit_jax.exports.training_set import photos_from
        from annyfit_jax.exports.webdataset_export import write_tar

        photo = photos_from(wanted.images) if wanted.images else None
        return _counting(source, functools.partial(write_tar, photo))
    return _counting(
        source, {"parquet": _parquet, "coco": _coco, "humandata": _humandata}.get(kind, _smplx)(source, wanted)
    )


def _counting(source: FitSource, write: _Part) -> Write:
    from annyfit_jax.records.file_names import TABLE

    def do(task: tuple[int, range, Sequence[str]], folder: Path) -> Made:
        part, span, names = task
        counts = Counts()
        files, facts = write(counts.passing(map(source.outcome, names) if names else source.part(span)), folder, part)
        table = folder / TABLE
        odd = [json.loads(line)["scene"] for line in table.read_text().splitlines()] if table.exists() else []
        return Made(files, {"card": counts.to_json(), "odd": odd, **facts})

    return do


def _fitted(outcomes: Iterable[Outcome]) -> Iterable[SceneFit]:
    return (outcome.fit for outcome in outcomes if outcome.fitted)


def _skinned(
    source: FitSource, wanted: _Wanted, outcomes: Iterable[Outcome], folder: Path, part: int
) -> tuple[list[Path], dict[str, Any]]:
    from annyfit_jax.exports.skinned_export import export_skinned

    kept = (outcome for outcome in outcomes if outcome.fitted)
    program = PROGRAMS[wanted.program]
    files, empty = export_skinned(source, kept, folder, wanted.frame, program, wanted.skinned, _bodies(wanted))
    return files, {"empty": empty}


def _scene_files(
    source: FitSource, wanted: _Wanted, outcomes: Iterable[Outcome], folder: Path, part: int
) -> tuple[list[Path], dict[str, Any]]:
    from annyfit_jax.records.file_names import file_stem, write_table

    file_format, frame = wanted.file_format, wanted.frame
    bodies = _bodies(wanted) if file_format != "npz" or frame == "world" else None
    written: list[Path] = []
    empty: list[str] = []
    odd: list[str] = []
    for fit in _fitted(outcomes):
        rows, vertices, meshes = drawable(fit), None, None
        if bodies is not None:
            meshes = bodies.of(fit, source.where(fit.name))
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
                "obj": functools.partial(scene_files.export_obj, program=PROGRAMS[wanted.program]),
                "usd": usd_file.export_usd,
            }[file_format]
            write(fit, path, vertices, meshes.faces, transform, frame)
        written.append(path)
        if file_stem(fit.name) != fit.name:
            odd.append(fit.name)
    write_table(folder, odd)
    return written, {"empty": empty}


def _bodies(wanted: _Wanted) -> FitMeshes:
    return _kept_bodies(wanted.smplx_model, wanted.kid_template)


@functools.lru_cache(maxsize=1)
def _kept_bodies(smplx_model: str, kid_template: str) -> FitMeshes:
    from annyfit_jax.people.fit_meshes import FitMeshes

    return FitMeshes(local(smplx_model), local(kid_template))


def _parquet(source: FitSource, wanted: _Wanted) -> _Part:
    from annyfit_jax.exports import tables

    def write(outcomes: Iterable[Outcome], folder: Path, part: int) -> tuple[list[Path], dict[str, Any]]:
        rows = tables.write_people(outcomes, path := folder / f"part-{part:05d}.parquet")
        columns = [name for name in wanted.partition_by if name != "part"]
        return tables.partitioned(path, folder / "parts", columns) if columns else [path], {"rows": rows}

    return write


def _coco(source: FitSource, wanted: _Wanted) -> _Part:
    from annyfit_jax.exports.coco_export import write_coco

    def write(outcomes: Iterable[Outcome], folder: Path, part: int) -> tuple[list[Path], dict[str, Any]]:
        path = folder / f"part-{part:05d}.json"
        return [path], {"rows": write_coco(_fitted(outcomes), path, image_root=wanted.images or None).annotations}

    return write


def _humandata(source: FitSource, wanted: _Wanted) -> _Part:
    from annyfit_jax.exports import humandata_export

    to_smplx = _to_smplx(source, wanted) if wanted.smplx_model else None

    def write(outcomes: Iterable[Outcome], folder: Path, part: int) -> tuple[list[Path], dict[str, Any]]:
        fits, path = [fit for fit in _fitted(outcomes) if len(humandata_export.kept_people(fit))], folder
        path = folder / f"humandata-{part:05d}.npz"
        model = _smplx_model(wanted, fits) if wanted.smplx_model else None
        content = humandata_export.entries(fits, wanted.images or None, model, to_smplx)
        humandata_export.write_entries(path, content)
        return [path], {"rows": len(content["annot_valid"])}

    return write


def _humandata_spans(export: _Export, output: Location, people_per_file: int) -> list[range]:
    """The scenes of every file: it ends with the image that reaches the number of people. Raises ValueError for nobody."""
    spans, start, count = [], 0, 0
    with export.written(output, functools.partial(_counter, export.source), name="humandata-card") as (_, records):
        pass
    for position, people in enumerate(n for record in records for n in record["kept"]):
        count += people
        if count >= people_per_file:
            spans.append(range(start, position + 1))
            start, count = position + 1, 0
    return [*spans, range(start, export.total)] if count else spans


def _smplx(source: FitSource, wanted: _Wanted) -> _Part:
    from annyfit_jax.exports import smplx_export

    to_smplx = _to_smplx(source, wanted)

    def write(outcomes: Iterable[Outcome], folder: Path, part: int) -> tuple[list[Path], dict[str, Any]]:
        fits = list(_fitted(outcomes))
        model = _smplx_model(wanted, fits)
        people = (fit if is_smplx(fit) else to_smplx(fit) for fit in fits)
        if wanted.file_format == "amass":
            return smplx_export.write_amass(people, folder, model, wanted.frame), {}
        somebody = [fit for fit in people if len(drawable(fit))]
        path = folder / f"part-{part:05d}.npz"
        files = smplx_export.write_bedlam(somebody, path, model, wanted.images or None) if somebody else []
        return files, {"rows": sum(len(drawable(fit)) for fit in somebody)}

    return write


def _smplx_model(wanted: _Wanted, fits: Sequence[SceneFit]) -> SmplxModel:
    """The model of fits of SMPL-X, or of what `_to_smplx` makes of fits of Anny."""
    bodies = _bodies(wanted)
    if fits and is_smplx(fits[0]):
        return bodies.smplx_of(fits[0])
    return bodies.smplx_with(_CONVERTED_BETAS, bool(wanted.kid_template))


def _to_smplx(source: FitSource, wanted: _Wanted) -> Callable[[SceneFit], SceneFit]:
    """Makes fits of SMPL-X from fits of Anny."""
    from annyfit_jax.conversion.convert_fits import FitConverter

    convert = FitConverter(
        "smplx", wanted.smplx_model, num_betas=_CONVERTED_BETAS, kid_template=wanted.kid_template or None
    )
    return lambda fit: convert(fit, source.where(fit.name))[0]


# ------------------------------------------------------------------------------------------------ one file


def _join_parquet(parts: Sequence[Path], target: Path) -> int:
    from annyfit_jax.exports.tables import join_people

    return join_people(parts, target)


def _join_coco(parts: Sequence[Path], target: Path) -> int:
    from annyfit_jax.exports.coco_export import join_coco

    return join_coco(parts, target).annotations


def _join_bedlam(parts: Sequence[Path], target: Path) -> int:
    from annyfit_jax.exports.smplx_export import join_bedlam

    return join_bedlam(parts, target)


_JOIN: dict[str, Callable[[Sequence[Path], Path], int]] = {
    "parquet": _join_parquet, "coco": _join_coco, "bedlam": _join_bedlam,
}  # fmt: skip


def _training_set(export: _Export, folder: Location) -> list[Path]:
    from annyfit_jax.exports import training_set

    photo = training_set.photos_from(export.wanted.images) if export.wanted.images else None
    state = training_set.write_training_set(
        export.source, folder, names=export.names, photo=photo, scenes_per_shard=export.scenes_per_part,
        on_shard=lambda shard: logging.info("shard %d written", shard), engine=export.engine, stop=export.stop,
    )  # fmt: skip
    if not state.finished:
        raise ValueError(f"{folder}: no scene could be written; the reasons are in set_aside.jsonl")
    logging.info("%d scenes, %d fitted people, %d scenes set aside", state.scenes, state.people, state.set_aside)
    return _paths(folder, [name for name in folder.files() if ".array_record-" in name])
