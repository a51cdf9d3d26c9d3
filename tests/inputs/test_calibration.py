"""Calibration files of other programs, and which camera a picture is of."""

import json

import numpy as np
import pytest
from helpers import require_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.inputs.calibration import read_calibration
from annyfit_jax.people.lens import Lens
from annyfit_jax.people.scene import SceneError

OPENCV = """%YAML:1.0
---
calibration_time: "Mon 12 Oct 2026"
image_width: 1280
image_height: 720
flags: 0
fisheye_model: 0
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 9.1e+02, 0., 6.4e+02, 0., 9.2e+02, 3.6e+02, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -2.5e-01, 8.e-02, 1.e-03, -1.e-03, 2.e-02 ]
"""
ROS = """
image_width: 1280
image_height: 720
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [910.0, 0, 640, 0, 920, 360, 0, 0, 1]}
distortion_model: equidistant
distortion_coefficients: {rows: 1, cols: 4, data: [0.02, -0.01, 0.003, -0.0005]}
"""
POSE2SIM = """
[cam_01]
name = "cam_01"
size = [ 1088.0, 1920.0]
matrix = [ [ 1681.2, 0.0, 532.9], [ 0.0, 1681.0, 948.1], [ 0.0, 0.0, 1.0]]
distortions = [ -0.046, 0.13, 0.0006, 0.0007]
rotation = [ 1.0, 2.0, 0.3]
translation = [ 0.1, 0.2, 3.0]
fisheye = false

[cam_02]
name = "cam_02"
size = [ 1088.0, 1920.0]
matrix = [ [ 1673.7, 0.0, 534.4], [ 0.0, 1673.7, 963.2], [ 0.0, 0.0, 1.0]]
distortions = [ 0.02, -0.01, 0.003, -0.0005]
rotation = [ 1.0, 2.0, 0.3]
translation = [ 0.1, 0.2, 3.0]
fisheye = true

[metadata]
adjusted = false
error = 0.0
"""
MATRIX = [[910.0, 0.0, 640.0], [0.0, 920.0, 360.0], [0.0, 0.0, 1.0]]


def written(tmp_path, text: str, name: str) -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_opencv(tmp_path):
    (camera,) = read_calibration(written(tmp_path, OPENCV, "camera.yml")).cameras
    assert camera.size == (1280, 720)
    assert camera.intrinsics.tolist() == MATRIX
    assert camera.lens == Lens("brown", (-0.25, 0.08, 0.001, -0.001, 0.02))
    fisheye = OPENCV.replace("fisheye_model: 0", "fisheye_model: 1").replace(", 2.e-02 ]", " ]")
    (camera,) = read_calibration(written(tmp_path, fisheye, "fisheye.yml")).cameras
    assert camera.lens == Lens("fisheye", (-0.25, 0.08, 0.001, -0.001))


def test_ros_and_json(tmp_path):
    (camera,) = read_calibration(written(tmp_path, ROS, "camera_info.yaml")).cameras
    assert (camera.name, camera.size) == ("front", (1280, 720))
    assert camera.lens == Lens("fisheye", (0.02, -0.01, 0.003, -0.0005))
    several = {"left": {"K": MATRIX, "dist": [[0.1, 0, 0, 0, 0]]}, "right": {"K": MATRIX, "image_size": [1280, 720]}}
    cameras = read_calibration(written(tmp_path, json.dumps(several), "both.json")).cameras
    assert [camera.name for camera in cameras] == ["left", "right"]
    assert cameras[0].lens == Lens("brown", (0.1, 0.0, 0.0, 0.0, 0.0))
    assert (cameras[1].lens, cameras[1].size) == (None, (1280, 720))


def test_pose2sim(tmp_path):
    first, second = read_calibration(written(tmp_path, POSE2SIM, "Calib.toml")).cameras
    assert first.lens == Lens("brown", (-0.046, 0.13, 0.0006, 0.0007))
    assert second.lens == Lens("fisheye", (0.02, -0.01, 0.003, -0.0005))
    assert first.size == (1088, 1920)
    assert first.intrinsics[0].tolist() == [1681.2, 0.0, 532.9]


