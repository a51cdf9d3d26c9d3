"""Writes the folder of a report: `index.html`, its scripts and style, data files, and a folder of pictures per chosen scene."""

from __future__ import annotations

import html
import importlib.resources
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.jobs.fit_source import FitSource
from annyfit_jax.people.fit_meshes import FitMeshes
from annyfit_jax.people.fitted import drawable
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.records.files import write_bytes, write_text
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.report.charts import charts, failures
from annyfit_jax.report.choice import badness, choose, worst_column
from annyfit_jax.report.people_table import SCENES_PER_FILE, Table, to_json
from annyfit_jax.report.report_columns import ALL, error_columns, fit_columns
from annyfit_jax.store.locations import Location, filled, place
from annyfit_jax.viz import palette

ASSETS = ("report.css", "report.js", "report_charts.js", "report_viewer.js")
"""Of `annyfit_jax/data`, copied beside the page."""
_MARK = "annyfit-jax report"
_MOST_COLOURS = 64


@dataclass(frozen=True)
class ReportOptions:
    """What the report shows."""

    title: str = "Fits"
    pictures: int = 60
    """Scenes with pictures and a 3D view, half of them the worst; -1 = all."""
    worst_by: str = ""
    """Column that says which are worst (`choice.WORST_BY` by default)."""
    seed: int = 0
    """Of the scenes at random."""
    scenes_per_file: int = SCENES_PER_FILE


def write_report(
    fits: FitSource,
    folder: str | Path | Location,
    options: ReportOptions | None = None,
    *,
    truth: Callable[[str], Scene | None] | None = None,
    photo: Callable[[str], bytes] | None = None,
    truth_location: str = "",
    bodies: FitMeshes | None = None,
) -> Location:
    """Reads the fits once for the numbers and the chosen ones again for the pictures; returns where index.html is.

    Args:
      folder: made where it is missing, also in a bucket. An older report in it is replaced; one with anything else is refused.
      truth: a scene with exact truth by name, None where there is none.
      photo: an encoded photo by scene name, empty where there is none; the fits' own photos are used first.
      truth_location: where the truth is from, for the page.
      bodies: with SMPL-X, for pictures of its fits.

    Raises ValueError on a folder with other content, an unknown `worst_by`, or pictures of fits of SMPL-X without its file;
    FitFileError and SceneError on broken files.
    """
    folder, options, bodies = place(folder), options or ReportOptions(), bodies or FitMeshes()
    if options.pictures:
        for fit in itertools.islice(fits, 1):
            bodies.check(fit, fits.where(fit.name))
    _make_room(folder)
    with filled(folder) as local:
        _write(fits, local, options, truth, photo, truth_location, bodies)
    return folder / "index.html"


def _write(
    fits: FitSource,
    folder: Path,
    options: ReportOptions,
    truth: Callable[[str], Scene | None] | None,
    photo: Callable[[str], bytes] | None,
    truth_location: str,
    bodies: FitMeshes,
) -> None:
    """As `write_report`, into a local folder."""
    table, judged = _collect(fits, truth)
    columns = table.columns()
    key = worst_column(columns, options.worst_by)
    bad = badness(table, columns, key)
    fitted = np.array([code == 0 for code in table.status], bool) & _somebody(table)
    worst, random = choose(bad, fitted, options.pictures, options.seed)
    for name in ASSETS:
        write_text(folder / name, _asset(name))
    count = 0
    for index, content in table.files(columns, options.scenes_per_file):
        write_text(folder / "data" / f"scenes-{index:05d}.js", content)
        count = index + 1
    drawn = _draw(fits, table, [*worst.tolist(), *random.tolist()], folder, photo, bodies)
    summary = {
        "title": options.title,
        "fits": Path(fits.location).name,
        "truth": Path(truth_location).name,
        "scenes": len(table),
        "people": len(table.ids),
        "ok_people": table.person_status.count(0),
        "ok_scenes": table.status.count(0),
        "unfinished": fits.unfinished,
        "judged": judged,
        "files": count,
        "scenes_per_file": options.scenes_per_file,
        "statuses": table.statuses,
        "palette": palette(min(max(table.people, default=1), _MOST_COLOURS) or 1).tolist(),
        "columns": [column.to_json() for column in ALL if column.key in columns],
        "charts": charts(table, columns),
        "failures": failures(table),
        "worst_by": key,
        "worst": [index for index in worst.tolist() if index in drawn],
        "random": [index for index in random.tolist() if index in drawn],
        "pictures": {str(index): names for index, names in drawn.items()},
    }
    write_text(folder / "data" / "summary.js", f"Report.summary({to_json(summary)});\n")
    page = _asset("report.html").replace("{title}", html.escape(options.title)).replace("{mark}", _MARK)
    write_text(folder / "index.html", page)


