"""Choose the vertices and triangles of the mesh that synthetic pictures are drawn with.

    python -m experiments.builders.build_render_mesh --output=annyfit_jax/data/anny_render_mesh.npz

Edge collapses over five bodies from newborn to elder (`annyfit_jax.synthetic.decimate`); faces count double, fingers and toes
little. The tongue, which nobody sees, is left out.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Float

from annyfit_jax.fit.keypoint_start import calibrated_phenotypes
from annyfit_jax.records import files
from annyfit_jax.synthetic.decimate import decimate
from body_models import anny

_OUTPUT = flags.DEFINE_string("output", "annyfit_jax/data/anny_render_mesh.npz", "File to write.")
_VERTICES = flags.DEFINE_integer("vertices", 3000, "How many to keep.", lower_bound=100)

_AGES = np.array([0.0, 0.2, 0.75, 0.75, 0.9])
_GENDERS = np.array([0.5, 0.5, 0.0, 1.0, 0.5])
_DIGITS = ("finger", "metacarpal", "toe")
_FACE = ("head", "eye", "oris", "jaw", "levator", "orbicularis", "oculi", "temporalis", "risorius", "special")


def main(_: list[str]) -> None:
    model = anny.load()
    shapes = np.asarray(
        anny.rest(model, jnp.asarray(calibrated_phenotypes(_AGES, _GENDERS), jnp.float32))[0], np.float64
    )
    shapes /= np.ptp(shapes[..., 2], axis=1)[:, None, None]
    tongue = importance(model)[1]
    faces = np.asarray(model.faces)
    faces = faces[~tongue[faces].any(1)]
    vertices, reduced = decimate(shapes, faces, _VERTICES.value, importance(model)[0])
    files.write_npz(
        _OUTPUT.value,
        {
            "vertices": vertices.astype(np.int32),
            "faces": reduced.astype(np.int32),
            "asset_version": np.array(model.labels.asset_version),
        },
    )
    print(f"{len(vertices)} vertices, {len(reduced)} triangles: {_OUTPUT.value}")


def importance(model: anny.AnnyModel) -> tuple[Float[np.ndarray, "V"], np.ndarray]:
    """Weight of each vertex, and whether it belongs to the tongue (a component of its own)."""
    names = [model.labels.bones[bone] for bone in np.asarray(model.skin).argmax(0)]
    weight = np.array([0.15 if n.startswith(_DIGITS) else 2.0 if n.startswith(_FACE) else 1.0 for n in names])
    component = np.arange(len(names))
    edges = np.asarray(model.faces)[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    while True:  # every vertex takes the smallest index it is connected to
        before = component.copy()
        for a, b in ((0, 1), (1, 0)):
            np.minimum.at(component, edges[:, a], component[edges[:, b]])
        component = component[component]
        if np.array_equal(component, before):
            break
    tip = names.index("tongue04")
    return weight, component == component[tip]


if __name__ == "__main__":
    app.run(main)
