"""Fits to pictures: what `annyfit_jax.viz` draws, taken from a `SceneFit`."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import UInt8

from annyfit_jax.inputs.photos import read_photo
from annyfit_jax.metrics.word_scores import age_group
from annyfit_jax.people.camera import project
from annyfit_jax.people.fit_meshes import FitMeshes
from annyfit_jax.people.lens import straightened
from annyfit_jax.people.scene import SceneError
from annyfit_jax.people.words import gender_class
from annyfit_jax.records import fit_files
from annyfit_jax.records.file_names import file_stem
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.report.part_pictures import part_sheet
from annyfit_jax.store.locations import Location, filled, place
from annyfit_jax.viz import ScenePage, write_page
from annyfit_jax.viz.page import overlay_picture

_INTRO = (
    "<p>Bodies fitted by <code>annyfit-jax</code> in camera space, in metres. An age is the class whose body is nearest, with "
    "the years that Anny gives to it: a grown body is an adult's, whatever the face says. Gender runs from 0 (male) to 1 "
    "(female). One colour per person.</p>"
)


Pictures = list[tuple[str, np.ndarray]]
"""Captions and (h, w, 3) uint8 pictures."""


def write_scene_pages(
    folder: str | Path | Location,
    names: Iterable[str],
    *,
    annotations: str = "",
    compare: str | Path | Location | None = None,
    cue_pictures: Callable[[str, np.ndarray], Pictures] | None = None,
    bodies: FitMeshes | None = None,
) -> Location:
    """Writes `index.html` into the folder of a job, with pictures of its fit files; returns where it is.

    Args:
      names: of the scenes; those without a fit are left out.
      annotations: COCO file that credits the photos.
      compare: folder of another job, whose fits of the same scenes stand beside.
      cue_pictures: what to show of a scene's cues, from its name and its (H, W, 3) photo.
      bodies: with SMPL-X where they are fits of SMPL-X.
    """
    bodies, credits, pages, folder = bodies or FitMeshes(), coco_credits(annotations), [], place(folder)

    def page_of(path: Location) -> ScenePage:
        fit = fit_files.load(path.fetched())
        meshes = bodies.of(fit, str(path))
        vertices = meshes.vertices(fit.parameters) if fit.vertices is None else fit.vertices
        page = scene_page(fit, vertices, meshes.faces, credits.get(Path(fit.image_path).name, ""))
        if page.photo is not None and (sheet := part_sheet(fit, page.photo, meshes, vertices)) is not None:
            page.after = [("Hands, heads and feet that were fitted: photo above body", sheet)]
        return page

    for name in sorted(names):
        path = folder / "fits" / f"{file_stem(name)}.npz"
        if not path.exists():  # scenes set aside have no fit
            continue
        page = page_of(path)
        if cue_pictures is not None and page.photo is not None:
            page.before = cue_pictures(name, page.photo)
        if compare is not None and (other := place(compare) / "fits" / path.name).exists():
            caption = f"For comparison: {place(compare).name.replace('_', ' ')}"
            page.after = [(caption, overlay_picture(page_of(other))), *page.after]
        pages.append(page)
    if without := sum(page.photo is None for page in pages):
        logging.warning("%d of %d scenes of the page have no photo: grey instead, with the reason", without, len(pages))
    with filled(folder) as local:
        write_page(local, pages, title="Anny-Fit", intro_html=_INTRO)
    return folder / "index.html"


def load_photo(path: str) -> tuple[UInt8[np.ndarray, "H W 3"] | None, str]:
    """The photo in display orientation and an empty text; without one None and the reason, empty where no photo is named."""
    if not path:
        return None, ""
    try:
        return read_photo(path), ""
    except SceneError as error:
        return None, f"no photo: {error}"


def scene_page(
    fit: SceneFit,
    vertices: np.ndarray,
    faces: np.ndarray,
    credit_html: str = "",
    packed: UInt8[np.ndarray, "H W 3"] | None = None,
) -> ScenePage:
    """The page entry of one fitted scene. A photo that cannot be read, or is not of the scene's size, is left out and noted.

    Args:
      vertices: (n, V, 3) posed vertices in camera space, NaN for people without a fit.
      credit_html: trusted HTML under the photo.
      packed: the photo, where the path in the fit leads nowhere.
    """
    keypoints = np.asarray(fit.fitted_keypoints_3d, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        projected = project(keypoints, np.asarray(fit.K, np.float64))
    people = []
    for i in range(len(fit)):
        gender, age = (float(value) for value in fit.phenotypes[i, :2])
        fitted = np.isfinite(age)
        people.append(
            {
                "id": str(fit.person_ids[i]),
                "age": age_group(age) if fitted else "",
                "gender": f"{gender:.2f} ({gender_class(gender)})" if fitted else "",
                "height_m": float(fit.height_m[i]),
                "depth_m": float(fit.depth_m[i]),
                "reprojection_px": float(fit.reprojection_px[i]),
                "trust": float(fit.trust[i]),
                "status": str(fit.status[i]),
            }
        )
    photo, missing = load_photo(fit.image_path) if packed is None else (packed, "")
    photo = None if photo is None else straightened(photo, fit.lens, fit.K)
    width, height = (int(side) for side in fit.image_size)
    if photo is not None and photo.shape[:2] != (height, width):
        missing = f"no photo: it has {photo.shape[1]} x {photo.shape[0]} pixels, the scene {width} x {height}"
        photo = None
    notes = [*([missing] if missing else []), *(str(n) for n in fit.scene_notes)]
    notes += [f"person {i} set aside: {reason}" for i, reason in fit.set_aside]
    return ScenePage(
        name=fit.name,
        photo=photo,
        vertices=vertices,
        faces=faces,
        intrinsics=fit.K,
        keypoints=fit.keypoints_2d,
        projected=projected,
        people=people,
        credit_html=credit_html,
        notes=notes,
        image_size=(int(fit.image_size[0]), int(fit.image_size[1])),
    )


def coco_credits(annotation_file: str) -> dict[str, str]:
    """File name -> HTML credit line, from the `images` and `licenses` of a COCO file; empty for other inputs."""
    path = place(annotation_file)
    if not path.name.endswith(".json") or not path.is_file():
        return {}
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        return {}
    licenses = {entry.get("id"): entry for entry in content.get("licenses", [])}
    credits = {}
    for image in content.get("images", []):
        licence = licenses.get(image.get("license"), {})
        author = html.escape(str(image.get("credit") or "photographer: see the source"))
        source = html.escape(str(image.get("source_url") or image.get("flickr_url") or ""), quote=True)
        name, url = html.escape(str(licence.get("name", ""))), html.escape(str(licence.get("url", "")), quote=True)
        credits[str(image.get("file_name"))] = (
            f'Photo: <a href="{source}">{author}</a>, <a href="{url}">{name}</a>, unmodified source image.'
        )
    return credits
