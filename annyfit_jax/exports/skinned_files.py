"""People with their bones: skinned `.glb`, and `.bvh` with the skeleton alone.

A `.glb` holds for each person the mesh `person_<id>` in its bind pose, `person_<id>_rig` below which the bones are, and the
pose as rotations of the bones: whoever opens the file sees the fitted pose, and can go on posing. The camera and, where
the photo is given, a plane `photo` with the picture stand in the same scene. Seen through the camera, the plane fills the view
behind the people. Colours are those of the pictures; each person has smooth normals and a rough material of its own.

A `.bvh` holds the skeleton of one person: at rest the bones stand as in the bind pose, with the root at the origin, and its one
frame is the fitted pose. Rotations are about z, x, y in this order (Blender's `ZXY`), in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from annyfit_jax.exports import rigs, scene_files
from annyfit_jax.exports.glb_writer import INDICES, VERTEX_DATA, GlbWriter
from annyfit_jax.exports.other_programs import OtherProgram, bone_names
from annyfit_jax.exports.rigs import Rig, RiggedPerson
from annyfit_jax.people.fitted import SceneFit
from annyfit_jax.records.files import write_bytes

_PHOTO_BEHIND = 1.1
"""The photo stands this many times as far away as the farthest vertex."""


# ------------------------------------------------------------------------------------------------ glTF


def export_skinned_glb(
    fit: SceneFit,
    rows: Sequence[int] | np.ndarray,
    path: str | Path,
    rig: Rig,
    people: Sequence[RiggedPerson],
    transform: Float[np.ndarray, "4 4"],
    frame: str,
    program: OtherProgram,
    photo: bytes = b"",
) -> None:
    """Writes a skinned `.glb`, atomically: the chosen people of a scene, its camera, and the photo where one is given.

    Args:
      rows: rows of `fit` that `people` are, in the same order.
      transform: `scene_files.camera_to_frame(frame, ...)`.
      photo: a JPEG, upright and without distortion, of the size or shape of the fit's image; empty = none.
    """
    to_gltf = scene_files.to_gltf_axes(transform, frame)
    glb = GlbWriter("annyfit-jax")
    names = bone_names(rig.bones, program)
    shared = _shared_arrays(glb, rig)
    nodes: list[int] = []
    colours = scene_files.colours(fit)
    reach = 0.0
    for row, name, person in zip(rows, scene_files.node_names(fit, rows), people):
        world = rigs.world_poses(rig, rigs.local_poses(rig, person, np.eye(4)))
        reach = max(reach, float(world[:, 2, 3].max()) + 0.3)
        facts = scene_files.person_facts(fit, int(row))
        nodes += _add_person(glb, rig, person, name, names, shared, colours[row], to_gltf, facts)
    nodes.append(_add_camera(glb, fit, to_gltf))
    if photo:
        nodes.append(_add_photo(glb, fit, to_gltf, photo, _PHOTO_BEHIND * reach))
    glb.add("scenes", {"name": fit.name, "nodes": nodes, "extras": scene_files.scene_facts(fit, frame)})
    glb.tree["scene"] = 0
    write_bytes(path, glb.content())


def _shared_arrays(glb: GlbWriter, rig: Rig) -> dict[str, int]:
    """Accessors that all people share: triangles, joints and weights in sets of four."""
    wide = -(-rig.joints.shape[1] // 4) * 4 - rig.joints.shape[1]
    joints = np.pad(rig.joints, ((0, 0), (0, wide))).astype(np.uint8)
    weights = np.pad(rig.weights, ((0, 0), (0, wide)))
    # 65535 restarts a strip, and is no index.
    small = np.uint16 if len(rig.joints) < 65535 else np.uint32
    shared = {"indices": glb.add_array(rig.faces.reshape(-1).astype(small), INDICES)}
    for k in range(joints.shape[1] // 4):
        shared[f"JOINTS_{k}"] = glb.add_array(joints[:, 4 * k : 4 * k + 4], VERTEX_DATA)
        shared[f"WEIGHTS_{k}"] = glb.add_array(weights[:, 4 * k : 4 * k + 4], VERTEX_DATA)
    return shared


def _add_person(
    glb: GlbWriter,
    rig: Rig,
    person: RiggedPerson,
    name: str,
    names: Sequence[str],
    shared: dict[str, int],
    colour: np.ndarray,
    to_gltf: Float[np.ndarray, "4 4"],
    facts: dict,
) -> list[int]:
    """Mesh, skin and bones of a person; returns the nodes that stand at the root of the scene."""
    import trimesh

    mesh = trimesh.Trimesh(person.vertices, rig.faces, process=False)
    attributes = {
        "POSITION": glb.add_array(person.vertices.astype(np.float32), VERTEX_DATA),
        "NORMAL": glb.add_array(np.asarray(mesh.vertex_normals, np.float32), VERTEX_DATA),
        "COLOR_0": glb.add_array(np.tile(colour, (len(person.vertices), 1)), VERTEX_DATA, normalized=True),
        **{key: index for key, index in shared.items() if key != "indices"},
    }
    material = glb.add("materials", {"name": f"{name}_skin", "pbrMetallicRoughness": {**scene_files.ROUGH}})
    primitive = {"attributes": attributes, "indices": shared["indices"], "material": material}
    geometry = glb.add("meshes", {"name": name, "primitives": [primitive]})
    local = rigs.local_poses(rig, person, to_gltf)
    first = len(glb.tree.get("nodes", ()))
    quaternions = Rotation.from_matrix(local[:, :, :3]).as_quat()
    for bone, quaternion in zip(range(len(names)), quaternions):
        children = [first + child for child, parent in enumerate(rig.parents) if parent == bone]
        node = {"name": names[bone], "translation": local[bone, :, 3].tolist(), "rotation": quaternion.tolist()}
        glb.add("nodes", {**node, **({"children": children} if children else {})})
    inverse = np.tile(np.eye(4, dtype=np.float32), (len(names), 1, 1))
    turned = np.swapaxes(person.bind[:, :, :3], 1, 2)
    inverse[:, :3, :3] = turned
    inverse[:, :3, 3] = -(turned @ person.bind[:, :, 3:])[..., 0]
    joints = list(range(first, first + len(names)))
    skin = {"name": f"{name}_rig", "inverseBindMatrices": glb.add_array(inverse), "joints": joints, "skeleton": first}
    node = {"name": name, "mesh": geometry, "skin": glb.add("skins", skin), "extras": facts}
    return [glb.add("nodes", node), glb.add("nodes", {"name": f"{name}_rig", "children": [first]})]


def _add_camera(glb: GlbWriter, fit: SceneFit, to_gltf: Float[np.ndarray, "4 4"]) -> int:
    width, height = (float(x) for x in fit.image_size)
    fx, fy = float(fit.K[0, 0]), float(fit.K[1, 1])
    view = {"yfov": 2 * math.atan(height / (2 * fy)), "aspectRatio": (width / fx) / (height / fy), "znear": 0.01}
    camera = glb.add("cameras", {"name": "camera", "type": "perspective", "perspective": view})
    # A glTF camera looks along -z with y up: never turned in either frame.
    return glb.add("nodes", {"name": "camera", "camera": camera, "translation": to_gltf[:3, 3].tolist()})


def _add_photo(glb: GlbWriter, fit: SceneFit, to_gltf: np.ndarray, photo: bytes, depth: float) -> int:
    """A plane with the picture, where the rays of its corners are `depth` metres in front of the camera."""
    width, height = (float(x) for x in fit.image_size)
    corners = np.array([[0, 0, 1], [0, height, 1], [width, height, 1], [width, 0, 1]])
    points = scene_files.move(depth * corners @ np.linalg.inv(np.asarray(fit.K, np.float64)).T, to_gltf)
    attributes = {
        "POSITION": glb.add_array(points.astype(np.float32), VERTEX_DATA),
        "TEXCOORD_0": glb.add_array(np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float32), VERTEX_DATA),
    }
    texture = glb.add("textures", {"source": glb.add_image(photo, "image/jpeg", "photo")})
    glb.use("KHR_materials_unlit")
    material = {
        "name": "photo",
        "pbrMetallicRoughness": {"baseColorTexture": {"index": texture}, **scene_files.ROUGH},
        "extensions": {"KHR_materials_unlit": {}},
    }
    primitive = {
        "attributes": attributes,
        "indices": glb.add_array(np.array([0, 1, 2, 0, 2, 3], np.uint16), INDICES),
        "material": glb.add("materials", material),
    }
    return glb.add("nodes", {"name": "photo", "mesh": glb.add("meshes", {"name": "photo", "primitives": [primitive]})})


# ------------------------------------------------------------------------------------------------ BVH


def export_bvh(
    path: str | Path,
    rig: Rig,
    person: RiggedPerson,
    transform: Float[np.ndarray, "4 4"],
    frame: str,
    program: OtherProgram,
) -> None:
    """Writes the skeleton of one person as `.bvh`, atomically, in the axes and units of a program; arguments as above."""
    to_file = np.eye(4)
    to_file[:3, :3] = program.axes
    to_file = to_file @ scene_files.to_gltf_axes(transform, frame)
    names, scale = bone_names(rig.bones, program), program.units_per_metre
    heads = scale * person.bind[:, :, 3] @ program.axes.T
    tips = scale * person.tips @ program.axes.T
    # Bones of a .bvh rest parallel to its axes: what the parent's turn leaves of a bone's own, seen in these axes.
    world = rigs.world_poses(rig, rigs.local_poses(rig, person, to_file))
    turned = world[:, :, :3] @ np.swapaxes(program.axes @ person.bind[:, :, :3], 1, 2)
    relative = np.concatenate([turned[:1], np.swapaxes(turned[np.array(rig.parents[1:])], 1, 2) @ turned[1:]])
    degrees = Rotation.from_matrix(relative).as_euler("ZXY", degrees=True)
    children: list[list[int]] = [[] for _ in names]
    for bone, parent in enumerate(rig.parents[1:], 1):
        children[parent].append(bone)
    lines: list[str] = ["HIERARCHY"]
    order: list[int] = []

    def joint(bone: int, indent: str) -> None:
        order.append(bone)
        offset = heads[bone] - heads[rig.parents[bone]] if bone else np.zeros(3)
        channels = "6 Xposition Yposition Zposition" if bone == 0 else "3"
        lines.extend([f"{indent}{'JOINT' if bone else 'ROOT'} {names[bone]}", f"{indent}{{"])
        lines.append(f"{indent}\tOFFSET {_numbers(offset)}")
        lines.append(f"{indent}\tCHANNELS {channels} Zrotation Xrotation Yrotation")
        for child in children[bone]:
            joint(child, indent + "\t")
        if not children[bone]:
            tip = _numbers(tips[bone] - heads[bone])
            lines.extend([f"{indent}\tEnd Site", f"{indent}\t{{", f"{indent}\t\tOFFSET {tip}", f"{indent}\t}}"])
        lines.append(f"{indent}}}")

    joint(0, "")
    motion = np.concatenate([scale * world[0, :, 3], degrees[order].reshape(-1)])
    lines += ["MOTION", "Frames: 1", "Frame Time: 0.033333", _numbers(motion)]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values)
