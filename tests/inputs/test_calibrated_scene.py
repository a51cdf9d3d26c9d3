"""Scenes of calibrated cameras: everything in pixels moves as the lens says, from the reader to the page."""

import json

import numpy as np
import pytest
from fake_job import make_scene
from PIL import Image

from annyfit_jax.inputs import open_input
from annyfit_jax.inputs.calibrated_scene import calibrated
from annyfit_jax.inputs.cue_schema import decode, encode, serialize
from annyfit_jax.people.lens import Lens, distort, straightened, undistort
from annyfit_jax.people.scene import COCO17, SceneError

K = np.array([[100.0, 0.0, 50.0], [0.0, 100.0, 75.0], [0.0, 0.0, 1.0]])
LENS = Lens("brown", (-0.2, 0.05, 0.001, 0.002, 0.0))


def bent(points: np.ndarray) -> np.ndarray:
    """Pixels of a pinhole as the lens images them."""
    return distort(LENS, (points - K[:2, 2]) / 100.0) * 100.0 + K[:2, 2]


def straight_points() -> np.ndarray:
    """A person of 17 points, in the picture of a pinhole; the order of the points is that of a standing one."""
    rows = {
        "nose": 20,
        "eye": 18,
        "ear": 19,
        "shoulder": 40,
        "elbow": 60,
        "wrist": 80,
        "hip": 85,
        "knee": 110,
        "ankle": 135,
    }
    out = []
    for name in COCO17:
        side, _, part = name.rpartition("_")
        out.append([50 + {"left": 1, "right": -1, "": 0}[side] * (4 if part in ("eye", "ear") else 14), rows[part]])
    return np.array(out, float)


def annotations(**image) -> dict:
    points = np.c_[bent(straight_points()), np.full(17, 2)]
    person = {"id": 1, "image_id": 1, "keypoints": points.ravel().tolist(), "bbox": [30, 15, 40, 125]}
    return {"images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 150, **image}], "annotations": [person]}


def read(tmp_path, content, **options):
    (tmp_path / "a.json").write_text(json.dumps(content))
    return open_input(str(tmp_path / "a.json"), **options).load(0)


def write_calibration(tmp_path) -> str:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({"K": K.tolist(), "dist": list(LENS.coefficients), "size": [100, 150]}))
    return str(path)


def test_points_of_an_annotated_lens_and_of_a_calibration_file(tmp_path):
    told = read(tmp_path, annotations(intrinsics=K.tolist(), distortion=list(LENS.coefficients)))
    filed = read(tmp_path, annotations(), calibration=write_calibration(tmp_path))
    for scene in (told, filed):
        np.testing.assert_allclose(scene.keypoints[0, :, :2], straight_points(), atol=1e-4)
        np.testing.assert_array_equal(scene.intrinsics, K)
        assert scene.lens == str(LENS)
        assert not scene.focal_guessed
    assert read(tmp_path, annotations(intrinsics=K.tolist())).lens == ""
    with pytest.raises(SceneError, match=r"image a.jpg: it has intrinsics of its own; leave out the calibration file"):
        read(tmp_path, annotations(intrinsics=K.tolist()), calibration=write_calibration(tmp_path))
    with pytest.raises(SceneError, match="option calibration: no file"):
        read(tmp_path, annotations(), calibration=str(tmp_path / "none.yml"))


def test_the_focal_length_that_the_camera_wrote_is_used_unless_a_field_of_view_is_given(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.new("RGB", (100, 150)).save(tmp_path / "a.jpg", exif=exif)
    scene = read(tmp_path, annotations())
    assert scene.intrinsics[0, 0] == pytest.approx(150 * 28 / 36)
    assert scene.focal_guessed
    assert read(tmp_path, annotations(), fov_degrees=90.0).intrinsics[0, 0] == pytest.approx(75.0)


def test_boxes_masks_and_depths_follow_the_points():
    scene = make_scene(3)
    width, height = scene.image_size
    k = np.array([[width * 1.0, 0, width / 2], [0, width * 1.0, height / 2], [0, 0, 1.0]])
    scene.boxes = np.array([[width * 0.1, height * 0.1, width * 0.4, height * 0.5]] * len(scene))
    scene.masks = np.zeros((len(scene), height, width), bool)
    scene.masks[:, height // 10 : height // 2, width // 10 : width * 2 // 5] = True
    scene.depth_map = np.where(scene.masks[0], 2.0, 5.0)
    result = calibrated(scene, k, LENS)
    assert result.boxes is not None
    assert result.masks is not None
    assert result.depth_map is not None
    rows, columns = np.nonzero(result.masks[0])
    extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(result.boxes[0], extent, atol=1.6)
    assert np.nanmax(np.abs(result.depth_map[result.masks[0]] - 2.0)) == 0.0
    seen = scene.keypoints[..., 2] > 0
    np.testing.assert_allclose(result.keypoints[seen][:, :2], undistort(LENS, scene.keypoints[seen][:, :2], k))
    plain = calibrated(scene, k, None)
    np.testing.assert_array_equal(plain.keypoints, scene.keypoints)
    assert plain.lens == ""


def test_a_point_that_the_lens_cannot_have_seen_is_left_out(tmp_path):
    content = annotations(intrinsics=K.tolist(), distortion=[-0.28, 0.0, 0.0, 0.0])
    content["annotations"][0]["keypoints"][0] = 5000.0
    scene = read(tmp_path, content)
    assert scene.keypoints[0, 0].tolist() == [0.0, 0.0, 0.0]
    assert "1 keypoints lie where the lens sees nothing" in scene.notes


def test_a_record_keeps_the_lens(tmp_path):
    scene = read(tmp_path, annotations(), calibration=write_calibration(tmp_path))
    assert decode(serialize(encode(scene))).lens == str(LENS)


def test_pictures_are_drawn_where_the_points_are():
    v, u = np.mgrid[:150, :100] + 0.5
    photo = np.zeros((150, 100, 3), np.uint8)
    target = np.array([20.0, 130.0])
    x, y = bent(target)
    photo[(np.abs(u - x) < 2) & (np.abs(v - y) < 2)] = 255
    drawn = straightened(photo, str(LENS), K)[..., 0].astype(float)
    centre = [(drawn * u).sum() / drawn.sum(), (drawn * v).sum() / drawn.sum()]
    np.testing.assert_allclose(centre, target, atol=0.5)
    assert straightened(photo, "", K) is photo
