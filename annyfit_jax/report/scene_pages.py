"""Fits to pictures: what `annyfit_jax.viz` draws, taken from a `SceneFit`."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from annyfit_jax.fit.objective import project
from annyfit_jax.people.scene import BodyParameters
from annyfit_jax.people.words import age_class, gender_class
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.viz import ScenePage


def parameters(fit: SceneFit) -> BodyParameters:
    """The fitted parameters; NaN rows where nothing was fitted."""
    return BodyParameters(fit.root_rotvec, fit.transl, fit.pose, fit.shape)


def load_photo(path: str) -> np.ndarray | None:
    """(H, W, 3) uint8 in display orientation, or None where there is no file."""
    if not path or not Path(path).is_file():
        return None
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def scene_page(fit: SceneFit, vertices: np.ndarray, faces: np.ndarray, credit_html: str = "") -> ScenePage:
    """The page entry of one fitted scene.

    Args:
      vertices: (n, V, 3) posed vertices in camera space, NaN for people without a fit.
      credit_html: trusted HTML under the photo.
    """
    keypoints = np.asarray(fit.fitted_keypoints_3d, np.float64)
    projected = np.asarray(project(np.moveaxis(keypoints, -1, 0), fit.K))
    people = []
    for i in range(len(fit)):
        fitted = np.isfinite(fit.shape[i]).all()
        people.append(
            {
                "id": str(fit.person_ids[i]),
                "age": f"{fit.shape[i, 1]:.2f} ({age_class(float(fit.shape[i, 1]))})" if fitted else "",
                "gender": f"{fit.shape[i, 0]:.2f} ({gender_class(float(fit.shape[i, 0]))})" if fitted else "",
                "height_m": float(fit.height_m[i]),
                "depth_m": float(fit.depth_m[i]),
                "reprojection_px": float(fit.reprojection_px[i]),
                "status": str(fit.status[i]),
            }
        )
    notes = [str(n) for n in fit.scene_notes]
    notes += [f"person {i} set aside: {reason}" for i, reason in fit.set_aside]
    return ScenePage(
        name=fit.name,
        photo=load_photo(fit.image_path),
        vertices=vertices,
        faces=faces,
        intrinsics=fit.K,
        keypoints=fit.keypoints_2d,
        projected=np.moveaxis(projected, 0, -1),
        people=people,
        credit_html=credit_html,
        notes=notes,
        image_size=(int(fit.image_size[0]), int(fit.image_size[1])),
    )


def coco_credits(annotation_file: str) -> dict[str, str]:
    """File name -> HTML credit line, from the `images` and `licenses` of a COCO file; empty for other inputs."""
    path = Path(annotation_file)
    if path.suffix != ".json" or not path.is_file():
        return {}
    content = json.loads(path.read_text())
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
