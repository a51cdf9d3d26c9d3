"""Pictures and pages of fitted scenes, drawn in software."""

from annyfit_jax.viz.drawing import draw_keypoints, label_people, overlay, palette, side_view, top_view
from annyfit_jax.viz.page import ScenePage, write_page
from annyfit_jax.viz.raster import Raster, rasterise, rasterise_orthographic

__all__ = [
    "Raster",
    "ScenePage",
    "draw_keypoints",
    "label_people",
    "overlay",
    "palette",
    "rasterise",
    "rasterise_orthographic",
    "side_view",
    "top_view",
    "write_page",
]
