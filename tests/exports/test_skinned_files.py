"""Skinned glTF and BVH read back by readers of the test's own: the pose that stands in the file is the fitted one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fitted_people import make_fit
from helpers import max_abs
from PIL import Image
from scipy.spatial.transform import Rotation

from annyfit_jax.exports import rigs, scene_files
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.exports.skinned_export import Skinned
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.records import fit_files

TO_GLTF = np.diag([1.0, -1.0, -1.0])
TYPES = {5126: np.float32, 5121: np.uint8, 5123: np.uint16}
WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@pytest.fixture(scope="module")
def meshes(load_anny):
    return BodyMeshes(load_anny())


@pytest.fixture(scope="module")
def fit(meshes):
    return make_fit(asset_version=meshes.model.labels.asset_version, image_path="photo.jpg")


@pytest.fixture(scope="module")
def vertices(fit, meshes):
    return meshes.vertices(fit.parameters.select(np.arange(2)))


@pytest.fixture(scope="module")
def folder(fit, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fits")
    fit_files.save(fit, folder / "in" / "photo.npz")
    Image.fromarray(np.full((480, 640, 3), 90, np.uint8)).save(folder / "photo.jpg")
    return folder


class Gltf:
    """A `.glb`, read."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        size = int.from_bytes(content[12:16], "little")
        self.tree = json.loads(content[20 : 20 + size])
        self.buffer = content[28 + size :]

    def array(self, index: int) -> np.ndarray:
        accessor = self.tree["accessors"][index]
        view = self.tree["bufferViews"][accessor["bufferView"]]
        width = WIDTH[accessor["type"]]
        kind = TYPES[accessor["componentType"]]
        return np.frombuffer(self.buffer, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)

    def node(self, name: str) -> dict:
        (node,) = (node for node in self.tree["nodes"] if node["name"] == name)
        return node

    def world(self) -> dict[int, np.ndarray]:
        """(4, 4) of every node."""
        found: dict[int, np.ndarray] = {}

        def visit(index: int, above: np.ndarray) -> None:
            node = self.tree["nodes"][index]
            local = np.eye(4)
            local[:3, :3] = Rotation.from_quat(node.get("rotation", [0, 0, 0, 1])).as_matrix()
            local[:3, 3] = node.get("translation", [0, 0, 0])
            found[index] = above @ local
            for child in node.get("children", ()):
                visit(child, found[index])

        for root in self.tree["scenes"][0]["nodes"]:
            visit(root, np.eye(4))
        return found

    def posed(self, name: str) -> np.ndarray:
        """Vertices of a skinned mesh as a viewer shows them."""
        node, world = self.node(name), self.world()
        skin = self.tree["skins"][node["skin"]]
        attributes = self.tree["meshes"][node["mesh"]]["primitives"][0]["attributes"]
        rest = np.pad(self.array(attributes["POSITION"]).astype(float), ((0, 0), (0, 1)), constant_values=1)
        inverse = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        maps = np.stack([world[joint] for joint in skin["joints"]]) @ inverse
        out = np.zeros((len(rest), 3))
        for k in range(3):
            if f"JOINTS_{k}" in attributes:
                joints, weights = self.array(attributes[f"JOINTS_{k}"]), self.array(attributes[f"WEIGHTS_{k}"])
                for j in range(4):
                    out += weights[:, j : j + 1] * np.einsum("vij,vj->vi", maps[joints[:, j]], rest)[:, :3]
        return out


@pytest.mark.parametrize("frame", scene_files.FRAMES)
def test_a_viewer_sees_the_fitted_pose(folder, vertices, tmp_path, frame):
    written, empty = export_fits(str(folder / "in"), str(tmp_path), "glb", frame=frame, skinned=Skinned())
    assert ([path.name for path in written], empty) == (["photo.glb"], [])
    gltf = Gltf(written[0])
    transform = scene_files.to_gltf_axes(scene_files.camera_to_frame(frame, vertices), frame)
    for name, points in zip(("person_7", "person_left one"), vertices):
        assert max_abs(gltf.posed(name), scene_files.move(points, transform)) < 1e-5