def test_qualisys_gives_the_intrinsics_that_others_derived_from_it():
    calibration = read_calibration(str(require_shared("data/pose2sim/Calib.qca.txt")))
    images = json.loads(require_shared("data/pose2sim/pose2sim.json").read_text())["images"]
    assert [camera.name for camera in calibration.cameras] == ["cam_01", "cam_02", "cam_03", "cam_04"]
    for image in images[:4]:
        camera = calibration.camera_of("", f"cam_0{image['file_name'][-5]}")
        np.testing.assert_allclose(camera.intrinsics, image["intrinsics"], atol=1e-9)
        assert camera.size == (image["width"], image["height"])


def test_the_camera_of_a_picture(tmp_path):
    calibration = read_calibration(written(tmp_path, POSE2SIM, "Calib.toml"))
    for picture, name in {
        "cam01_json/cam01.0016": "cam_01", "trial/Cam2/000001.jpg": "cam_02", "x_cam_002_7.png": "cam_02",
    }.items():  # fmt: skip
        assert calibration.camera_of(picture).name == name
    assert calibration.camera_of("anything", "CAM01").name == "cam_01"
    with pytest.raises(SceneError, match=r"no camera belongs to 'cam012.jpg' by name; candidates: cam_01, cam_02"):
        calibration.camera_of("cam012.jpg")
    with pytest.raises(SceneError, match="more than one camera belongs"):
        calibration.camera_of("cam1/cam2.jpg")
    single = read_calibration(written(tmp_path, OPENCV, "camera.yml"))
    assert single.camera_of("photo.jpg").name == "camera"


def test_pictures_of_another_size(tmp_path):
    (camera,) = read_calibration(written(tmp_path, OPENCV, "camera.yml")).cameras
    np.testing.assert_allclose(camera.intrinsics_for((640, 360), "p"), [[455, 0, 320], [0, 460, 180], [0, 0, 1]])
    assert camera.intrinsics_for((1280, 718), "p").tolist() == MATRIX  # an encoder's few pixels
    with pytest.raises(
        SceneError, match="p: 720 x 1280 pixels, but camera camera was calibrated with 1280 x 720: a crop"
    ):
        camera.intrinsics_for((720, 1280), "p")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "a.yml", "no camera in it"),
        ("just words", "a.yml", "no camera in it"),
        ("[cam\nx=", "a.toml", "not a TOML file"),
        ("{", "a.json", "not a calibration file"),
        ("a: [1, 2", "a.yml", "not a calibration file"),
        ("K: [1, 2, 3]", "a.yml", "matrix: expected 9 numbers"),
        ("K: [a, b, c]", "a.yml", "matrix: expected numbers"),
        (json.dumps({"K": MATRIX, "dist": [0.1] * 13}), "a.json", "expected 4 or 5 or 8 finite coefficients"),
        (json.dumps({"K": MATRIX, "distortion_model": "omni"}), "a.json", "unknown model of distortion 'omni'"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "a.qca.txt", "document types and entities are not read"),
        ("<calibration><camera", "a.qca.txt", "not an XML file"),
        ("<calibration/>", "a.qca.txt", "no camera in it"),
        ("a: !!python/object/apply:os.system [ls]", "a.yml", "not a calibration file"),
    ],
)
def test_what_is_refused(tmp_path, text, name, message):
    with pytest.raises(SceneError, match=message):
        read_calibration(written(tmp_path, text, name))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 900), junk=st.text(max_size=6), kind=st.sampled_from([OPENCV, ROS, POSE2SIM]))
def test_damaged_files_raise_only_scene_errors(tmp_path_factory, cut, junk, kind):
    path = tmp_path_factory.mktemp("c") / ("a.toml" if kind is POSE2SIM else "a.yml")
    path.write_text(kind[:cut] + junk + kind[cut + len(junk) :], encoding="utf-8", errors="surrogatepass")
    try:
        read_calibration(str(path))
    except SceneError:
        return
