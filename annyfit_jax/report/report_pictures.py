"""The pictures and the 3D model of one scene, drawn with Anny's reduced mesh (3000 vertices), or the whole one of SMPL-X."""

from __future__ import annotations

import base64
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from annyfit_jax.exports.scene_files import camera_to_frame, export_glb
from annyfit_jax.people.fit_meshes import FitMeshes
from annyfit_jax.people.fitted import drawable, is_smplx
from annyfit_jax.records.encoded_pictures import encoded
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.report.part_pictures import part_sheet
from annyfit_jax.report.people_table import to_json
from annyfit_jax.report.scene_pages import scene_page
from annyfit_jax.synthetic.body_chunks import in_chunks, surface_points
from annyfit_jax.synthetic.render_mesh import load_render_mesh
from annyfit_jax.viz import drawing, rasterise
from annyfit_jax.viz.page import ScenePage, page_photo
from body_models import anny

MAX_SIDE = 960
"""Longer photos are reduced."""
THUMB_WIDTH = 320
_VIEW_SIZE = (720, 540)
_SUPERSAMPLING = 2

Photo = UInt8[np.ndarray, "H W 3"]


class Painter:
    """Draws fits; holds the bodies' meshes, Anny's reduced one and its compiled points."""

    def __init__(self, model: anny.AnnyModel | None = None, bodies: FitMeshes | None = None) -> None:
        """`bodies`: with SMPL-X, for its fits."""
        self._bodies = FitMeshes() if bodies is None else bodies
        self._model = model
        self._points: Callable = jax.jit(anny.points)

    @functools.cached_property
    def _reduced(self) -> tuple[np.ndarray, anny.AnnyPoints]:
        """Triangles of Anny's reduced mesh and its points."""
        model = self._bodies.anny.model if self._model is None else self._model
        mesh = load_render_mesh(model)
        return mesh.faces, surface_points(model, np.zeros((0, model.skin.shape[1])), mesh.vertices)

    def faces(self, fit: SceneFit) -> np.ndarray:
        """(F, 3) triangles of what `vertices` gives."""
        return self._bodies.of(fit).faces if is_smplx(fit) else self._reduced[0]

    def vertices(self, fit: SceneFit, *, start: bool = False) -> Float[np.ndarray, "n V 3"]:
        """Of the fitted bodies, or of those they started from. Camera space, metres; NaN for people without a fit."""
        rows = drawable(fit)
        people = (fit.start if start else fit.parameters).select(rows)
        out = np.full((len(fit), int(self.faces(fit).max()) + 1, 3), np.nan)
        if len(rows) and is_smplx(fit):
            out[rows] = self._bodies.of(fit).vertices(people)
        elif len(rows):
            out[rows] = in_chunks(lambda p: self._points(self._reduced[1], p), people)
        return out

    def files(self, fit: SceneFit, photo: Photo | None) -> dict[str, bytes]:
        """Content by file name: what there is to see of a scene in which somebody is fitted.

        `overlay.jpg`, `keypoints.jpg`, `top.png`, `side.png`, `thumb.jpg`, `model.js` (see `model_script`), where there is one
        `photo.jpg`, where the start is known `start.jpg`, and where hands, faces or feet were fitted `parts.jpg`.
        """
        vertices, faces = self.vertices(fit), self.faces(fit)
        page = scene_page(fit, vertices, faces, packed=photo)
        out = _drawings(page, vertices)
        if np.isfinite(fit.start.transl[drawable(fit)]).all():
            out["start.jpg"] = encoded(_start_picture(page, self.vertices(fit, start=True)))
        if page.photo is not None and (sheet := part_sheet(fit, page.photo, self._bodies.of(fit))) is not None:
            out["parts.jpg"] = encoded(sheet)
        out["model.js"] = model_script(fit, vertices[drawable(fit)], faces).encode()
        return out


def _drawings(page: ScenePage, vertices: np.ndarray) -> dict[str, bytes]:
    photo, intrinsics, factor = page_photo(page, MAX_SIDE)
    height, width = photo.shape[:2]
    large = np.diag([_SUPERSAMPLING, _SUPERSAMPLING, 1.0]) @ intrinsics
    raster = rasterise(vertices, page.faces, large, (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    bodies = drawing.overlay(photo, raster, vertices, page.faces)
    out = {"photo.jpg": encoded(photo)} if page.photo is not None else {}
    out["overlay.jpg"] = encoded(drawing.label_people(bodies, raster, len(page.people)))
    if page.keypoints is not None and page.projected is not None:
        pale = drawing.overlay(photo, raster, vertices, page.faces, alpha=0.4)
        observed, projected = page.keypoints * np.array([factor, factor, 1.0]), page.projected * factor
        out["keypoints.jpg"] = encoded(drawing.draw_keypoints(pale, observed, projected))
    for name, draw in (("top.png", drawing.top_view), ("side.png", drawing.side_view)):
        out[name] = encoded(draw(vertices, page.faces, _VIEW_SIZE, intrinsics, (width, height)), "PNG")
    reduced = Image.fromarray(bodies)
    reduced.thumbnail((THUMB_WIDTH, THUMB_WIDTH), Image.Resampling.LANCZOS)
    out["thumb.jpg"] = encoded(np.asarray(reduced))
    return out


def _start_picture(page: ScenePage, vertices: Float[np.ndarray, "n V 3"]) -> Photo:
    """The bodies that the fit started from, over the photo."""
    photo, intrinsics, _ = page_photo(page, MAX_SIDE)
    height, width = photo.shape[:2]
    large = np.diag([_SUPERSAMPLING, _SUPERSAMPLING, 1.0]) @ intrinsics
    raster = rasterise(vertices, page.faces, large, (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    return drawing.overlay(photo, raster, vertices, page.faces)


def model_script(fit: SceneFit, vertices: Float[np.ndarray, "m V 3"], faces: np.ndarray) -> str:
    """A script `Report.model(name, base64)` with the scene as binary glTF: Y up, origin at the camera, K in its extras."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.glb"
        export_glb(fit, path, vertices, faces, camera_to_frame("camera"), "camera", normals=False)
        content = base64.b64encode(path.read_bytes()).decode()
    return f"Report.model({to_json(fit.name)},{to_json(content)});\n"
