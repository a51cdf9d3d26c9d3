"""A static page of fitted scenes: `index.html` and an `images/` folder, opened from disk, no network, no scripts."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float, Int, UInt8
from PIL import Image

from annyfit_jax.records.encoded_pictures import encoded
from annyfit_jax.viz import drawing
from annyfit_jax.viz.raster import rasterise

_MAX_SIDE = 1280  # larger photos are reduced on the page
_VIEW_SIZE = (960, 720)
_SUPERSAMPLING = 2
_COLUMNS = (
    ("id", "Person"), ("age", "Age"), ("gender", "Gender"), ("height_m", "Height (m)"), ("depth_m", "Depth (m)"),
    ("reprojection_px", "Reprojection (px)"), ("trust", "Trust"), ("status", "Status"),
)  # fmt: skip
_GOOD_STATUS = {"ok", "fitted", "converged"}


@dataclass
class ScenePage:
    """What the page shows of one scene. `n` is the number of people; pixels of the photo, metres."""

    name: str
    photo: UInt8[np.ndarray, "H W 3"] | None
    """None: a plain background stands in for it."""
    vertices: Float[np.ndarray, "n V 3"]
    """Camera-space vertices; a person with NaN is listed but not drawn."""
    faces: Int[np.ndarray, "F 3"]
    intrinsics: Float[np.ndarray, "3 3"]
    keypoints: Float[np.ndarray, "n 17 3"] | None
    """Observed COCO-17 x, y, confidence."""
    projected: Float[np.ndarray, "n 17 2"] | None
    """The fitted bodies' keypoints."""
    people: list[dict[str, Any]]
    """One per person: id, age, gender, height_m, depth_m, reprojection_px, trust, status. Absent, None, NaN: a dash."""
    credit_html: str = ""
    """Photographer and licence. Trusted HTML: it is inserted as it is, so that it can hold links."""
    notes: list[str] = field(default_factory=list)
    image_size: tuple[int, int] | None = None
    """(width, height) where there is no photo; default: twice the principal point."""
    before: list[tuple[str, UInt8[np.ndarray, "h w 3"]]] = field(default_factory=list)
    """(caption, picture): more pictures before the fitted bodies, such as cues."""
    after: list[tuple[str, UInt8[np.ndarray, "h w 3"]]] = field(default_factory=list)
    """(caption, picture): more pictures after the keypoints, such as another fit of the photo."""


def write_page(out_dir: Path, scenes: Sequence[ScenePage], title: str, intro_html: str = "") -> Path:
    """Writes `out_dir/index.html` and its pictures under `out_dir/images/`.

    Names, notes and table cells are escaped; `intro_html` and each `credit_html` are trusted HTML.

    Args:
      out_dir: created when missing; files of the same name are replaced.
      scenes: in the order of the page; equal names are told apart by a number.
      title: plain text.
      intro_html: a paragraph or more below the title.

    Returns:
      The path of index.html.

    Raises:
      ValueError: a scene whose arrays do not agree; the message names the scene and the field.
    """
    for scene in scenes:
        _check(scene)
    out_dir = Path(out_dir)
    (out_dir / "images").mkdir(parents=True, exist_ok=True)
    anchors = slugs([scene.name for scene in scenes])
    sections = [_section_or_reason(scene, slug, out_dir) for scene, slug in zip(scenes, anchors, strict=True)]
    links = "".join(
        f'<li><a href="#scene-{slug}">{html.escape(scene.name)}</a> <small>{_count(len(scene.people))}</small></li>'
        for scene, slug in zip(scenes, anchors, strict=True)
    )
    contents = f'<nav aria-label="Scenes"><ul>{links}</ul></nav>' if len(scenes) > 1 else ""
    page = PAGE.format(
        title=html.escape(title),
        style=STYLE,
        intro=f'<div class="intro">{intro_html}</div>' if intro_html else "",
        contents=contents,
        sections="\n".join(sections),
    )
    path = out_dir / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _section_or_reason(scene: ScenePage, slug: str, out_dir: Path) -> str:
    """The section of a scene; of one that cannot be drawn its name and the reason."""
    try:
        return _section(scene, slug, out_dir)
    except Exception as error:  # whatever a scene holds, the page of the others is made
        logging.exception("%s: cannot be drawn", scene.name)
        reason = html.escape(f"This scene cannot be drawn ({type(error).__name__}: {error})")
        heading = f"<h2>{html.escape(scene.name)}</h2>"
        return f'<section id="scene-{slug}">{heading}<ul class="notes"><li>{reason}</li></ul></section>'


