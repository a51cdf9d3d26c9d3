"""Exports read back: exact keys, the same bodies, metres, people upright in glTF's and in Blender's axes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from fitted_people import make_fit
from helpers import max_abs
from scipy.spatial.transform import Rotation

from annyfit_jax.exports import scene_files as export
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.fitted import drawable
from annyfit_jax.records import fit_files
from body_models import anny

NPZ_KEYS = {
    "trust",
    "root_rotvec", "transl", "pose", "shape", "K", "status", "person_ids", "notes", "image_size", "image_path", "name",
    "height_m", "depth_m", "reprojection_px", "keypoints_2d", "keypoints_3d", "camera_from_frame", "bone_labels",
    "phenotype_labels", "asset_version", "config_hash", "frame",
}  # fmt: skip
NOSE, ANKLES = 0, [15, 16]


@pytest.fixture(scope="module")
def meshes(load_anny):
    return BodyMeshes(load_anny())


@pytest.fixture(scope="module")
def fit(meshes):
    """Two fitted people and one without a fit, with the keypoints and heights of the bodies."""
    fit = make_fit(asset_version=meshes.model.labels.asset_version)
    keypoints, height = meshes.keypoints_and_height(fit.parameters)
    return replace(fit, fitted_keypoints_3d=keypoints, height_m=height)


@pytest.fixture(scope="module")
def vertices(fit, meshes):
    return meshes.vertices(fit.parameters.select(drawable(fit)))


@pytest.fixture(scope="module")
def output(fit, tmp_path_factory):
    """Folder written like the output of `experiments.fit`."""
    folder = tmp_path_factory.mktemp("out")
    fit_files.save(fit, folder / "fits" / "photo.npz")
    return folder


def forward(model, arrays):
    keys = ("shape", "root_rotvec", "pose", "transl")
    return jax.jit(anny.forward)(model, anny.Params(*(jnp.asarray(arrays[key], "float32") for key in keys)))


def load_glb(path) -> trimesh.Scene:
    return trimesh.load_scene(path, process=False)


def vertex_colours(mesh) -> np.ndarray:
    """(V, 4) uint8, as trimesh keeps them beside a material or without one."""
    visual = mesh.visual
    return np.asarray(visual.vertex_colors if hasattr(visual, "vertex_colors") else visual.vertex_attributes["color"])


# ------------------------------------------------------------------------------------------------ npz


def test_npz_has_exactly_the_documented_keys_and_no_pickles(output, tmp_path):
    written, empty = export_fits(str(output), str(tmp_path), "npz")
    assert ([path.name for path in written], empty) == (["photo.npz"], [])
    with np.load(written[0], allow_pickle=False) as archive:
        arrays = dict(archive)
    assert set(arrays) == NPZ_KEYS
    shapes = {
        "root_rotvec": (3, 3),
        "transl": (3, 3),
        "pose": (3, 162, 3),
        "shape": (3, 6),
        "K": (3, 3),
        "status": (3,),
    }
    assert {key: arrays[key].shape for key in shapes} == shapes
    assert all(arrays[key].dtype == np.float32 for key in shapes if key != "status")
    assert arrays["status"].tolist() == ["ok", "ok", "skipped:no_keypoints"]
    for key in ("root_rotvec", "transl", "pose", "shape"):
        assert np.isfinite(arrays[key][:2]).all() and np.isnan(arrays[key][2]).all()
    assert "y down" in str(arrays["frame"])


@pytest.mark.parametrize("frame", export.FRAMES)
def test_npz_parameters_reproduce_the_stored_keypoints(fit, output, meshes, tmp_path, frame):
    written, _ = export_fits(str(output / "fits"), str(tmp_path), "npz", frame=frame)
    with np.load(written[0]) as archive:
        arrays = dict(archive)
    again = np.asarray(forward(meshes.model, arrays).keypoints[:2, :17])
    assert max_abs(again, arrays["keypoints_3d"][:2]) < 1e-5
    camera = export.move(again, arrays["camera_from_frame"].astype(np.float64))
    assert max_abs(camera, fit.fitted_keypoints_3d[:2]) < 1e-5


def test_world_frame_stands_on_the_floor(fit, vertices):
    transform = export.camera_to_frame("world", vertices)
    world = export.move(vertices, transform)
    assert abs(world[..., 1].min()) < 1e-9
    assert np.linalg.det(transform[:3, :3]) == pytest.approx(1.0)
    eye = transform[:3, 3]
    assert eye[1] > 0 and eye[0] == eye[2] == 0  # the camera is straight above the origin
    assert np.array_equal(export.camera_to_frame("camera", vertices), np.eye(4))


def test_half_turn_composes_rotation_vectors():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 3)) * rng.uniform(0, 4, (200, 1))
    vectors[:4] = [(0, 0, 0), (np.pi, 0, 0), (np.pi / 2, 0, 0), (1e-9, 0, 0)]
    turned = export.turn_half_about_x(vectors)
    expected = export.Y_UP @ Rotation.from_rotvec(vectors).as_matrix()
    assert max_abs(Rotation.from_rotvec(turned).as_matrix(), expected) < 1e-12
    assert np.linalg.norm(turned, axis=1).max() <= np.pi + 1e-12
    assert np.isnan(export.turn_half_about_x(np.full((1, 3), np.nan))).all()


# ------------------------------------------------------------------------------------------------ meshes


def test_glb_holds_one_named_upright_person_per_fit(fit, output, vertices, tmp_path):
    written, _ = export_fits(str(output), str(tmp_path), "glb")
    scene = load_glb(written[0])
    assert set(scene.geometry) == {"person_7", "person_left one"}
    assert set(scene.graph.nodes_geometry) == set(scene.geometry)
    for row, name in enumerate(("person_7", "person_left one")):
        mesh = scene.geometry[name]
        assert (len(mesh.vertices), len(mesh.faces)) == (13718, 27420)
        # glTF: x right, y up, z towards the viewer.
        assert max_abs(mesh.vertices, vertices[row] * [1, -1, -1]) < 1e-5
    adult = scene.geometry["person_7"]
    nose, ankles = (fit.fitted_keypoints_3d[0, joints] * [1, -1, -1] for joints in (NOSE, ANKLES))
    assert nose[1] > ankles[:, 1].max() + 1.0
    low, high = adult.bounds
    assert high[1] > nose[1] > ankles[:, 1].max() > low[1]
    assert high[1] - low[1] == pytest.approx(fit.height_m[0], abs=0.02)  # in metres, standing, zero pose
    assert high[2] < -3.0  # four metres in front of a camera that looks along -z


def test_glb_colours_are_distinct_and_those_of_the_pictures(output, tmp_path):
    from annyfit_jax.viz import palette

    written, _ = export_fits(str(output), str(tmp_path), "glb")
    scene = load_glb(written[0])
    for row, name in enumerate(("person_7", "person_left one")):
        colours = np.unique(vertex_colours(scene.geometry[name]), axis=0)
        np.testing.assert_array_equal(colours, [[*palette(3)[row], 255]])


def test_glb_meshes_have_normals_and_a_rough_material(output, tmp_path):
    written, _ = export_fits(str(output), str(tmp_path), "glb")
    content = Path(written[0]).read_bytes()
    tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    for mesh in tree["meshes"]:
        (primitive,) = mesh["primitives"]
        assert {"POSITION", "NORMAL", "COLOR_0"} <= set(primitive["attributes"])
        surface = tree["materials"][primitive["material"]]["pbrMetallicRoughness"]
        assert surface["metallicFactor"] == 0.0
    mesh = load_glb(written[0]).geometry["person_7"]
    computed = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals
    assert ((mesh.vertex_normals * computed).sum(1) > 0.99).all()


def test_glb_camera_and_facts(fit, output, tmp_path):
    written, _ = export_fits(str(output), str(tmp_path), "glb", frame="world")
    content = written[0].read_bytes()
    header = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    view = header["cameras"][0]["perspective"]
    assert np.tan(view["yfov"] / 2) == pytest.approx(240 / 550.0)
    assert view["aspectRatio"] * np.tan(view["yfov"] / 2) == pytest.approx(320 / 554.0)
    node = next(node for node in header["nodes"] if "camera" in node)
    matrix = np.array(node.get("matrix", np.eye(4).ravel())).reshape(4, 4).T  # column-major
    np.testing.assert_allclose(matrix[:3, :3], np.eye(3), atol=1e-12)  # looks along -z
    assert matrix[1, 3] > 0.5  # above the floor
    scene = load_glb(written[0])
    assert min(mesh.bounds[0, 1] for mesh in scene.geometry.values()) == pytest.approx(0.0, abs=1e-5)
    facts = scene.metadata
    np.testing.assert_allclose(facts["K"], fit.K)
    assert [person["status"] for person in facts["people"]] == fit.status.tolist()
    assert facts["people"][0]["height_m"] == pytest.approx(float(fit.height_m[0]), abs=1e-4)
    assert facts["people"][2]["height_m"] is None


@pytest.mark.parametrize("frame", export.FRAMES)
def test_ply_is_the_same_scene_in_blenders_axes(output, tmp_path, frame):
    """Blender reads .ply as it is (Z up) and turns glTF's (x, y, z) into (x, -z, y): both must lie at the same place."""
    glb, _ = export_fits(str(output), str(tmp_path), "glb", frame=frame)
    ply, _ = export_fits(str(output), str(tmp_path), "ply", frame=frame)
    scene = load_glb(glb[0])
    parts = [scene.geometry[name] for name in ("person_7", "person_left one")]
    in_blender = np.concatenate([mesh.vertices for mesh in parts]) @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    merged = trimesh.load_mesh(ply[0], process=False)
    assert (len(merged.vertices), len(merged.faces)) == (2 * 13718, 2 * 27420)
    assert max_abs(merged.vertices, in_blender) < 1e-5
    np.testing.assert_array_equal(merged.faces[27420:] - 13718, parts[1].faces)
    colours = [vertex_colours(mesh) for mesh in (merged, *parts)]
    np.testing.assert_array_equal(colours[0], np.concatenate(colours[1:]))