def _make_room(folder: Location) -> None:
    """Empties the folder of an older report. Raises ValueError where it holds something else."""
    page = folder / "index.html"
    if folder.tree() or (folder / "index.html").exists():
        if not (page.is_file() and _MARK.encode() in page.read_bytes()[:400]):
            raise ValueError(f"{folder}: expected an empty folder or an older report, it holds something else")
        page.remove()
        for name in ("data", "scenes"):
            (folder / name).remove()
    # The mark of an unfinished report, so that a report that was stopped can be written again.
    page.put(f"<!doctype html><!-- {_MARK} --><title>Unfinished</title>This report is not finished.\n".encode())


def _collect(fits: FitSource, truth: Callable[[str], Scene | None] | None) -> tuple[Table, int]:
    """The numbers of all scenes, and how many scenes were judged by the truth."""
    table, judged = Table(), 0
    for outcome in fits.outcomes():
        columns = fit_columns(outcome.fit)
        scene = truth(outcome.fit.name) if truth and outcome.fitted and outcome.fit.ok.any() else None
        if scene is not None:
            columns |= error_columns(outcome.fit, scene)
            judged += 1
        table.add(outcome, columns)
    return table, judged


def _somebody(table: Table) -> np.ndarray:
    """Scenes in which somebody is fitted."""
    out = np.zeros(len(table), bool)
    scene = np.repeat(np.arange(len(table)), table.people)
    np.logical_or.at(out, scene, np.array(table.person_status, int) == 0)
    return out


def _draw(
    fits: FitSource,
    table: Table,
    chosen: list[int],
    folder: Path,
    photo: Callable[[str], bytes] | None,
    bodies: FitMeshes,
) -> dict[int, list[str]]:
    """Pictures of the chosen scenes; file names by scene, without those that have nobody to draw."""
    if not chosen:
        return {}
    from annyfit_jax.report.report_pictures import Painter

    painter, drawn, without_photo = Painter(bodies=bodies), {}, 0
    for position, index in enumerate(chosen):
        fit = fits.load(table.name[index])
        if not len(drawable(fit)):
            continue
        try:
            files = painter.files(fit, _photo_of(fit, photo))
        except Exception as error:  # whatever a scene holds, the others are drawn
            logging.warning("%s: cannot be drawn (%s: %s)", fit.name, type(error).__name__, error)
            continue
        without_photo += "photo.jpg" not in files
        target = folder / "scenes" / f"{index:07d}"
        target.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(target / name, content)
        drawn[index] = sorted(files)
        if (position + 1) % 20 == 0:
            logging.info("%d of %d scenes drawn", position + 1, len(chosen))
    if without_photo:
        logging.warning("%d of %d drawn scenes have no photo of their size: grey instead", without_photo, len(drawn))
    return drawn


def _photo_of(fit: SceneFit, photo: Callable[[str], bytes] | None) -> Any:
    """Pixels of the scene's photo from `photo`, for fits whose own path leads nowhere; None where there is none."""
    if photo is None or (fit.image_path and place(fit.image_path).is_file()):
        return None
    try:
        content = photo(fit.name)
        return read_photo(content, where=f"{fit.name}: packed photo") if content else None
    except SceneError as error:
        logging.warning("%s", error)
        return None


def _asset(name: str) -> str:
    return (importlib.resources.files("annyfit_jax") / "data" / name).read_text(encoding="utf-8")