def _section(scene: ScenePage, slug: str, out_dir: Path) -> str:
    """Draws the pictures of one scene and returns its HTML."""
    name = html.escape(scene.name)
    photo, intrinsics, factor = page_photo(scene, _MAX_SIDE)
    height, width = photo.shape[:2]
    large = np.diag([_SUPERSAMPLING, _SUPERSAMPLING, 1.0]) @ intrinsics
    raster = rasterise(scene.vertices, scene.faces, large, (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    bodies = drawing.overlay(photo, raster, scene.vertices, scene.faces)
    numbered = drawing.label_people(bodies, raster, len(scene.people))

    figures = []

    def add(kind: str, picture: np.ndarray, caption: str, alt: str, extra: str = "") -> None:
        suffix = "png" if kind in ("top", "side") else "jpg"
        file = f"images/{slug}-{kind}.{suffix}"
        (out_dir / file).write_bytes(encoded(picture, "PNG" if suffix == "png" else "JPEG"))
        figures.append(
            f'<figure class="{kind}"><a href="{file}"><img src="{file}" width="{picture.shape[1]}" '
            f'height="{picture.shape[0]}" loading="lazy" alt="{html.escape(alt)}"></a>'
            f"<figcaption>{caption}{extra}</figcaption></figure>"
        )

    credit = f'<span class="credit">{scene.credit_html}</span>' if scene.credit_html else ""
    if scene.photo is not None:
        add("photo", photo, "Photo", f"Photo {scene.name}", credit)
    for number, (caption, picture) in enumerate(scene.before):
        add(f"before{number}", picture, html.escape(caption), f"{caption}: {scene.name}")
    add("overlay", numbered, "Fitted bodies", f"Fitted bodies drawn over {scene.name}")
    if scene.keypoints is not None:
        scaled = scene.keypoints * np.array([factor, factor, 1.0])
        projected = None if scene.projected is None else scene.projected * factor
        caption = "Keypoints: dots observed" + ("" if projected is None else ", lines projected from the fit")
        # Paler bodies: the skeletons have the same colours.
        pale = drawing.overlay(photo, raster, scene.vertices, scene.faces, alpha=0.4)
        add("keypoints", drawing.draw_keypoints(pale, scaled, projected), caption, f"Keypoints of {scene.name}")
    for number, (caption, picture) in enumerate(scene.after):
        add(f"after{number}", picture, html.escape(caption), f"{caption}: {scene.name}")
    for kind, draw, caption in (
        ("top", drawing.top_view, "From above"),
        ("side", drawing.side_view, "From the camera’s right"),
    ):
        view = draw(scene.vertices, scene.faces, _VIEW_SIZE, intrinsics, (width, height))
        add(kind, view, f"{caption}, metres", f"{caption}: positions of the people of {scene.name} on a metric grid")

    notes = "".join(f"<li>{html.escape(note)}</li>" for note in scene.notes)
    return (
        f'<section id="scene-{slug}"><h2><a href="#scene-{slug}">{name}</a></h2>\n'
        f'<div class="pictures">{"".join(figures[:-2])}</div>\n<div class="views">{"".join(figures[-2:])}</div>\n'
        f"{_table(scene)}\n" + (f'<ul class="notes">{notes}</ul>\n' if notes else "") + "</section>"
    )


def overlay_picture(scene: ScenePage, max_side: int = _MAX_SIDE) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with the fitted bodies over it, no side longer than `max_side`."""
    photo, intrinsics, _ = page_photo(scene, max_side)
    height, width = photo.shape[:2]
    large = np.diag([_SUPERSAMPLING, _SUPERSAMPLING, 1.0]) @ intrinsics
    raster = rasterise(scene.vertices, scene.faces, large, (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    return drawing.overlay(photo, raster, scene.vertices, scene.faces)


def page_photo(scene: ScenePage, max_side: int) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "3 3"], float]:
    """The photo (or a plain stand-in) with no side longer than `max_side`, the intrinsics for it, and the factor."""
    intrinsics = np.asarray(scene.intrinsics, dtype=np.float64)
    if scene.photo is None:
        size = scene.image_size or (max(1, round(2 * intrinsics[0, 2])), max(1, round(2 * intrinsics[1, 2])))
        photo = None
    else:
        photo = scene.photo
        size = (photo.shape[1], photo.shape[0])
    reduction = min(1.0, max_side / max(size))
    page_size = (max(1, round(size[0] * reduction)), max(1, round(size[1] * reduction)))
    if photo is None:
        photo = drawing.blank(page_size)
    elif page_size != size:
        photo = np.asarray(Image.fromarray(photo).resize(page_size, Image.Resampling.LANCZOS))
    # The two sides may round differently by a fraction of a pixel: K follows each exactly.
    scaled = np.diag([page_size[0] / size[0], page_size[1] / size[1], 1.0]) @ intrinsics
    return photo, scaled, page_size[0] / size[0]


def _table(scene: ScenePage) -> str:
    header = "".join(f'<th scope="col">{html.escape(heading)}</th>' for _, heading in _COLUMNS)
    rows = []
    for number, (person, colour) in enumerate(zip(scene.people, drawing.palette(len(scene.people)), strict=True)):
        ink = "#000" if float(np.dot(colour, (0.299, 0.587, 0.114))) > 120 else "#fff"
        swatch = f'<span class="swatch" style="background:rgb{tuple(map(int, colour))};color:{ink}">{number}</span>'
        cells = [f'<th scope="row">{swatch}{_cell(person.get("id"))}</th>']
        for key, heading in _COLUMNS[1:-1]:
            value = _cell(person.get(key), 1 if key == "reprojection_px" else 2)
            cells.append(f'<td data-heading="{html.escape(heading)}">{value}</td>')
        status = person.get("status")
        mood = "good" if str(status).strip().lower() in _GOOD_STATUS else "attention"
        cells.append(f'<td data-heading="{_COLUMNS[-1][1]}"><span class="status {mood}">{_cell(status)}</span></td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "".join(rows) or f'<tr><td colspan="{len(_COLUMNS)}">No people</td></tr>'
    return (
        f'<div class="table"><table class="people"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: Any, decimals: int = 2) -> str:
    """Escaped text of a table cell; a dash for nothing."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.{decimals}f}" if math.isfinite(value) else "–"
    return "–" if value is None or value == "" else html.escape(str(value))


def slugs(names: Sequence[str]) -> list[str]:
    """File-name and anchor-safe forms of the names, all different even where case does not count."""
    unique: list[str] = []
    taken: set[str] = set()
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "scene"
        slug, number = base, 2
        while slug.lower() in taken:
            slug, number = f"{base}-{number}", number + 1
        taken.add(slug.lower())
        unique.append(slug)
    return unique


def _count(people: int) -> str:
    return "1 person" if people == 1 else f"{people} people"


def _check(scene: ScenePage) -> None:
    n = len(scene.people)
    if len(scene.vertices) != n:
        raise ValueError(f"{scene.name}: vertices: expected {n} people as in `people`, got {len(scene.vertices)}")
    for field_name, columns in (("keypoints", 3), ("projected", 2)):
        value = getattr(scene, field_name)
        if value is not None and np.shape(value) != (n, 17, columns):
            raise ValueError(f"{scene.name}: {field_name}: expected shape ({n}, 17, {columns}), got {np.shape(value)}")
    photo = scene.photo
    if photo is not None and (photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8):
        raise ValueError(f"{scene.name}: photo: expected uint8 (H, W, 3), got {photo.dtype} {photo.shape}")
    if np.shape(scene.intrinsics) != (3, 3):
        raise ValueError(f"{scene.name}: intrinsics: expected shape (3, 3), got {np.shape(scene.intrinsics)}")


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{intro}{contents}</header>
<main>
{sections}
</main>
</body>
</html>
"""

STYLE = """
:root{--paper:#f6f7f8;--card:#fff;--ink:#1c2126;--soft:#5b6570;--line:#e1e5e9;--link:#0b62a8;
--good:#0a6b4b;--good-paper:#def3ea;--attention:#8a3d00;--attention-paper:#fdebd8}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1d2125;--ink:#e8eaed;--soft:#9aa5b1;--line:#31373d;
--link:#7cc0f5;--good:#7fdcb8;--good-paper:#12382b;--attention:#ffbf85;--attention-paper:#452a12}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main{max-width:1320px;margin:0 auto;padding:0 clamp(12px,3vw,32px)}
header{padding-top:28px}
h1{font-size:clamp(1.5rem,4vw,2.1rem);line-height:1.2;margin:0 0 .4em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 .7em;overflow-wrap:anywhere}
h2 a{color:inherit;text-decoration:none}
h2 a:hover{text-decoration:underline}
a{color:var(--link)}
.intro{max-width:75ch;color:var(--soft)}
nav ul{display:flex;flex-wrap:wrap;gap:8px;list-style:none;margin:16px 0 0;padding:0}
nav li{border:1px solid var(--line);background:var(--card);border-radius:999px;padding:2px 12px;overflow-wrap:anywhere}
nav a{text-decoration:none}
small,figcaption,.notes{color:var(--soft);font-size:.86rem}
section{background:var(--card);border:1px solid var(--line);border-radius:14px;margin:24px 0;
padding:clamp(12px,2vw,24px)}
.pictures,.views{display:grid;gap:16px;margin-bottom:16px;align-items:start}
.pictures{grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}
.views{grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
figure{margin:0;min-width:0}
img{display:block;width:100%;height:auto;border-radius:8px;background:var(--line)}
figcaption{padding-top:6px}
.credit{display:block;overflow-wrap:anywhere}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 12px;text-align:left;border-bottom:1px solid var(--line);font-weight:400;white-space:nowrap}
td:last-child{white-space:normal;min-width:9em}
thead th{color:var(--soft);font-size:.86rem;font-weight:600}
tbody tr:last-child>*{border-bottom:0}
.swatch{display:inline-block;min-width:1.7em;padding:0 .4em;margin-right:.6em;border-radius:6px;text-align:center;
font-weight:600;font-size:.86rem}
.status{border-radius:6px;padding:1px 8px;font-size:.9rem}
.status.good{color:var(--good);background:var(--good-paper)}
.status.attention{color:var(--attention);background:var(--attention-paper)}
.notes{margin:12px 0 0;padding-left:1.2em}
@media (max-width:640px){.people thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.people,.people tbody{display:block}.people tr{display:block;padding:6px 0;border-bottom:1px solid var(--line)}
.people th,.people td{display:flex;justify-content:space-between;gap:12px;border:0;padding:3px 0;white-space:normal}
.people th{justify-content:flex-start;font-weight:600}.people td::before{content:attr(data-heading);color:var(--soft)}}
"""
"""On phones each person of the table is a list with its headings: nothing is cut off at the edge."""
