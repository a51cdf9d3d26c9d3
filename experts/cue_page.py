"""A page with every cue of a dataset drawn on its photo, opened from disk.

Per photo: boxes with words, skeletons, whole-body and dense points, initial bodies, masks, depth as colour, a table of people,
who was set aside and why, and where each cue comes from.
"""

from __future__ import annotations

import functools
import html
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float, UInt8
from PIL import Image

from annyfit_jax.inputs import SceneSource, open_input
from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.camera import project
from annyfit_jax.people.lens import straightened
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.records.encoded_pictures import encoded
from annyfit_jax.records.files import write_text
from annyfit_jax.store.locations import Location, filled, place
from annyfit_jax.viz import drawing, palette
from annyfit_jax.viz import page as template
from experts.cue_pictures import cue_pictures, whole_body, word_list

_MAX_SIDE = 1280
_ANSWER_LENGTH = 160


def write_cue_page(cues: str, output: str, *, limit: int = 50, images: str | None = None) -> Location:
    """Writes the page of the first `limit` scenes; returns its place. Raises SceneError on an input that cannot be read."""
    source = open_input(cues, images=images, with_masks=True, with_depth_map=True)
    with filled(output) as folder:
        _write(source, source.names[:limit], folder)
    return place(output) / "index.html"


def _write(source: SceneSource, names: Sequence[str], folder: Path) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    sections, links, licences = [], [], []
    starts = StartPictures()
    for index, slug in enumerate(template.slugs(names)):
        title = html.escape(names[index])
        links.append(f'<li><a href="#scene-{slug}">{title}</a></li>')
        try:
            scene = source.load(index)
            sections.append(_section(scene, photo_of(source, scene, index), starts(scene), slug, folder))
            licences += _licences(scene)
        except Exception as error:  # whatever a scene holds, the page of the others is made
            if not isinstance(error, SceneError):
                logging.exception("%s: cannot be drawn", names[index])
            sections.append(f'<section id="scene-{slug}"><h2>{title}</h2><p>{html.escape(str(error))}</p></section>')
    told = "; ".join(dict.fromkeys(licences)) or "not recorded"
    intro = f"<p>{len(names)} of {len(source)} scenes. {html.escape('Licences: ' + told)}.</p>"
    page = template.PAGE.format(
        title="Cues",
        style=template.STYLE,
        intro=f'<div class="intro">{intro}</div>',
        contents=f'<nav aria-label="Scenes"><ul>{"".join(links)}</ul></nav>',
        sections="\n".join(sections),
    )
    write_text(folder / "index.html", page)


def photo_of(source: SceneSource, scene: Scene, index: int) -> UInt8[np.ndarray, "H W 3"]:
    """The packed photo, else the file, else a plain background of the scene's size."""
    width, height = scene.image_size
    packed = source.photo(index)
    pixels = None
    try:
        if packed:
            pixels = read_photo(packed, where=f"{scene.name}: packed photo")
        elif scene.image_path and place(scene.image_path).is_file():
            pixels = read_photo(scene.image_path)
    except SceneError as error:
        logging.warning("%s: %s", scene.name, error)
    if pixels is None or pixels.shape != (height, width, 3):
        return drawing.blank((width, height))
    return straightened(pixels, scene.lens, scene.intrinsics)


class StartPictures:
    """Initial bodies in pixels; the body model is loaded when a scene has any."""

    def __init__(self) -> None:
        self._meshes: BodyMeshes | None = None

    def __call__(self, scene: Scene) -> Float[np.ndarray, "n 17 2"] | None:
        """COCO keypoints of the initial bodies in pixels, NaN for whoever has none; None where nobody has one."""
        if scene.start is None:
            return None
        known = (scene.start.transl[:, 2] > 0) & np.isfinite(scene.start.pose).all(axis=(1, 2))
        if not known.any():
            return None
        if self._meshes is None:
            self._meshes = BodyMeshes()
        points, _ = self._meshes.keypoints_and_height(scene.start)
        with np.errstate(invalid="ignore", divide="ignore"):
            pixels = project(np.asarray(points, np.float64), scene.intrinsics)
        return np.where(known[:, None, None] & (points[..., 2:] > 0), pixels, np.nan)