def test_ply_header_documents_axes_and_people(output, tmp_path):
    written, _ = export_fits(str(output), str(tmp_path), "ply")
    header = written[0].read_bytes().split(b"end_header")[0].decode("ascii")
    assert "comment metres; x right, y away from the viewer, z up; origin the camera" in header
    assert "in order: person_7 person_left one" in header


@pytest.mark.parametrize(("program", "scale"), [("blender", 1.0), ("unreal", 100.0)])
def test_obj_has_an_object_per_person_in_the_programs_axes(output, vertices, tmp_path, program, scale):
    written, _ = export_fits(str(output), str(tmp_path), "obj", program=program)
    head = written[0].read_text().splitlines()[0]
    assert ("metres; x right, y up" if scale == 1.0 else "centimetres; x right, y away") in head
    axes = np.diag([1.0, -1.0, -1.0]) if scale == 1.0 else np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    lines = [line.split() for line in written[0].read_text().splitlines()]
    points = np.array([line[1:4] for line in lines if line[:1] == ["v"]], float)
    assert max_abs(points, scale * vertices.reshape(-1, 3) @ axes.T) < 1e-4
    assert [line[1:] for line in lines if line[:1] == ["o"]] == [["person_7"], ["person_left", "one"]]
    assert sum(line[:1] == ["vn"] for line in lines) == len(points)


