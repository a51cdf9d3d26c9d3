"""The mesh that is drawn: 3000 of the body's own vertices, with what decides their colour.

`python -m experiments.builders.build_render_mesh` chooses the vertices (`decimate.py`) and writes the file in
`annyfit_jax/data`.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.synthetic.floor_contact import part_vertices
from body_models import anny

ASSET = "anny_render_mesh.npz"
_HEAD = (
    "head",
    "jaw",
    "special",
    "oris",
    "levator",
    "eye",
    "orbicularis",
    "temporalis",
    "oculi",
    "risorius",
    "neck03",
    "tongue",
)
_ARM = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
_LEG = ("upperleg", "lowerleg", "foot", "toe")
_FOOT = ("foot", "toe")
FIELDS = ("x", "y", "z", "head", "arm", "leg", "foot", "along_arm", "eye")
"""Columns of `RenderMesh.fields`."""


@dataclass(frozen=True)
class RenderMesh:
    """v vertices, f triangles."""

    vertices: Int[np.ndarray, "v"]
    """Indices into the body model's vertices."""
    faces: Int[np.ndarray, "f 3"]
    """Outward triangles, closed; indices into `vertices`."""
    fields: Float[np.ndarray, "v field"]
    """Smooth over the surface (`FIELDS`): canonical position (of the mean body at rest, metres: x left, y back, z up
    from the middle), shares of head, arms, legs and feet in its skinning, place along the arm (0 shoulder, 1 wrist), whether it
    is an eyeball."""
    parts: dict[str, Int[np.ndarray, "k"]]
    """Vertices that can touch the ground, by part (`floor_contact.PARTS`)."""


def load_render_mesh(model: anny.AnnyModel) -> RenderMesh:
    """The shipped mesh for a body model. Raises ValueError where it was made for another asset."""
    with (importlib.resources.files("annyfit_jax") / "data" / ASSET).open("rb") as file:
        arrays = dict(np.load(file))
    if str(arrays["asset_version"]) != model.labels.asset_version:
        raise ValueError(
            f"annyfit_jax/data/{ASSET} was made for asset {arrays['asset_version']}, the model is "
            f"{model.labels.asset_version}: run `python -m experiments.builders.build_render_mesh`"
        )
    return render_mesh(model, arrays["vertices"].astype(np.int64), arrays["faces"].astype(np.int64))


def render_mesh(model: anny.AnnyModel, vertices: Int[np.ndarray, "v"], faces: Int[np.ndarray, "f 3"]) -> RenderMesh:
    """Any subset of the body's vertices with triangles among them as a mesh to draw."""
    names = model.labels.bones
    skin = np.asarray(model.skin, np.float64)[:, vertices]
    position = np.asarray(model.vertices.mean, np.float64)[:, vertices].T

    def share(prefixes: tuple[str, ...]) -> np.ndarray:
        return skin[[i for i, name in enumerate(names) if name.startswith(prefixes)]].sum(0)

    heads = np.asarray(model.heads.mean, np.float64)
    shoulder, wrist = (np.abs(heads[:, names.index(bone)]) for bone in ("upperarm01.L", "wrist.L"))
    axis = (wrist - shoulder) * [1, 0, 1]
    mirrored = position * [1, 0, 1]
    mirrored[:, 0] = np.abs(mirrored[:, 0])
    low = heads[:, names.index("upperarm01.L")]
    axis[2] = heads[2, names.index("wrist.L")] - low[2]
    along = (mirrored - [low[0], 0, low[2]]) @ axis / (axis @ axis)
    fields = [*position.T, share(_HEAD), share(_ARM), share(_LEG), share(_FOOT), along, share(("eye.",))]
    return RenderMesh(vertices, faces, np.stack(fields, axis=1), part_vertices([names[b] for b in skin.argmax(0)]))