def _section(scene: Scene, photo: np.ndarray, start: np.ndarray | None, slug: str, folder: Path) -> str:
    figures = []
    for kind, caption, picture in [("photo", "Photo", photo), *cue_pictures(scene, photo, start)]:
        file = f"images/{slug}-{kind}.jpg"
        shown = Image.fromarray(picture)
        shown.thumbnail((_MAX_SIDE, _MAX_SIDE))
        (folder / file).write_bytes(encoded(np.asarray(shown)))
        alt = html.escape(f"{caption} of {scene.name}", quote=True)
        figures.append(
            f'<figure class="{kind}"><a href="{file}"><img src="{file}" width="{shown.width}" height="{shown.height}" '
            f'loading="lazy" alt="{alt}"></a><figcaption>{html.escape(caption)}</figcaption></figure>'
        )
    notes = [
        *scene.notes,
        *(f"person {person} set aside: {reason}" for person, reason in scene.skipped),
        *_sources(scene),
    ]
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return (
        f'<section id="scene-{slug}"><h2><a href="#scene-{slug}">{html.escape(scene.name)}</a></h2>\n'
        f'<div class="pictures">{"".join(figures)}</div>\n{_table(scene)}\n'
        + (f'<ul class="notes">{listed}</ul>\n' if listed else "")
        + "</section>"
    )


def _table(scene: Scene) -> str:
    further = [name.removeprefix("anchor_") for name in scene.extra if name.startswith("anchor_")]
    words = {name: word_list(scene, name) for name in ("age", "gender")}
    words |= {name: [str(word) for word in scene.extra.get(f"{name}_words", [""] * len(scene))] for name in further}
    scores, answers = scene.extra.get("detection_scores"), scene.extra.get("answers")
    count = 17 + whole_body(scene).shape[1]
    columns: dict[str, Callable[[int], str]] = {
        "Score": lambda i: "–" if scores is None else f"{scores[i]:.2f}",
        "Keypoints": lambda i: f"{_seen(scene, whole_body(scene), i)} of {count}",
        **{name.capitalize(): functools.partial(_word, scene, words[name], name) for name in words},
        "Median depth (m)": lambda i: f"{scene.median_depth[i]:.2f}" if np.isfinite(scene.median_depth[i]) else "–",
        "Start": lambda i: "keypoints" if scene.start is None or not scene.start.transl[i].any() else "given",
    }
    if answers is not None:
        columns["Answer"] = lambda i: textwrap.shorten(str(answers[i]), _ANSWER_LENGTH, placeholder=" …")
    rows = []
    for i, colour in enumerate(palette(len(scene))):
        ink = "#000" if float(np.dot(colour, (0.299, 0.587, 0.114))) > 120 else "#fff"
        swatch = f'<span class="swatch" style="background:rgb{tuple(map(int, colour))};color:{ink}">{i}</span>'
        rows.append(
            f'<tr><th scope="row">{swatch}{html.escape(scene.person_ids[i])}</th>'
            + "".join(f"<td>{html.escape(cell(i))}</td>" for cell in columns.values())
            + "</tr>"
        )
    header = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("Person", *columns))
    return f'<div class="table"><table><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _seen(scene: Scene, more: np.ndarray, person: int) -> int:
    return int((scene.keypoints[person, :, 2] > 0).sum() + (more[person, :, 2] > 0).sum())


def _word(scene: Scene, words: list[str], attribute: str, person: int) -> str:
    anchors = scene.extra.get(f"anchor_{attribute}", getattr(scene, attribute, None))
    anchor, word = float(np.asarray(anchors)[person]), words[person]
    table = scene.extra.get(f"probabilities_{attribute}")
    sure = "" if table is None or not word else f", p {float(np.max(table[person])):.2f}"
    return "–" if anchor < 0 else f"{word or 'anchor'} ({anchor:.2f}{sure})"


def _sources(scene: Scene) -> list[str]:
    cues = (scene.extra.get("provenance") or {}).get("cues") or {}
    parts = ("expert", "checkpoint", "version", "licence")
    return [
        f"{cue}: " + ", ".join(str(card[part]) for part in parts if card.get(part))
        for cue, card in cues.items()
        if isinstance(card, dict)
    ]


def _licences(scene: Scene) -> list[str]:
    return [str(licence) for licence in (scene.extra.get("provenance") or {}).get("licences") or []]
