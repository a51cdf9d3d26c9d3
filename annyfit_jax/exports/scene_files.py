"""A file per scene: parameters as plain `.npz`, meshes as `.glb`, `.ply` and `.obj`. Metres, but for `.obj` for Unreal.

Frames (right-handed; all three show an upright photo's people upright):

| what | x | y | z | used by |
|---|---|---|---|---|
| camera axes | right | down | forward, away from the viewer | `.npz` with frame `camera`; everything inside this project |
| Y up (glTF) | right | up | towards the viewer | `.glb`, `.usd` (`usd_file`); `.npz` with frame `world` |
| Z up (Blender) | right | away from the viewer | up | `.ply`, which importers take as it is |

`.obj` has the axes and units of the program that it is for (`other_programs`). Meshes with bones are in `skinned_files`.

Blender turns glTF's Y up into its own Z up, so a scene lies at the same place in Blender whichever format it came by. The
origin is the camera's centre (`camera`), or the point of the floor straight below it (`world`), where the camera is taken as
level and the floor as the height of the lowest fitted vertex of the scene: a convention for viewing, not a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float, Int

from annyfit_jax.exports.exported_people import number
from annyfit_jax.exports.other_programs import PROGRAMS, OtherProgram
from annyfit_jax.people.fitted import FACTS, SceneFit, drawable
from annyfit_jax.records.files import write_bytes, write_npz

FORMATS = ("npz", "glb", "ply", "obj", "usd")
FRAMES = ("camera", "world")
Y_UP = np.diag([1.0, -1.0, -1.0])
"""Camera axes to glTF axes: half a turn about x."""
Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Camera axes to Blender's axes."""
FRAME_TEXT = {
    "camera": "camera axes: x right, y down, z forward; origin at the camera; metres; radians",
    "world": "x right, y up, z towards the viewer; origin on the floor below a level camera; metres; radians",
}


# ------------------------------------------------------------------------------------------------ frames


def camera_to_frame(frame: str, vertices: Float[np.ndarray, "m V 3"] | None = None) -> Float[np.ndarray, "4 4"]:
    """Rigid map from camera axes to a frame of `FRAMES`.

    Args:
      vertices: posed vertices in camera space. The lowest finite one is the floor of `world`; without any, the camera's
        own height is.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame {frame!r}: expected one of {', '.join(FRAMES)}")
    transform = np.eye(4)
    if frame == "world":
        down = np.zeros(0) if vertices is None else np.asarray(vertices, np.float64)[..., 1]
        down = down[np.isfinite(down)]
        transform[:3, :3] = Y_UP
        transform[1, 3] = down.max() if down.size else 0.0
    return transform


def to_gltf_axes(transform: Float[np.ndarray, "4 4"], frame: str) -> Float[np.ndarray, "4 4"]:
    """Camera axes to glTF's, with the origin of the frame; `transform` as of `camera_to_frame`. `world` has these axes."""
    return transform if frame == "world" else homogeneous(Y_UP)


def move(points: Float[np.ndarray, "*batch 3"], transform: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "*batch 3"]:
    """Apply a rigid map to points."""
    return np.asarray(points, np.float64) @ transform[:3, :3].T + transform[:3, 3]


