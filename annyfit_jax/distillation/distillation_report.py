"""The report of a distillation: what the labels were, what each network makes of unseen scenes, and what was gained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from annyfit_jax.distillation.distillation_config import DistillConfig, Student
from annyfit_jax.records.encoded_pictures import encoded
from annyfit_jax.records.files import read_json, write_bytes, write_json, write_text

TEACHER = "teacher"
COLUMNS = {
    "pcrd02": "depth order (PCRD.2)", "pcrd02_far": "the same, truly apart", "age_f1": "age F1", "age_years_err": "age, years",
    "height_err": "height, m", "depth_rel_err": "depth, share", "mpjpe_root": "MPJPE mm", "pa_mpjpe": "PA mm",
    "joint_pa_mpjpe": "scene PA mm",
}  # fmt: skip
"""Metrics of `annyfit_jax.metrics.scene_scores`."""
_DECIMALS = {"mpjpe_root": 0, "pa_mpjpe": 0, "joint_pa_mpjpe": 0, "age_years_err": 1}
CURVES = ("age_f1", "height_err", "depth_rel_err", "mpjpe_root")
"""Metrics drawn over the number of labels."""
_READING = "## Reading"


class Point(NamedTuple):
    """A trained student in a curve."""

    labels: str
    people: float
    value: float
    low: float
    high: float


def write_report(config: DistillConfig, folder: Path, held_out: Path) -> Path:
    """Writes report.md, report.json, curve.png and, with a main student, people.jpg; returns the first.

    Raises FileNotFoundError where nothing has been judged. What stands from `## Reading` on is kept.
    """
    networks = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "metrics").glob("*.json"))}
    if TEACHER not in networks:
        raise FileNotFoundError(f"{folder / 'metrics'}: no teacher.json; run the step evaluate first")
    labels = {entry.name: read_json(folder / "labels" / f"{entry.name}.json") or {} for entry in config.labels}
    students = [student for student in config.students if student.name in networks]
    report = {
        "networks": {name: networks[name] for name in (TEACHER, *(student.name for student in students))},
        "labels": labels,
        "gap_closed": gaps(config, networks),
        "seconds": read_json(folder / "seconds.json") or {},
        "steps": {"teacher": config.teacher.steps, "student": config.train.steps, "batch": config.train.batch},
    }
    write_json(folder / "report.json", report)
    chart = curves(config, students, networks, labels)
    if chart is not None:
        write_bytes(folder / "curve.png", chart)
    if config.main in networks:
        write_bytes(folder / "people.jpg", pictures(folder, held_out, (TEACHER, config.main)))
    target = folder / "report.md"
    kept = target.read_text().partition(_READING)[1:] if target.is_file() else ("", "")
    write_text(target, markdown(config, students, report) + ("\n" + "".join(kept) if kept[0] else ""))
    return target


def gaps(config: DistillConfig, networks: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Per student and metric: the share of the way from the teacher to the ceiling.

    NaN where that way is not measured: the confidence intervals of the two overlap.
    """
    if config.ceiling not in networks:
        return {}
    first, last = (dict(networks[name]["pooled"]) for name in (TEACHER, config.ceiling))
    for metric in COLUMNS:
        bounds = [(networks[name].get("intervals") or {}).get(metric) for name in (TEACHER, config.ceiling)]
        known = [ends for ends in bounds if ends]
        if len(known) == 2 and max(low for low, _ in known) <= min(high for _, high in known):
            first.pop(metric, None)
    out = {}
    for student in config.students:
        if student.name in networks:
            mine = networks[student.name]["pooled"]
            out[student.name] = {m: _share(first.get(m), mine.get(m), last.get(m)) for m in COLUMNS}
    return out


def _share(first: float | None, value: float | None, last: float | None) -> float:
    if first is None or value is None or last is None or last == first:
        return math.nan
    return (value - first) / (last - first)