def test_triangles_face_outwards(output, tmp_path):
    written, _ = export_fits(str(output), str(tmp_path), "glb")
    mesh = load_glb(written[0]).geometry["person_7"]
    assert mesh.volume > 0.03  # a mirrored body would have a negative one


def test_people_who_share_an_id_keep_their_own_mesh():
    fit = make_fit(person_ids=np.array(["1", "1", "2"]))
    assert export.node_names(fit, drawable(fit)) == ["person_1_row0", "person_1_row1"]


# ------------------------------------------------------------------------------------------------ what can go wrong


def test_a_scene_without_anybody_is_left_out_of_the_meshes(output, tmp_path):
    nobody = make_fit("nobody", asset_version=fit_files.load(output / "fits" / "photo.npz").asset_version)
    for field in ("root_rotvec", "transl", "pose", "shape"):
        getattr(nobody, field)[:] = np.nan
    fit_files.save(nobody, tmp_path / "in" / "nobody.npz")
    written, empty = export_fits(str(tmp_path / "in"), str(tmp_path / "out"), "ply")
    assert (written, empty) == ([], ["nobody"])
    written, empty = export_fits(str(tmp_path / "in"), str(tmp_path / "out"), "npz")
    assert ([path.name for path in written], empty) == (["nobody.npz"], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"file_format": "fbx"}, "--format=fbx: expected one of npz, glb, ply, obj, usd, bvh"),
        ({"frame": "moon"}, "--frame=moon: expected one of camera, world"),
        ({"scenes": ["photo", "other"]}, "--scenes: no fit of other"),
    ],
)
def test_unknown_choices_are_one_clear_message(output, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_fits(str(output), str(tmp_path / "new"), **{"file_format": "npz", **arguments})
    assert not (tmp_path / "new").exists()


def test_missing_fits_are_one_clear_message(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no fits \(<scene>\.npz\)"):
        export_fits(str(tmp_path), str(tmp_path / "new"), "npz")


def test_another_body_is_refused(tmp_path):
    fit_files.save(make_fit(asset_version="older"), tmp_path / "photo.npz")
    with pytest.raises(ValueError, match=r"photo\.npz: asset_version older"):
        export_fits(str(tmp_path), str(tmp_path / "new"), "glb")


def test_a_failing_write_leaves_no_file(fit, vertices, meshes, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("read-only")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="read-only"):
        export.export_ply(fit, tmp_path / "photo.ply", vertices, meshes.faces, np.eye(4), "camera")
    assert list(tmp_path.iterdir()) == []
