"""Meshes of a scene as USD, by `usd-core` (extra `usd`): for Omniverse, Houdini, Maya, Unreal, Blender.

The axes are those of the `.glb`: y up, metres. Unlike glTF, a USD camera has a principal point, so the one in the file is K.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.exports import scene_files
from annyfit_jax.people.fitted import SceneFit, drawable
from annyfit_jax.records.files import write_bytes

APERTURE_MM = 36.0
"""Width of the film that the camera is written for; of a pinhole only ratios of lengths count."""
_FACTS = "annyfit"
"""Key of the custom data with facts as JSON, of the scene and of every person."""


def usd_core(*names: str) -> tuple[Any, ...]:
    """Modules of `pxr`, which has no types. Raises ValueError, which names the package, where `usd-core` is not installed."""
    try:
        return tuple(importlib.import_module(f"pxr.{name}") for name in names)
    except ImportError as error:
        raise ValueError("--format=usd needs usd-core: pip install usd-core") from error


def export_usd(
    fit: SceneFit,
    path: str | Path,
    vertices: Float[np.ndarray, "m V 3"],
    faces: Int[np.ndarray, "F 3"],
    transform: Float[np.ndarray, "4 4"],
    frame: str,
) -> None:
    """Write one binary `.usd`, atomically: a mesh `/scene/person_<id>` per drawable person and the pinhole `/scene/camera`.

    Meshes have smooth normals and one colour (`displayColor`), and are not subdivided. The custom data `annyfit` of the scene
    and of every person holds what the extras of a `.glb` do, as JSON. Arguments as for `scene_files.export_glb`.

    Raises ValueError without `usd-core`, or where there is nobody to draw.
    """
    Gf, Tf, Usd, UsdGeom, Vt = usd_core("Gf", "Tf", "Usd", "UsdGeom", "Vt")
    import trimesh

    rows = drawable(fit)
    scene_files.check_vertices(vertices, rows, fit)
    to_gltf = scene_files.to_gltf_axes(transform, frame)
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/scene")
    stage.SetDefaultPrim(root.GetPrim())
    root.GetPrim().SetCustomDataByKey(_FACTS, json.dumps(scene_files.scene_facts(fit, frame)))
    triangles = np.asarray(faces, np.int32)
    for row, name, points, colour in zip(
        rows, scene_files.node_names(fit, rows), vertices, scene_files.colours(fit)[rows], strict=True
    ):
        body = trimesh.Trimesh(scene_files.move(points, to_gltf), triangles, process=False)
        mesh = UsdGeom.Mesh.Define(stage, f"/scene/{Tf.MakeValidIdentifier(name)}")
        placed = Vt.Vec3fArray.FromNumpy(np.asarray(body.vertices, np.float32))
        mesh.CreatePointsAttr(placed)
        mesh.CreateExtentAttr(UsdGeom.PointBased.ComputeExtent(placed))
        mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(triangles), 3, np.int32)))
        mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(triangles.ravel()))
        mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        mesh.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.asarray(body.vertex_normals, np.float32)))
        mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        # Colours of USD are linear, those of pictures are sRGB.
        mesh.CreateDisplayColorAttr([Gf.Vec3f(*(float(c) for c in _linear(colour[:3] / 255.0)))])
        mesh.GetPrim().SetCustomDataByKey(_FACTS, json.dumps(scene_files.person_facts(fit, int(row))))
    _add_camera(stage, fit, to_gltf)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scene.usd"
        stage.GetRootLayer().Export(str(file))
        write_bytes(path, file.read_bytes())


def _add_camera(stage: Any, fit: SceneFit, to_gltf: Float[np.ndarray, "4 4"]) -> None:
    """The pinhole K: the film is moved so that the optical axis meets it in the principal point."""
    Gf, UsdGeom = usd_core("Gf", "UsdGeom")
    k = np.asarray(fit.K, float)
    width, height = (float(side) for side in fit.image_size)
    mm_x = APERTURE_MM / width
    mm_y = mm_x * k[0, 0] / k[1, 1]
    camera = UsdGeom.Camera.Define(stage, "/scene/camera")
    camera.CreateFocalLengthAttr(mm_x * k[0, 0])
    camera.CreateHorizontalApertureAttr(APERTURE_MM)
    camera.CreateVerticalApertureAttr(mm_y * height)
    camera.CreateHorizontalApertureOffsetAttr(mm_x * (width / 2 - k[0, 2]))
    camera.CreateVerticalApertureOffsetAttr(mm_y * (k[1, 2] - height / 2))
    camera.CreateClippingRangeAttr(Gf.Vec2f(0.05, 1000.0))
    # It looks along -z with y up, as glTF's; USD multiplies rows from the left.
    pose = to_gltf @ scene_files.homogeneous(scene_files.Y_UP)
    camera.AddTransformOp().Set(Gf.Matrix4d(*pose.T.ravel().tolist()))


def _linear(srgb: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """IEC 61966-2-1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