def markdown(config: DistillConfig, students: Sequence[Student], report: Mapping[str, Any]) -> str:
    """The tables."""
    networks, labels = report["networks"], report["labels"]
    size = networks[TEACHER]["pooled"]
    given = ", given" if config.checkpoint else f": {config.teacher.steps} steps of {config.teacher.batch}"
    lines = [
        "# Distillation",
        "",
        f"Held out: {size['scenes']} scenes, {size['people']} people, {size['pairs']} pairs. Intervals: 95 %, scenes drawn "
        f"again {config.bootstrap} times. Teacher{given}; students: {config.train.steps} steps of {config.train.batch} "
        "from its weights.",
        "",
        "| network | labelled people | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    rows: list[tuple[str, str, float | None]] = [(TEACHER, "before", None)]
    rows += [(s.name, s.title or s.name, labelled(s, labels)) for s in students]
    for name, title, people in rows:
        cells = [_cell(metric, networks[name]) for metric in COLUMNS]
        lines.append(f"| {title} | {'' if people is None else f'{people:.0f}'} | " + " | ".join(cells) + " |")
    if report["gap_closed"]:
        lines += [
            "",
            "Share of the way from the teacher to the ceiling, where the intervals of the two do not overlap:",
            "",
        ]
        lines += ["| network | " + " | ".join(COLUMNS.values()) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
        for student in students:
            shares = report["gap_closed"][student.name]
            cells = ["" if math.isnan(shares[m]) else f"{100 * shares[m]:.0f} %" for m in COLUMNS]
            lines.append(f"| {student.title or student.name} | " + " | ".join(cells) + " |")
    lines += ["", "Labels, against the truth of the stream (people who count in the loss):", ""]
    lines += [
        "| labels | scenes | people | of | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    for name, entry in labels.items():
        quality = {"pooled": entry.get("quality") or {}}
        cells = [_cell(metric, quality) for metric in COLUMNS]
        lines.append(
            f"| {name} | {entry.get('scenes', '')} | {entry.get('people', '')} | {entry.get('all_people', '')} | "
            + " | ".join(cells) + " |"
        )  # fmt: skip
    if report["seconds"]:
        spent = [f"{step} {s['processor']:.0f} ({s['clock']:.0f})" for step, s in report["seconds"].items()]
        lines += ["", "Seconds of processor (of clock): " + ", ".join(spent) + "."]
    return "\n".join(lines) + "\n"


def labelled(student: Student, labels: Mapping[str, Any]) -> float | None:
    """People that a student learns from; None where that is not known."""
    people = labels.get(student.labels, {}).get("people")
    return None if people is None else people / student.every


def _cell(metric: str, network: Mapping[str, Any]) -> str:
    value = network.get("pooled", {}).get(metric)
    if value is None or not math.isfinite(value):
        return ""
    digits = _DECIMALS.get(metric, 3)
    bounds = (network.get("intervals") or {}).get(metric)
    spread = f" ({bounds[0]:.{digits}f} to {bounds[1]:.{digits}f})" if bounds else ""
    return f"{value:.{digits}f}{spread}"


# ------------------------------------------------------------------------------------------------ pictures

_PANEL, _MARGIN, _LEGEND_COLUMNS = (330, 280), (56, 34, 16, 76), 3  # width, height; left, top, right, bottom
_INK, _PAPER, _GRID = (50, 56, 64), (255, 255, 255), (222, 224, 226)
_SMOOTH = 2


def curves(
    config: DistillConfig, students: Sequence[Student], networks: Mapping[str, Any], labels: Mapping[str, Any]
) -> bytes | None:
    """PNG: metrics over the number of labelled people, a line per kind of labels; None without two points of one kind."""
    import io

    from PIL import Image

    plain = [student for student in students if not student.uncertainty and labelled(student, labels)]
    if len(plain) < 2:
        return None
    panels = []
    for metric in CURVES:
        points = []
        for student in plain:
            network = networks[student.name]
            value = network["pooled"][metric]
            low, high = (network.get("intervals") or {}).get(metric, (value, value))
            points.append(Point(student.labels, labelled(student, labels) or 0.0, value, low, high))
        panels.append(
            _panel(
                COLUMNS[metric], points, networks[TEACHER]["pooled"][metric], [entry.name for entry in config.labels]
            )
        )
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(panels, axis=1)).quantize(64).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _panel(title: str, points: Sequence[Point], teacher: float, kinds: Sequence[str]) -> np.ndarray:
    """One chart, x logarithmic; the teacher as a dashed line."""
    from PIL import Image, ImageDraw, ImageFont

    from annyfit_jax.viz.drawing import palette

    s = _SMOOTH
    (width, height), (left, top, right, bottom) = _PANEL, _MARGIN
    image = Image.new("RGB", (width * s, height * s), _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11 * s)
    values = [v for p in points for v in (p.low, p.high)] + [teacher]
    low, high = min(values), max(values)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low) + 1e-9
    x0, x1 = math.log(min(p.people for p in points)) - 0.25, math.log(max(p.people for p in points)) + 0.25

    def at(people: float, value: float) -> tuple[float, float]:
        x = left + (math.log(people) - x0) / (x1 - x0) * (width - left - right)
        y = height - bottom - (value - low) / (high - low) * (height - top - bottom)
        return x * s, y * s

    for value in np.linspace(low, high, 5)[1:-1]:
        y = at(1.0, value)[1]
        draw.line([(left * s, y), ((width - right) * s, y)], fill=_GRID, width=s)
        draw.text((left * s - 6 * s, y), f"{value:.3g}", fill=_INK, font=font, anchor="rm")
    y = at(1.0, teacher)[1]
    for x in range(left, width - right, 10):
        draw.line([(x * s, y), ((x + 5) * s, y)], fill=_INK, width=s)
    draw.text(((width - right) * s, y - 2 * s), "before", fill=_INK, font=font, anchor="rb")
    for people in sorted({round(p.people) for p in points}):
        x = at(people, low)[0]
        draw.line([(x, (height - bottom) * s), (x, (height - bottom + 3) * s)], fill=_INK, width=s)
    ends = sorted({round(p.people) for p in points})
    for people in (ends[0], ends[-1]):
        draw.text((at(people, low)[0], (height - bottom + 5) * s), f"{people}", fill=_INK, font=font, anchor="mt")
    draw.text((width // 2 * s, (height - bottom + 5) * s), "labelled people", fill=_INK, font=font, anchor="mt")
    draw.text((left * s, 8 * s), title, fill=_INK, font=font)
    colours = [tuple(int(c) for c in colour) for colour in palette(len(kinds))]
    for number, kind in enumerate(kinds):
        mine = sorted((p for p in points if p.labels == kind), key=lambda p: p.people)
        places = [at(p.people, p.value) for p in mine]
        if len(places) > 1:
            draw.line(places, fill=colours[number], width=2 * s)
        for p, (x, y) in zip(mine, places):
            draw.line([at(p.people, p.low), at(p.people, p.high)], fill=colours[number], width=s)
            draw.ellipse([x - 4 * s, y - 4 * s, x + 4 * s, y + 4 * s], fill=colours[number])
        row, column = divmod(number, _LEGEND_COLUMNS)
        place = (left + column * (width - left - right) / _LEGEND_COLUMNS) * s, (height - 38 + 18 * row) * s
        draw.ellipse([place[0], place[1] + 2 * s, place[0] + 8 * s, place[1] + 10 * s], fill=colours[number])
        draw.text((place[0] + 11 * s, place[1] + 6 * s), kind, fill=_INK, font=font, anchor="lm")
    return np.asarray(image.resize(_PANEL, Image.Resampling.LANCZOS))


def pictures(folder: Path, held_out: Path, names: Sequence[str], count: int = 4, tile: int = 160) -> bytes:
    """JPEG, a row per held-out picture with people of different sizes: the picture, then drawn over it and from the side what
    each network sees, then the truth."""

    from annyfit_jax.distillation.fit_labels import open_scenes
    from annyfit_jax.inputs.photos import read_photo
    from annyfit_jax.people.body_meshes import BodyMeshes
    from annyfit_jax.records import fit_files
    from annyfit_jax.records.file_names import file_stem
    from annyfit_jax.viz.drawing import overlay, side_view
    from annyfit_jax.viz.raster import rasterise

    source, meshes, rows = open_scenes(held_out), BodyMeshes(), []
    for index, name in enumerate(source.names):
        scene = source.load(index)
        if scene.truth is None or len(scene) < 2 or np.ptp(scene.extra["gt_body_height"]) < 0.5:
            continue
        photo = read_photo(source.photo(index), where=f"{held_out}: scene {name}: photo")
        people = [
            fit_files.load(folder / "predictions" / network / "fits" / f"{file_stem(name)}.npz").parameters
            for network in names
        ]
        tiles = [_tile(photo, tile)]
        for bodies in (*people, scene.truth):
            vertices = meshes.vertices(bodies)
            raster = rasterise(vertices, meshes.faces, scene.intrinsics, (photo.shape[1], photo.shape[0]))
            tiles += [_tile(overlay(photo, raster, vertices, meshes.faces), tile)]
            tiles += [_tile(side_view(vertices, meshes.faces, (2 * tile, 2 * tile)), tile)]
        rows.append(np.concatenate(tiles, axis=1))
        if len(rows) == count:
            break
    return encoded(np.concatenate(rows) if rows else np.full((tile, tile, 3), 255, np.uint8))


def _tile(picture: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
