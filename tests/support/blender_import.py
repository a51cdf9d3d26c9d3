"""What Blender makes of our files. Runs inside Blender: `blender --background --python-exit-code 1 --python FILE -- TASK.json`.

The task names a `.glb`, a `.bvh`, a bone and an output. Stored as `.npz`, all in Blender's axes and metres:

- `mesh_<name>`: vertices of every skinned mesh as shown, and `turned_<name>` after the bone was turned by 30 degrees about the
  vertical through its head;
- `heads` and `tails` of the `.bvh`'s bones in the pose of its frame, `bones` their names, `rest_heads` those at rest;
- `camera`: the camera's matrix, its horizontal and vertical field of view in radians; `photo`: the corners of the plane.
"""

import builtins
import json
import math
import sys
from pathlib import Path

import bpy  # pyright: ignore[reportMissingImports]
import numpy as np
from mathutils import Matrix  # pyright: ignore[reportMissingImports]

# Debian's Blender 3.4 is older than Debian's Python 3.11 and numpy 1.24: its importers use a mode of `open` and a name in numpy
# that are gone.
_open = builtins.open
builtins.open = lambda file, mode="r", *rest, **options: _open(file, mode.replace("U", ""), *rest, **options)
if not hasattr(np, "bool"):
    setattr(np, "bool", bool)  # noqa: B010

task = json.loads(Path(sys.argv[-1]).read_text())
found = {}


def start():
    bpy.ops.wm.read_factory_settings(use_empty=True)


def shown(prefix):
    graph = bpy.context.evaluated_depsgraph_get()
    for thing in bpy.data.objects:
        if thing.type == "MESH" and (thing.find_armature() or thing.name == "photo"):
            posed = thing.evaluated_get(graph)
            mesh = posed.to_mesh()
            points = np.array([posed.matrix_world @ vertex.co for vertex in mesh.vertices])
            found[f"{prefix}_{thing.name}" if thing.name != "photo" else "photo"] = points


start()
bpy.ops.import_scene.gltf(filepath=task["glb"])
bpy.context.view_layer.update()
shown("mesh")
for thing in bpy.data.objects:
    if thing.type == "ARMATURE":
        bone = thing.pose.bones[task["bone"]]
        pivot = Matrix.Translation(thing.matrix_world @ bone.head)
        turn = pivot @ Matrix.Rotation(math.radians(30), 4, "Z") @ pivot.inverted()
        bone.matrix = thing.matrix_world.inverted() @ turn @ thing.matrix_world @ bone.matrix
    if thing.type == "CAMERA":
        found["camera"] = np.array(thing.matrix_world)
        found["camera_angle"] = np.array([thing.data.angle_x, thing.data.angle_y])
bpy.context.view_layer.update()
shown("turned")

start()
bpy.ops.import_anim.bvh(filepath=task["bvh"])
bpy.context.scene.frame_set(1)
bpy.context.view_layer.update()
armature = next(thing for thing in bpy.data.objects if thing.type == "ARMATURE")
bones = armature.pose.bones
found["bones"] = np.array([bone.name for bone in bones])
found["heads"] = np.array([armature.matrix_world @ bone.head for bone in bones])
found["tails"] = np.array([armature.matrix_world @ bone.tail for bone in bones])
found["rest_heads"] = np.array([armature.matrix_world @ bone.bone.head_local for bone in bones])
np.savez(task["output"], **found)