def turn_half_about_x(rotvec: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Rotation vectors of Y_UP @ R(rotvec), angle at most pi; NaN stays NaN.

    In quaternions (w, x, y, z) the product with the half turn (0, 1, 0, 0) from the left is (-x, w, -z, y).
    """
    rotvec = np.asarray(rotvec, np.float64)
    angle = np.linalg.norm(rotvec, axis=-1, keepdims=True)
    w = np.cos(angle / 2)
    x, y, z = np.moveaxis(rotvec * np.sinc(angle / (2 * np.pi)) / 2, -1, 0)[..., None]
    real, imaginary = -x, np.concatenate([w, -z, y], -1)
    sign = np.where(real < 0, -1.0, 1.0)
    real, imaginary = sign * real, sign * imaginary
    sine = np.linalg.norm(imaginary, axis=-1, keepdims=True)
    half = np.arctan2(sine, real)
    return imaginary * np.where(sine > 1e-12, 2 * half / np.maximum(sine, 1e-12), 2.0)


# ------------------------------------------------------------------------------------------------ npz


def parameter_arrays(fit: SceneFit, transform: Float[np.ndarray, "4 4"], frame: str) -> dict[str, np.ndarray]:
    """The content of an exported `.npz`: plain arrays, no pickles, all n people in input order, NaN where not fitted.

    `anny.forward` with `shape`, `root_rotvec`, `pose`, `transl` gives the bodies in the frame named by `frame`; `K` projects
    points of the camera frame, which `camera_from_frame` (4, 4) leads back to.
    """
    moved = frame == "world"
    root = turn_half_about_x(fit.root_rotvec) if moved else fit.root_rotvec
    floats = {
        **{fact.exported: getattr(fit, name) for name, fact in FACTS.items() if fact.exported},
        "root_rotvec": root,
        "transl": move(fit.transl, transform),
        "keypoints_3d": move(fit.fitted_keypoints_3d, transform),
        "K": fit.K,
        "keypoints_2d": fit.keypoints_2d,
        "camera_from_frame": np.linalg.inv(transform),
    }
    return {
        **{name: np.asarray(value, np.float32) for name, value in floats.items()},
        "status": fit.status,
        "person_ids": fit.person_ids,
        "notes": fit.notes,
        "image_size": np.asarray(fit.image_size, np.int32),
        "image_path": np.array(fit.image_path),
        "name": np.array(fit.name),
        "bone_labels": fit.bone_labels,
        "phenotype_labels": fit.phenotype_labels,
        "asset_version": np.array(fit.asset_version),
        "config_hash": np.array(fit.config_hash),
        "frame": np.array(FRAME_TEXT[frame]),
    }


def export_npz(fit: SceneFit, path: str | Path, transform: Float[np.ndarray, "4 4"], frame: str) -> None:
    """Write `parameter_arrays`, atomically."""
    write_npz(path, parameter_arrays(fit, transform, frame))


# ------------------------------------------------------------------------------------------------ meshes

ROUGH = {"metallicFactor": 0.0, "roughnessFactor": 0.8}
"""Surface of the materials; without one, glTF's default is a metal."""
_MATERIAL = {"name": "skin", "pbrMetallicRoughness": {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], **ROUGH}}


def export_glb(
    fit: SceneFit,
    path: str | Path,
    vertices: Float[np.ndarray, "m V 3"],
    faces: Int[np.ndarray, "F 3"],
    transform: Float[np.ndarray, "4 4"],
    frame: str,
    *,
    normals: bool = True,
) -> None:
    """Write a binary glTF, atomically: one node and mesh `person_<id>` per drawable person, and the pinhole camera.

    Meshes have smooth normals, and one rough material that takes the vertex colours.

    glTF cameras have no principal point: the node looks through the image's centre with the vertical field of view of K. K
    itself, the status of every person and the frame's description are in the scene's extras.

    Args:
      vertices: camera-space vertices of the people `drawable(fit)`.
      transform: `camera_to_frame(frame, ...)`.
      normals: without them the file is smaller by a quarter, and viewers shade facets or compute their own.
    """
    import trimesh
    from trimesh.scene.cameras import Camera

    rows = drawable(fit)
    check_vertices(vertices, rows, fit)
    to_gltf = to_gltf_axes(transform, frame)
    scene = trimesh.Scene()
    for row, name, points, colour in zip(rows, node_names(fit, rows), vertices, colours(fit)[rows]):
        mesh = trimesh.Trimesh(
            move(points, to_gltf), faces, process=False, vertex_colors=np.tile(colour, (len(points), 1))
        )
        mesh.metadata = person_facts(fit, int(row))
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    width, height = (float(x) for x in fit.image_size)
    fx, fy = float(fit.K[0, 0]), float(fit.K[1, 1])
    fov = np.degrees([2 * np.arctan(width / (2 * fx)), 2 * np.arctan(height / (2 * fy))])
    scene.camera = Camera(name="camera", resolution=(int(width), int(height)), fov=fov)
    # A glTF camera looks along -z with y up: the camera axes turned by Y_UP, at the camera's centre.
    scene.camera_transform = to_gltf @ homogeneous(Y_UP)
    scene.metadata.update(scene_facts(fit, frame))

    def finish(tree: dict) -> None:
        # trimesh writes the ratio of the angles; glTF wants that of the picture's sides (at unit distance).
        for camera in tree["cameras"]:
            camera["perspective"]["aspectRatio"] = (width / fx) / (height / fy)
        tree["materials"] = [_MATERIAL]
        for mesh in tree["meshes"]:
            for primitive in mesh["primitives"]:
                primitive["material"] = 0

    write_bytes(path, cast(bytes, scene.export(file_type="glb", include_normals=normals, tree_postprocessor=finish)))


