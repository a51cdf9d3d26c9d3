"""Reader of CMU Panoptic, official and as prepared by BEV: small files of its layout, values by independent arithmetic."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from truth_files import bodies

from annyfit_jax.metrics import panoptic_scores as panoptic_metrics
from annyfit_jax.metrics.skeletons import LSP14, PANOPTIC19
from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth import TruthOptions, open_truth
from annyfit_jax.truth.panoptic_truth import read_calibration

# ------------------------------------------------------------------------------------------------ Panoptic

ROTATION = Rotation.from_rotvec([0.3, -0.8, 0.1])
CAMERA = {
    "name": "00_16", "type": "hd", "resolution": [1920, 1080], "panel": 0, "node": 16,
    "K": [[1400.0, 0, 950], [0, 1390.0, 530], [0, 0, 1]], "distCoef": [-0.28, 0.18, 0.001, -0.0005, 0.02],
    "R": ROTATION.as_matrix().tolist(), "t": [[-20.0], [110.0], [300.0]],
}  # fmt: skip


@pytest.fixture
def sequence(tmp_path):
    folder = tmp_path / "160422_haggling1"
    (folder / "hdPose3d_stage1_coco19").mkdir(parents=True)
    other = CAMERA | {"name": "00_30", "node": 30}
    vga = CAMERA | {"name": "01_01", "type": "vga", "resolution": [640, 480]}
    calibration = {"calibDataSource": "160422_calib_norm", "cameras": [vga, other, CAMERA]}
    (folder / "calibration_160422_haggling1.json").write_text(json.dumps(calibration))
    for frame in range(4):
        people = [{"id": i, "joints19": joints.ravel().tolist()} for i, joints in enumerate(bodies(3, frame))]
        content = {"version": 0.7, "univTime": 1.5, "fpsType": "hd_29_97", "bodies": people}
        (folder / "hdPose3d_stage1_coco19" / f"body3DScene_{frame:08d}.json").write_text(json.dumps(content))
    return folder


def test_panoptic_joints_are_metres_in_the_camera(sequence):
    source = open_truth("panoptic", str(sequence.parent), TruthOptions(cameras=("00_16",)))
    assert source.names[1] == "160422_haggling1-00_16_00000001"
    people, joints = source.load(1), bodies(3, 1)
    assert people.names == PANOPTIC19
    expected = (ROTATION.apply(joints[..., :3].reshape(-1, 3)) + np.array([-20, 110, 300])).reshape(3, 19, 3) / 100
    assert people.joints_3d is not None
    np.testing.assert_allclose(people.joints_3d, expected, atol=1e-12)
    assert people.aliases == ("00_16_00000001",)
    assert (people.group, people.image_size) == ("160422_haggling1", (1920, 1080))
    assert people.labelled_3d.sum() == 3 * 19 - 1
    assert not people.labelled[-1, 0]
    assert people.joints_2d[-1, 0].tolist() == [-2.0, -2.0]


def test_panoptic_pixels_are_distorted(sequence):
    """Brown's model, point by point."""
    people = open_truth("panoptic", str(sequence)).load(0)
    k1, k2, p1, p2, k3 = CAMERA["distCoef"]
    for point, pixel, seen in zip(
        people.joints_3d.reshape(-1, 3), people.joints_2d.reshape(-1, 2), people.labelled.ravel()
    ):
        if seen:
            x, y = point[0] / point[2], point[1] / point[2]
            r = x**2 + y**2
            radial = 1 + k1 * r + k2 * r**2 + k3 * r**3
            bent = (
                x * radial + 2 * p1 * x * y + p2 * (r + 2 * x**2),
                y * radial + p1 * (r + 2 * y**2) + 2 * p2 * x * y,
            )
            np.testing.assert_allclose(pixel, [1400 * bent[0] + 950, 1390 * bent[1] + 530], rtol=1e-12)
    assert people.labelled.any()


def test_panoptic_cameras_and_frames_are_chosen(sequence):
    assert len(open_truth("panoptic", str(sequence))) == 8  # 00_16 and 00_30
    (sequence / "hdImgs" / "00_30").mkdir(parents=True)
    names = open_truth("panoptic", str(sequence), TruthOptions(frame_step=3)).names
    assert names == ("160422_haggling1-00_30_00000000", "160422_haggling1-00_30_00000003")
    with pytest.raises(SceneError, match=r"cameras: no HD camera 00_05; there are 00_16, 00_30"):
        open_truth("panoptic", str(sequence), TruthOptions(cameras=("00_05",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": [[1, 0], [0, 1]]}, r"camera 00_16: R: expected shape \(9,\), got \(4,\)"),
        ({"R": (2 * np.eye(3)).tolist()}, "R: expected a rotation matrix"),
        ({"R": np.diag([1.0, 1, -1]).tolist()}, "R: expected a rotation matrix"),
        ({"K": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]}, "K: expected positive focal lengths"),
        ({"t": [1, float("nan"), 2]}, r"t: expected finite numbers, shape \(3,\)"),
        ({"distCoef": [[1, 2], [3]]}, "distCoef: expected numbers, got rows of different lengths"),
        ({"resolution": [0, 5]}, "resolution: expected a width and height"),
        ({"name": 5}, r"cameras\[0\].name: expected a text"),
    ],
)
def test_a_wrong_camera_is_named(tmp_path, change, message):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"cameras": [CAMERA | change]}))
    with pytest.raises(SceneError, match=message):
        read_calibration(path)


