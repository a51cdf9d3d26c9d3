"""Scenes as USD, read back by usd-core: the meshes of the `.glb`, and a camera that projects like K."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
from fitted_people import make_fit
from helpers import max_abs

from annyfit_jax.exports import scene_files, usd_file
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.camera import project
from annyfit_jax.people.fitted import drawable
from annyfit_jax.records import fit_files

pytest.importorskip("pxr", reason="usd-core is not installed")


@pytest.fixture(scope="module")
def meshes(load_anny):
    return BodyMeshes(load_anny())


@pytest.fixture(scope="module")
def fit(meshes):
    """Two fitted people and one without a fit, seen by a camera whose principal point is not in the middle."""
    fit = make_fit(asset_version=meshes.model.labels.asset_version)
    k = np.array(fit.K)
    k[:2, 2] += [31.0, -17.0]
    return replace(fit, K=k)


@pytest.fixture(scope="module")
def vertices(fit, meshes):
    return meshes.vertices(fit.parameters.select(drawable(fit)))


def written(fit, vertices, meshes, path, frame="camera"):
    (Usd,) = usd_file.usd_core("Usd")
    usd_file.export_usd(fit, path, vertices, meshes.faces, scene_files.camera_to_frame(frame, vertices), frame)
    return Usd.Stage.Open(str(path))


def points(stage, name) -> np.ndarray:
    return np.array(stage.GetPrimAtPath(f"/scene/{name}").GetAttribute("points").Get())


def test_a_mesh_per_person_in_metres_and_y_up(fit, vertices, meshes, tmp_path):
    (UsdGeom,) = usd_file.usd_core("UsdGeom")
    stage = written(fit, vertices, meshes, tmp_path / "photo.usd")
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    names = [prim.GetName() for prim in stage.Traverse() if prim.IsA(UsdGeom.Mesh)]
    assert names == ["person_7", "person_left_one"]
    for name, body in zip(names, vertices, strict=True):
        assert max_abs(points(stage, name), body * [1.0, -1.0, -1.0]) < 1e-5
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/scene/{name}"))
        triangles = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
        np.testing.assert_array_equal(triangles, meshes.faces)
        normals = np.array(mesh.GetNormalsAttr().Get())
        a, b, c = points(stage, name)[triangles[0]]
        assert normals[triangles[0]].mean(0) @ np.cross(b - a, c - a) > 0
        assert mesh.GetSubdivisionSchemeAttr().Get() == "none"


def test_its_camera_projects_like_k(fit, vertices, meshes, tmp_path):
    """In both frames: through USD's own frustum, in pixels from the top left."""
    Gf, UsdGeom = usd_file.usd_core("Gf", "UsdGeom")
    width, height = fit.image_size
    for frame in scene_files.FRAMES:
        stage = written(fit, vertices, meshes, tmp_path / f"{frame}.usd", frame)
        camera = UsdGeom.Camera(stage.GetPrimAtPath("/scene/camera")).GetCamera(0.0)
        frustum = camera.frustum
        to_film = frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix()
        for index in (0, 5000, 13717):
            film = to_film.Transform(Gf.Vec3d(*points(stage, "person_7")[index].tolist()))
            pixel = [(film[0] + 1) / 2 * width, (1 - film[1]) / 2 * height]
            assert max_abs(pixel, project(vertices[0, index].astype(float), np.asarray(fit.K, float))) < 1e-2


def test_facts_are_those_of_the_glb(fit, vertices, meshes, tmp_path):
    stage = written(fit, vertices, meshes, tmp_path / "photo.usd", "world")
    facts = json.loads(stage.GetDefaultPrim().GetCustomDataByKey("annyfit"))
    assert facts == json.loads(json.dumps(scene_files.scene_facts(fit, "world")))
    person = json.loads(stage.GetPrimAtPath("/scene/person_7").GetCustomDataByKey("annyfit"))
    assert person["person_id"] == "7"
    lowest = min(points(stage, name)[:, 1].min() for name in ("person_7", "person_left_one"))
    assert lowest == pytest.approx(0.0, abs=1e-5)


def test_an_export_writes_the_same_bytes_twice(fit, tmp_path):
    fit_files.save(fit, tmp_path / "fits" / "photo.npz")
    first, _ = export_fits(str(tmp_path / "fits"), str(tmp_path / "a"), "usd")
    second, _ = export_fits(str(tmp_path / "fits"), str(tmp_path / "b"), "usd")
    assert [path.name for path in first] == ["photo.usd"]
    assert first[0].read_bytes() == second[0].read_bytes()


def test_without_usd_core_the_package_is_named_before_anything_is_written(fit, tmp_path, monkeypatch):
    fit_files.save(fit, tmp_path / "fits" / "photo.npz")

    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(ValueError, match=r"pip install usd-core"):
        export_fits(str(tmp_path / "fits"), str(tmp_path / "a"), "usd")
    assert not (tmp_path / "a").exists()