def test_the_file_has_names_facts_material_normals_and_camera(folder, fit, tmp_path):
    written, _ = export_fits(str(folder / "in"), str(tmp_path), "glb", skinned=Skinned())
    gltf = Gltf(written[0])
    (rig,) = gltf.tree["nodes"][gltf.tree["nodes"].index(gltf.node("person_7_rig"))]["children"]
    assert gltf.tree["nodes"][rig]["name"] == "root"
    assert "upperarm01.L" in [node["name"] for node in gltf.tree["nodes"]]
    assert gltf.node("person_7")["extras"]["status"] == "ok"
    primitive = gltf.tree["meshes"][0]["primitives"][0]
    attributes = primitive["attributes"]
    assert {"POSITION", "NORMAL", "COLOR_0", "JOINTS_2", "WEIGHTS_2"} <= set(attributes)
    assert gltf.tree["materials"][primitive["material"]]["pbrMetallicRoughness"]["metallicFactor"] == 0.0
    assert np.allclose(np.linalg.norm(gltf.array(attributes["NORMAL"]), axis=1), 1, atol=1e-4)
    colours = [gltf.array(mesh["primitives"][0]["attributes"]["COLOR_0"])[0] for mesh in gltf.tree["meshes"]]
    assert (colours[0] != colours[1]).any()
    view = gltf.tree["cameras"][0]["perspective"]
    assert np.tan(view["yfov"] / 2) == pytest.approx(240 / 550.0)
    np.testing.assert_allclose(gltf.tree["scenes"][0]["extras"]["K"], fit.K)
    # Triangles, joints and weights are stored once for all people.
    assert len({mesh["primitives"][0]["indices"] for mesh in gltf.tree["meshes"]}) == 1


def test_a_file_for_each_person_with_the_photo_for_unity(folder, fit, tmp_path):
    written, _ = export_fits(
        str(folder / "in"), str(tmp_path), "glb", program="unity",
        skinned=Skinned(per_person=True, photos=str(folder), influences=2),
    )  # fmt: skip
    assert [path.name for path in written] == ["photo_person_7.glb", "photo_person_left one.glb"]
    gltf = Gltf(written[1])
    assert not [node for node in gltf.tree["nodes"] if node["name"] == "person_7"]
    assert "upperarm01_L" in [node["name"] for node in gltf.tree["nodes"]]
    attributes = gltf.tree["meshes"][0]["primitives"][0]["attributes"]
    assert "JOINTS_1" not in attributes
    assert not gltf.array(attributes["WEIGHTS_0"])[:, 2:].any()
    plane = gltf.tree["meshes"][gltf.node("photo")["mesh"]]["primitives"][0]["attributes"]
    corners = gltf.array(plane["POSITION"]) @ TO_GLTF @ fit.K.T
    pixels = corners[:, :2] / corners[:, 2:]
    assert max_abs(pixels, [[0, 0], [0, 480], [640, 480], [640, 0]]) < 1e-3
    assert max_abs(gltf.array(plane["TEXCOORD_0"]) * [640, 480], pixels) < 1e-3
    image = gltf.tree["bufferViews"][gltf.tree["images"][0]["bufferView"]]
    stored = gltf.buffer[image["byteOffset"] : image["byteOffset"] + image["byteLength"]]
    assert stored == (folder / "photo.jpg").read_bytes()


# ------------------------------------------------------------------------------------------------ BVH