def export_ply(
    fit: SceneFit,
    path: str | Path,
    vertices: Float[np.ndarray, "m V 3"],
    faces: Int[np.ndarray, "F 3"],
    transform: Float[np.ndarray, "4 4"],
    frame: str,
) -> None:
    """Write one binary PLY of all drawable people, atomically: Z up, coloured vertices, person after person.

    The header's comments name the axes and the people in order. Arguments as for `export_glb`.
    """
    import trimesh

    rows = drawable(fit)
    check_vertices(vertices, rows, fit)
    count, shades = vertices.shape[1], colours(fit)[rows]
    z_up = homogeneous(Z_UP) @ (homogeneous(Y_UP) @ transform if frame == "world" else np.eye(4))
    merged = trimesh.Trimesh(
        move(vertices, z_up).reshape(-1, 3),
        (np.asarray(faces)[None] + count * np.arange(len(rows))[:, None, None]).reshape(-1, 3),
        process=False,
        vertex_colors=np.repeat(shades, count, axis=0),
    )
    origin = "the camera" if frame == "camera" else "on the floor below the camera"
    comments = [
        f"metres; x right, y away from the viewer, z up; origin {origin}",
        f"{count} vertices and {len(faces)} triangles per person, in order: " + " ".join(node_names(fit, rows)),
    ]
    content = cast(bytes, merged.export(file_type="ply", vertex_normal=False))
    header, body = content.split(b"end_header\n", 1)
    magic, encoding, rest = header.split(b"\n", 2)
    lines = b"".join(b"comment " + " ".join(c.split()).encode("ascii", "replace") + b"\n" for c in comments)
    write_bytes(path, magic + b"\n" + encoding + b"\n" + lines + rest + b"end_header\n" + body)


def export_obj(
    fit: SceneFit,
    path: str | Path,
    vertices: Float[np.ndarray, "m V 3"],
    faces: Int[np.ndarray, "F 3"],
    transform: Float[np.ndarray, "4 4"],
    frame: str,
    *,
    program: OtherProgram = PROGRAMS["blender"],
) -> None:
    """Write one `.obj`, atomically: an object `person_<id>` per drawable person, with normals and coloured vertices.

    Arguments as for `export_glb`; `program` decides axes and units, which a comment at the head of the file names.
    """
    import trimesh

    rows = drawable(fit)
    check_vertices(vertices, rows, fit)
    scene = trimesh.Scene()
    points = program.units_per_metre * move(vertices, to_gltf_axes(transform, frame)) @ program.axes.T
    for name, body, colour in zip(node_names(fit, rows), points, colours(fit)[rows]):
        shade = np.tile(colour, (len(body), 1))
        scene.add_geometry(trimesh.Trimesh(body, faces, process=False, vertex_colors=shade), geom_name=name)
    origin = "the camera" if frame == "camera" else "on the floor below the camera"
    head = f"annyfit-jax; {program.unit}; {program.axes_text}; origin {origin}"
    text = scene.export(file_type="obj", include_normals=True, header=head)
    write_bytes(path, text.encode() if isinstance(text, str) else cast(bytes, text))


def node_names(fit: SceneFit, rows: Sequence[int] | np.ndarray) -> list[str]:
    """`person_<id>` per row; an id that two people share gets the row's number."""
    ids = [str(fit.person_ids[row]) for row in rows]
    return [f"person_{i}" if ids.count(i) == 1 else f"person_{i}_row{row}" for i, row in zip(ids, rows)]


def homogeneous(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4 4"]:
    """The rigid map of a rotation alone."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    return transform


def colours(fit: SceneFit) -> np.ndarray:
    """(n, 4) uint8: the colour of each person of the scene in the pictures, opaque."""
    from annyfit_jax.viz import palette

    return np.concatenate([palette(len(fit)), np.full((len(fit), 1), 255, np.uint8)], axis=1)


def scene_facts(fit: SceneFit, frame: str) -> dict:
    """What the extras of a glTF scene say: name, axes, intrinsics, and every person with status and numbers."""
    return {
        "name": fit.name,
        "axes": "metres; x right, y up, z towards the viewer; origin: "
        + ("the camera" if frame == "camera" else "on the floor below the camera"),
        "K": np.asarray(fit.K, float).tolist(),
        "image_size": [int(side) for side in fit.image_size],
        "people": [person_facts(fit, row) for row in range(len(fit))],
    }


def person_facts(fit: SceneFit, row: int) -> dict:
    """Status, numbers and phenotypes of a person as JSON holds them."""
    return {
        "person_id": str(fit.person_ids[row]),
        "status": str(fit.status[row]),
        **{
            fact.exported: number(getattr(fit, name)[row], 4)
            for name, fact in FACTS.items()
            if fact.exported and fact.shape == ("n",)
        },
        **{str(label): number(value, 4) for label, value in zip(fit.phenotype_labels, fit.shape[row])},
    }


def check_vertices(vertices: np.ndarray, rows: np.ndarray, fit: SceneFit) -> None:
    """Raises ValueError where there are not the vertices of the people `rows`, or no people."""
    if vertices.ndim != 3 or len(vertices) != len(rows) or vertices.shape[-1] != 3:
        raise ValueError(f"{fit.name}: vertices: expected shape ({len(rows)}, V, 3), got {vertices.shape}")
    if not len(rows):
        raise ValueError(f"{fit.name}: nobody was fitted, there is no mesh to export")