def test_a_camera_without_a_field_is_named(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"cameras": [{k: v for k, v in CAMERA.items() if k != "t"}]}))
    with pytest.raises(SceneError, match=r"camera 00_16: t: missing, expected shape \(3,\)"):
        read_calibration(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bodies": [{"joints19": [1.0] * 75}]}, r"bodies\[0\].joints19: expected shape \(76,\), got \(75,\)"),
        ({"bodies": [{"joints19": [float("nan")] * 76}]}, "joints19: expected finite numbers"),
        ({"bodies": [3]}, "bodies: expected a list of objects"),
        ([], "bodies: expected a list of objects"),
    ],
)
def test_a_wrong_pose_file_is_named(sequence, content, message):
    path = sequence / "hdPose3d_stage1_coco19" / "body3DScene_00000000.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SceneError, match=message):
        open_truth("panoptic", str(sequence)).load(0)


def test_a_frame_without_people_is_empty(sequence):
    (sequence / "hdPose3d_stage1_coco19" / "body3DScene_00000000.json").write_text('{"bodies": []}')
    people = open_truth("panoptic", str(sequence)).load(0)
    assert len(people) == 0
    assert people.joints_3d.shape == (0, 19, 3)


def bev_image(rng, n=2, name="panoptic/160422_mafia2/hdImgs/00_16/00_16_00000007.png"):
    points = np.concatenate([rng.normal((0, 0, 4), 0.3, (n, 24, 3)), np.full((n, 24, 1), 0.9)], axis=2)
    points[0, 3, 3] = 0.1
    pixels = np.concatenate([rng.uniform(100, 400, (n, 24, 2)), np.ones((n, 24, 1))], axis=2)
    return {"filename": name, "width": 832, "height": 512, "kpts2d": pixels, "kpts3d": points}


@pytest.mark.parametrize("protocol", [2, 4])
def test_annotations_of_bev_are_read(tmp_path, protocol):
    image = bev_image(np.random.default_rng(0))
    (tmp_path / "panoptic_annot").mkdir()
    (tmp_path / "panoptic_annot" / "mafia.pkl").write_bytes(pickle.dumps([image], protocol=protocol))
    source = open_truth("panoptic", str(tmp_path))
    assert source.names == ("160422_mafia2-00_16_00000007",)
    people = source.load(0)
    assert people.names == LSP14
    chosen = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14]
    np.testing.assert_array_equal(people.joints_3d, image["kpts3d"][:, chosen, :3])
    np.testing.assert_allclose(people.joints_2d, image["kpts2d"][:, chosen, :2] * 1920 / 832)
    assert people.labelled_3d.sum() == 2 * 14 - 1
    assert people.image_size == (1920, round(512 * 1920 / 832))
    assert "mafia" in people.group


def test_prepared_annotations_of_bev_come_back_as_prepared(tmp_path):
    """What `bev_targets` makes of them is what is stored: shifted, -2 where unsure."""
    rng = np.random.default_rng(0)
    pixels, points = rng.uniform(100, 900, (2, 14, 2)), rng.normal((0, 0, 4), 0.3, (2, 14, 3))
    points[1, 5] = [-2.0, -2.0 + 0.06, -2.0 + 0.03]
    np.savez(tmp_path / "annots.npz", annots=np.array({"x/haggling-00_16-1.jpg": [pixels, points]}, dtype=object))
    people = open_truth("panoptic", str(tmp_path / "annots.npz")).load(0)
    assert people.name == "haggling-00_16-1"
    found = panoptic_metrics.bev_targets(people)
    np.testing.assert_array_equal(found[0], pixels)
    np.testing.assert_allclose(found[1], points, atol=1e-12)


def test_a_wrong_annotation_of_bev_is_named(tmp_path):
    image = bev_image(np.random.default_rng(0))
    path = tmp_path / "a.pkl"
    for change, message in (
        ({"kpts3d": image["kpts3d"][:, :20]}, r"kpts3d: expected shape \(2, 24, 4\), got \(2, 20, 4\)"),
        ({"kpts2d": image["kpts2d"][..., :2]}, r"kpts2d: expected shape \(n, 24, 3\)"),
        ({"width": "wide"}, "width: expected numbers"),
    ):
        path.write_bytes(pickle.dumps([image | change]))
        with pytest.raises(SceneError, match=message):
            open_truth("panoptic", str(path)).load(0)
    path.write_bytes(pickle.dumps([image | {"filename": "alone.png"}]))
    with pytest.raises(SceneError, match="filename: expected <folder>/<sequence>"):
        open_truth("panoptic", str(path))
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(SceneError, match="expected a list of image dictionaries, got dict"):
        open_truth("panoptic", str(path))


def test_the_ground_truth_of_bev_is_shifted_but_for_the_pelvis(sequence):
    people = open_truth("panoptic", str(sequence)).load(0)
    pixels, points = panoptic_metrics.bev_targets(people)
    pick = [PANOPTIC19.index(name) for name in LSP14]
    inside = ((people.joints_2d[:, pick] > 0) & (people.joints_2d[:, pick] < (1920, 1080))).all(-1).sum(1) > 5
    raw = people.joints_3d[inside][:, pick]
    shift = np.where(people.labelled_3d[inside][:, pick][..., None], points - raw, 0.0)
    assert inside.any()
    assert len(pixels) == inside.sum()
    seen = people.labelled_3d[inside][:, pick]
    np.testing.assert_allclose(
        shift[:, :13][seen[:, :13]], np.tile([0, 0.06, 0.03], (seen[:, :13].sum(), 1)), atol=1e-12
    )
    np.testing.assert_allclose(shift[:, 13], 0.0, atol=1e-12)