def read_bvh(path: Path) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(names, heads at rest, heads in the frame), by a stack and products of matrices."""
    words = iter(path.read_text().split("MOTION")[0].split())
    motion = np.array(path.read_text().split("Frame Time:")[1].split()[1:], float)
    names: list[str] = []
    rest: dict[str, np.ndarray] = {}
    world: dict[str, np.ndarray] = {}
    stack: list[str] = []
    at = 0
    name = ""
    for word in words:
        if word in ("ROOT", "JOINT"):
            name = next(words)
        elif word == "End":
            next(words)
            name = f"{stack[-1]}_tip"
        elif word == "{":
            stack.append(name)
        elif word == "}":
            stack.pop()
        elif word == "OFFSET":
            offset = np.array([float(next(words)) for _ in range(3)])
            above = world[stack[-2]] if len(stack) > 1 else np.eye(4)
            rest[name] = offset + (rest[stack[-2]] if len(stack) > 1 else 0)
            local = np.eye(4)
            local[:3, 3] = offset
            world[name] = above @ local
        elif word == "CHANNELS":
            names.append(name)
            if int(next(words)) == 6:
                world[name][:3, 3] += motion[at : at + 3]
                at += 3
            z, x, y = np.deg2rad(motion[at : at + 3])
            at += 3
            turn = [Rotation.from_rotvec(v).as_matrix() for v in ([0, 0, z], [x, 0, 0], [0, y, 0])]
            world[name][:3, :3] = world[name][:3, :3] @ turn[0] @ turn[1] @ turn[2]
    assert at == len(motion)
    return names, rest, {name: pose[:3, 3] for name, pose in world.items()}


@pytest.mark.parametrize("program", ["blender", "unreal"])
def test_a_bvh_holds_the_bones_of_the_fit(folder, fit, meshes, tmp_path, program):
    written, _ = export_fits(str(folder / "in"), str(tmp_path), "bvh", program=program)
    assert [path.name for path in written] == ["photo_person_7.bvh", "photo_person_left one.bvh"]
    names, rest, posed = read_bvh(written[1])
    rig = rigs.anny_rig(meshes.model, 4)
    (person,) = rigs.rigged_anny(meshes.model, fit.parameters.select(np.array([1])))
    world = rigs.world_poses(rig, rigs.local_poses(rig, person, np.eye(4)))
    # Camera axes to x right, y up, z towards the viewer; or to centimetres with z up.
    to_file = TO_GLTF if program == "blender" else 100 * np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    dots = "." if program == "blender" else "_"
    from_bind = to_file @ TO_GLTF
    assert len(names) == 163
    scale = 1.0 if program == "blender" else 100.0
    for index, bone in enumerate(rig.bones):
        name = bone.replace(".", dots)
        assert max_abs(posed[name], to_file @ world[index, :, 3]) < 1e-5 * scale
        assert max_abs(rest[name], from_bind @ (person.bind[index, :, 3] - person.bind[0, :, 3])) < 1e-5 * scale
    tip = rig.bones.index("finger2-3.L")
    turned = world[tip, :, :3] @ person.bind[tip, :, :3].T @ (person.tips - person.bind[:, :, 3])[tip]
    assert max_abs(posed[f"finger2-3{dots}L_tip"], to_file @ (world[tip, :, 3] + turned)) < 1e-5 * scale


# ------------------------------------------------------------------------------------------------ what can go wrong


def test_bones_are_for_glb_only(folder, tmp_path):
    with pytest.raises(ValueError, match="--skinned is for --format=glb"):
        export_fits(str(folder / "in"), str(tmp_path / "new"), "ply", skinned=Skinned())
    with pytest.raises(ValueError, match="--for=maya: expected one of blender, unity, unreal"):
        export_fits(str(folder / "in"), str(tmp_path / "new"), "glb", program="maya")
    assert not (tmp_path / "new").exists()


def test_another_body_has_no_rig_here(tmp_path):
    fit_files.save(make_fit(asset_version="older"), tmp_path / "photo.npz")
    with pytest.raises(ValueError, match=r"photo\.npz: asset_version older"):
        export_fits(str(tmp_path), str(tmp_path / "new"), "bvh")
