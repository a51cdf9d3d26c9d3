"""Readers of ground truth: small files of each official layout made here, values checked by independent arithmetic."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import contextlib
import json
import os
import pickle

import numpy as np
import pytest
import smplx_synthetic
from helpers import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from truth_files import agora_frame, bodies, human_data, objects, old_frame, write_ply

from annyfit_jax.metrics import panoptic_scores as panoptic_metrics
from annyfit_jax.metrics.skeletons import LSP14, PANOPTIC19, RH14, SMPLX22
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.dataframe_pickles import read_dataframe, read_pickle
from annyfit_jax.truth import TruthOptions, open_truth, relative_human_truth
from annyfit_jax.truth.foreign_predictions import agora_body, agora_files, read_agora, read_meshes
from annyfit_jax.truth.panoptic_truth import read_calibration
from annyfit_jax.truth.smplx_parts import read_parts

fuzz = settings(max_examples=40, deadline=None)


class Bomb:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


def damaged(data: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Some bytes replaced, the end cut off."""
    out = bytearray(data)
    for place, value in changes:
        out[place % len(out)] = value
    return bytes(out[: len(out) - cut % len(out)])


damage = (st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6), st.integers(0, 200))


# ------------------------------------------------------------------------------------------------ the front door


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(SceneError, match="no such file or folder"):
        open_truth("agora", str(tmp_path / "none"))
    with pytest.raises(
        SceneError, match="expected one of relative_human, panoptic, agora, ehf, ubody, arctic, egobody"
    ):
        open_truth("coco", str(tmp_path))
    for protocol, text in {
        "relative_human": "test_annots.npz",
        "panoptic": "no CMU Panoptic poses; looked for",
        "agora": "no data frames",
        "ehf": "no EHF meshes",
        "ubody": "no UBody annotations",
        "arctic": r"no HumanData files \(\*\.npz\)",
        "egobody": r"no HumanData files \(\*\.npz\)",
    }.items():
        with pytest.raises(SceneError, match=text):
            open_truth(protocol, str(tmp_path))
    with pytest.raises(SceneError, match="option pattern: not a regular expression"):
        TruthOptions(pattern="(")
    with pytest.raises(SceneError, match="option frame_step: expected 1 or more, got 0"):
        TruthOptions(frame_step=0)


# ------------------------------------------------------------------------------------------------ Relative Human


def person(joints=14, **changes):
    """A person whose joint j is at (10 j, 100 + j), labelled but for the last one."""
    points = np.stack([10.0 * np.arange(joints), 100.0 + np.arange(joints), np.full(joints, 2.0)], 1)
    points[-1, 2] = 0.0
    return {"kp2d": points.ravel().tolist(), "depth_id": 1, "age": 2, "gender": 0, "bbox": [0, 0, 9, 9]} | changes


ANNOTS = {
    "100.jpg": [person(), person(kp2d=None), person(depth_id=-1, age=-1, gender=-1)],
    "1234567.jpg": [person(19)],
    "12345678.jpg": [person(19, age=3)],
}


@pytest.fixture(params=["npz", "json"])
def relative_human_file(request, tmp_path):
    path = tmp_path / f"test_annots.{request.param}"
    if request.param == "json":
        path.write_text(json.dumps(ANNOTS))
    else:
        np.savez(path, annots=np.array(ANNOTS, dtype=object))
    return path


def test_relative_human_is_read(relative_human_file):
    source = open_truth("relative_human", str(relative_human_file))
    assert source.names == ("100", "1234567", "12345678")
    first = source.load(0)
    assert len(first) == 2  # without keypoints nobody can be found
    assert first.layer.tolist() == [1, -1]
    assert (first.age.tolist(), first.gender.tolist()) == ([2, -1], [0, -1])
    assert first.labelled.sum(1).tolist() == [13, 13]
    np.testing.assert_array_equal(first.joints_2d[0, :13, 0], 10.0 * np.arange(13))
    np.testing.assert_array_equal(first.joints_2d[:, 13], -2.0)


def test_the_two_orders_of_19_joints_are_told_apart_by_the_name(relative_human_file):
    source = open_truth("relative_human", str(relative_human_file))
    for name, left_hip, right_wrist, head_top, left_knee in (("1234567", 11, 10, 0, 13), ("12345678", 9, 2, 12, 10)):
        people = source.load(source.names.index(name))
        expected = {"left_hip": left_hip, "right_wrist": right_wrist, "head_top": head_top, "left_knee": left_knee}
        for joint, j in expected.items():
            assert people.joints_2d[0, RH14.index(joint)].tolist() == [10.0 * j, 100.0 + j], (name, joint)
        assert not people.labelled[0, RH14.index("neck_base")]
        assert people.labelled[0].sum() == 13


def test_a_folder_of_relative_human_needs_the_split(tmp_path):
    np.savez(tmp_path / "val_annots.npz", annots=np.array(ANNOTS, dtype=object))
    with pytest.raises(SceneError, match=r"test_annots\.npz"):
        open_truth("relative_human", str(tmp_path))
    assert len(open_truth("relative_human", str(tmp_path), TruthOptions(split="val"))) == 3
    chosen = TruthOptions(split="val", pattern="^123")
    assert open_truth("relative_human", str(tmp_path), chosen).names == ("1234567", "12345678")
    with pytest.raises(SceneError, match="no image left to judge by whose name has 'zzz'"):
        open_truth("relative_human", str(tmp_path), TruthOptions(split="val", pattern="zzz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kp2d": [1.0, 2.0, 3.0]}, r"100\.jpg: person 0: kp2d: expected shape \(14, 3\) or \(19, 3\), got 3 numbers"),
        ({"kp2d": [[1.0], [2.0, 3.0]]}, "kp2d: expected shape .* rows of different lengths"),
        ({"kp2d": [float("nan")] * 42}, "kp2d: expected finite numbers"),
        ({"kp2d": ["x"] * 42}, "kp2d: expected numbers"),
        ({"age": 4}, "person 0: age: expected a code of 0 to 3, or -1 for unknown, got 4"),
        ({"age": "kid"}, "person 0: age: expected a code"),
        ({"gender": 2}, "person 0: gender: expected a code of 0 to 1"),
        ({"depth_id": 0.5}, "person 0: depth_id: expected a layer of 0 or more"),
    ],
)
def test_a_wrong_person_is_named(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"100.jpg": [person() | change]}))
    source = open_truth("relative_human", str(path))
    with pytest.raises(SceneError, match=message):
        source.load(0)


def test_relative_human_of_another_layout_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(SceneError, match=r"a\.json: annots: expected a dictionary"):
        open_truth("relative_human", str(tmp_path / "a.json"))
    with pytest.raises(SceneError, match=r"100\.jpg: expected a list of people, got dict"):
        relative_human_truth.people_of("100.jpg", {}, "file")
    with pytest.raises(SceneError, match="person 0: expected a dictionary, got int"):
        relative_human_truth.people_of("100.jpg", [3], "file")


def test_annotations_run_no_code(tmp_path):
    witness = tmp_path / "ran"
    np.savez(tmp_path / "test_annots.npz", annots=np.array({"a.jpg": Bomb(witness)}, dtype=object))
    with pytest.raises(SceneError, match="refused: the pickle asks for the global"):
        open_truth("relative_human", str(tmp_path))
    assert not witness.exists()


@fuzz
@given(*damage)
def test_damaged_annotations_are_one_clear_error(tmp_path, changes, cut):
    whole = tmp_path / "whole.npz"
    if not whole.exists():
        np.savez(whole, annots=np.array(ANNOTS, dtype=object))
    path = tmp_path / "test_annots.npz"
    path.write_bytes(damaged(whole.read_bytes(), changes, cut))
    try:
        for people in open_truth("relative_human", str(path)):
            assert people.joints_2d.shape == (len(people), 14, 2)
    except SceneError as error:
        message = str(error)
    else:
        message = str(path)
    assert str(path) in message


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


# ------------------------------------------------------------------------------------------------ pickles, data frames


def test_a_pickle_runs_no_code(tmp_path):
    witness = tmp_path / "ran"
    path = tmp_path / "a.pkl"
    for content in (Bomb(witness), [np.zeros(3), {"x": Bomb(witness)}]):
        path.write_bytes(pickle.dumps(content))
        for read in (read_pickle, read_dataframe):
            with pytest.raises(SceneError, match=r"a\.pkl: refused: the pickle asks for the global"):
                read(path)
    assert not witness.exists()
    with pytest.raises(SceneError, match=r"none\.pkl: cannot be read"):
        read_pickle(tmp_path / "none.pkl")


@pytest.mark.parametrize("name", ["dataframe_pandas1.pkl", "dataframe_pandas3.pkl"])
def test_data_frames_of_pandas_are_read_without_it(name):
    columns = read_dataframe(GOLDENS / "metrics" / name)
    assert list(columns) == ["imgPath", "camX", "kid", "occlusion", "isValid", "gt_joints_2d", "gt_joints_3d"]
    assert [str(x) for x in columns["imgPath"]] == ["ag_validation_0.png", "ag_validation_1.png"]
    assert [float(x) for x in columns["camX"]] == [0.0, 0.5]
    assert columns["occlusion"] == [[3.0, 95.0], [3.0]]
    rng = np.random.default_rng(0)  # the numbers that were written
    for n, row in enumerate(columns["gt_joints_2d"]):
        expected = [rng.integers(0, 900, (25, 2)) for _ in row]
        np.testing.assert_array_equal(np.asarray(row), expected)
        for _ in row:
            rng.integers(0, 9, (25, 3))
        assert len(row) == 2 - n


def test_data_frames_of_old_pandas_are_read(tmp_path, monkeypatch):
    text = objects([["a.png", "b.png"], [[True], [False, True]]])
    content = old_frame(
        [(np.array([[1.5, 2.5]]), slice(1, 2, 1)), (text, np.array([0, 2]))], ["imgPath", "camX", "kid"], monkeypatch
    )
    (tmp_path / "a.pkl").write_bytes(content)
    columns = read_dataframe(tmp_path / "a.pkl")
    assert columns["imgPath"] == ["a.png", "b.png"]
    assert [float(x) for x in columns["camX"]] == [1.5, 2.5]
    assert columns["kid"] == [[True], [False, True]]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([(np.zeros((2, 2)), slice(0, 1))], "a block of 2 columns stands in 1 places"),
        ([(np.zeros((1, 2)), slice(0, 1))], "column 'b' has no values"),
        ([(np.zeros((1, 2)), slice(0, 1)), (np.zeros((1, 3)), slice(1, 2))], "columns have different lengths"),
    ],
)
def test_a_data_frame_that_does_not_add_up_is_refused(tmp_path, monkeypatch, blocks, message):
    (tmp_path / "a.pkl").write_bytes(old_frame(blocks, ["a", "b"], monkeypatch))
    with pytest.raises(SceneError, match=rf"a\.pkl: .*{message}"):
        read_dataframe(tmp_path / "a.pkl")


def test_what_is_no_data_frame_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(SceneError, match="expected a pickled pandas data frame, got dict"):
        read_dataframe(tmp_path / "a.pkl")


@fuzz
@given(*damage)
def test_damaged_data_frames_are_one_clear_error(tmp_path, changes, cut):
    path = tmp_path / "a.pkl"
    path.write_bytes(damaged((GOLDENS / "metrics" / "dataframe_pandas1.pkl").read_bytes(), changes, cut))
    try:
        for people in open_truth("agora", str(path)):
            assert people.joints_2d.shape == (len(people), 24, 2)
    except SceneError as error:
        message = str(error)
    else:
        message = str(path)
    assert str(path) in message


def test_a_pickle_does_not_fill_the_memory(tmp_path):
    """The unpickler of the standard library makes room for every place of its memo up to the one named: here 32 GB."""
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\xff.")
    with pytest.raises(SceneError, match=r"a\.pkl: refused: place 4294967295 of the memo after 2 instructions"):
        read_pickle(tmp_path / "a.pkl")


# ------------------------------------------------------------------------------------------------ AGORA


@pytest.mark.parametrize("name", ["dataframe_pandas1.pkl", "dataframe_pandas3.pkl"])
def test_agora_is_read(name):
    path = GOLDENS / "metrics" / name
    source = open_truth("agora", str(path))
    assert source.names == ("ag_validation_0", "ag_validation_1")
    people, columns = source.load(0), read_dataframe(path)
    np.testing.assert_array_equal(people.joints_2d, np.asarray(columns["gt_joints_2d"][0])[:, :24])
    np.testing.assert_array_equal(people.joints_smplx, columns["gt_joints_3d"][0])
    assert people.valid.tolist() == [True, True]
    assert people.counted.tolist() == [True, False]  # occluded by 95 %
    assert people.kid.tolist() == [False, True]
    assert people.vertices is None
    assert len(source.load(1)) == 1


def test_agora_with_vertices_is_read(tmp_path, monkeypatch):
    (tmp_path / "validation_0.pkl").write_bytes(agora_frame(monkeypatch))
    (tmp_path / "validation_1.pkl").write_bytes(agora_frame(monkeypatch, imgPath=["b.png"]))
    source = open_truth("agora", str(tmp_path))
    assert source.names == ("a", "b")
    people = source.load(1)
    assert people.vertices.shape == (1, 10475, 3)
    assert people.names[:2] == ("pelvis", "left_hip")
    (tmp_path / "validation_1.pkl").write_bytes(agora_frame(monkeypatch))
    with pytest.raises(SceneError, match="2 images are called a"):
        open_truth("agora", str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gt_joints_3d": None}, r"column gt_joints_3d: missing; the file has .*project_joints"),
        (
            {"gt_joints_2d": [[np.zeros((127, 3))]]},
            r"row 0 \(a\.png\): gt_joints_2d\[0\]: expected shape \(k, 2\), got \(127, 3\)",
        ),
        ({"gt_joints_2d": [[np.zeros((20, 2))]]}, "expected at least 24 joints"),
        ({"isValid": [[True, True]]}, "gt_joints_2d: expected 2 arrays of one shape"),
        ({"isValid": [True]}, "isValid: expected one entry per person, got bool"),
        ({"occlusion": [[0.0, 1.0]]}, r"occlusion: expected shape \(1,\), got \(2,\)"),
        ({"gt_verts": [[np.zeros((5, 2))]]}, r"gt_verts\[0\]: expected shape \(v, 3\)"),
    ],
)
def test_a_wrong_row_of_agora_is_named(tmp_path, monkeypatch, change, message):
    (tmp_path / "a.pkl").write_bytes(agora_frame(monkeypatch, **change))
    with pytest.raises(SceneError, match=message):
        open_truth("agora", str(tmp_path)).load(0)


def agora_prediction(seed=0, **changes):
    rng = np.random.default_rng(seed)
    return {
        "joints": rng.uniform(0, 900, (24, 2)), "allSmplJoints3d": rng.normal(size=(127, 3)),
        "verts": rng.normal(size=(10475, 3)),
    } | changes  # fmt: skip


def test_predictions_in_the_upload_format_are_read_in_order(tmp_path):
    for k in (10, 2, 0):
        (tmp_path / f"ag_personId_x_personId_{k}.pkl").write_bytes(pickle.dumps(agora_prediction(k)))
    files = agora_files(tmp_path)
    assert list(files) == ["ag_personId_x"]
    people = read_agora(files["ag_personId_x"])
    assert len(people) == 3
    for row, k in enumerate((0, 2, 10)):
        np.testing.assert_array_equal(people.joints_2d[row], agora_prediction(k)["joints"])
        np.testing.assert_array_equal(people.vertices[row], agora_prediction(k)["verts"])
    bad = tmp_path / "b_personId_0.pkl"
    bad.write_bytes(pickle.dumps({"joints": np.zeros((24, 2)), "params": {}}))
    with pytest.raises(SceneError, match=r"allSmplJoints3d: missing, expected shape \(127, 3\); parameters alone"):
        read_agora([bad])
    bad.write_bytes(pickle.dumps(agora_prediction(verts=np.zeros((6890, 3)))))
    with pytest.raises(SceneError, match=r"verts: expected shape \(10475, 3\), got \(6890, 3\)"):
        read_agora([bad])
    assert (agora_body(files["ag_personId_x"]), agora_body([bad])) == ("smplx", "smpl")
    with pytest.raises(SceneError, match=r"allSmplJoints3d: expected shape \(24, 3\), got \(127, 3\)"):
        read_agora([bad], "smpl")
    bad.write_bytes(pickle.dumps(agora_prediction(verts=np.zeros((5, 3)))))
    with pytest.raises(SceneError, match=r"verts: expected shape \(10475, 3\) or \(6890, 3\), got \(5, 3\)"):
        agora_body([bad])
    with pytest.raises(SceneError, match="no AGORA predictions"):
        agora_files(tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------ SMPL-X data sets


@pytest.fixture(scope="module")
def smplx_arrays():
    return smplx_synthetic.arrays()


@pytest.fixture(scope="module")
def smplx_file(smplx_arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"
    np.savez(path, **smplx_arrays)
    return str(path)


def test_ehf_is_read(tmp_path, smplx_arrays, smplx_file):
    rng = np.random.default_rng(0)
    vertices = rng.normal(0, 0.4, (10475, 3)).astype(np.float32)
    write_ply(tmp_path / "07_align.ply", vertices)
    source = open_truth("ehf", str(tmp_path), TruthOptions(smplx=smplx_file))
    people = source.load(0)
    assert (people.name, people.aliases, people.names) == ("07", ("07_img",), SMPLX22)
    turn = Rotation.from_rotvec([-2.98747896, 0.01172457, -0.05704687])
    expected = turn.apply(vertices.astype(np.float64)) + np.array([-0.03609917, 0.43416458, 2.37101226])
    np.testing.assert_allclose(people.vertices[0], expected, atol=1e-9)
    joints = smplx_arrays["J_regressor"][:22] @ expected
    np.testing.assert_allclose(people.joints_3d[0], joints, atol=1e-9)
    pixels = 1498.22426237 * joints[:, :2] / joints[:, 2:] + [790.263706, 578.90334]
    np.testing.assert_allclose(people.joints_2d[0], pixels, atol=1e-6)


def test_a_wrong_mesh_or_model_is_named(tmp_path, smplx_file):
    write_ply(tmp_path / "01_align.ply", np.zeros((6890, 3)))
    options = TruthOptions(smplx=smplx_file)
    with pytest.raises(SceneError, match=r"01_align\.ply: vertex: expected .* shape \(10475, 3\), got \(6890, 3\)"):
        open_truth("ehf", str(tmp_path), options).load(0)
    (tmp_path / "01_align.ply").write_bytes(b"ply\nnothing")
    with pytest.raises(SceneError, match=r"01_align\.ply"):
        open_truth("ehf", str(tmp_path), options).load(0)
    with pytest.raises(
        SceneError, match=r"option smplx: the protocols ehf, ubody, arctic and egobody, .* need the SMPL-X model file"
    ):
        open_truth("ehf", str(tmp_path))
    with pytest.raises(SceneError, match="nowhere"):
        open_truth("ehf", str(tmp_path), TruthOptions(smplx=str(tmp_path / "nowhere.npz")))


def ubody_root(tmp_path, people, **changes):
    """A scene with two videos; the second one is a test video. `people`: parameters of `smplx_synthetic`."""
    folder = tmp_path / "annotations" / "Talk"
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": f"/{video}/00{i}.png", "width": 1280, "height": 720}
              for i, video in enumerate(("first_Trim1", "second_Trim2", "second_Trim2"))]  # fmt: skip
    annotations = [{"id": 100 + i, "image_id": i, "iscrowd": 0, "num_keypoints": 5, "valid_label": 2} for i in range(3)]
    annotations[2] |= {"valid_label": 0}
    parameters = {}
    for i, annotation in enumerate(annotations):
        row = {key: value[i] for key, value in people.items()}
        pose = row["pose_rotvec"]
        smplx_param = {
            "root_pose": row["root_rotvec"], "body_pose": pose[:21], "jaw_pose": pose[21], "lhand_pose": pose[24:39],
            "rhand_pose": pose[39:], "shape": row["betas"], "expr": row["expression"], "trans": row["transl"],
        }  # fmt: skip
        camera = {"focal": [900.0, 910.0], "princpt": [640.0, 360.0]}
        plain = {key: np.ravel(value).tolist() for key, value in smplx_param.items()}
        parameters[str(annotation["id"])] = {"smplx_param": plain | changes, "cam_param": camera}
    (folder / "keypoint_annotation.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (folder / "smplx_annotation.json").write_text(json.dumps(parameters))
    (tmp_path / "splits").mkdir(exist_ok=True)
    np.save(tmp_path / "splits" / "intra_scene_test_list.npy", np.array(["second", "third"]))
    return tmp_path


@pytest.fixture(scope="module")
def ubody_people(smplx_arrays):
    """Official parameters with eyes at rest, and the meshes they give."""
    people = smplx_synthetic.parameters(3)
    people["translation"][:] = [-2.8, 0.0, 4.0]  # partly outside the picture
    people["pose_rotvec"][:, 22:24] = 0.0  # eyes
    rows = [{key: value[i] for key, value in people.items()} for i in range(3)]
    means = smplx_arrays["hands_meanl"].reshape(15, 3), smplx_arrays["hands_meanr"].reshape(15, 3)
    for row in rows:
        row["pose_rotvec"] = row["pose_rotvec"].copy()
        row["pose_rotvec"][24:39] += means[0]
        row["pose_rotvec"][39:] += means[1]
    found = [smplx_synthetic.reference(smplx_arrays, row) for row in rows]
    people["transl"] = np.stack([one["transl"] for one in found])
    return people, [one["vertices"] for one in found]


def test_ubody_is_posed_with_the_users_model(tmp_path, ubody_people, smplx_file):
    people, meshes = ubody_people
    root = ubody_root(tmp_path, people)
    source = open_truth("ubody", str(root), TruthOptions(smplx=smplx_file))
    assert source.names == ("Talk-second_Trim2-001-101",)  # a test video, a valid label
    truth = source.load(0)
    assert np.abs(truth.vertices[0] - meshes[1]).max() < 2e-5
    assert truth.aliases == ("second-001", "001")
    assert truth.group == "Talk"
    pixels = meshes[1][:, :2] / meshes[1][:, 2:] * [900, 910] + [640, 360]
    inside = ((pixels > 0) & (pixels < [1280, 720])).all(1)
    assert (truth.inside[0] != inside).mean() < 1e-3
    assert 0.05 < inside.mean() < 0.95
    everybody = open_truth("ubody", str(root), TruthOptions(smplx=smplx_file, split="all"))
    assert everybody.names == ("Talk-first_Trim1-000-100", "Talk-second_Trim2-001-101")


def test_wrong_parameters_of_ubody_are_named(tmp_path, ubody_people, smplx_file):
    options = TruthOptions(smplx=smplx_file)
    for change, message in (
        ({"body_pose": [0.0] * 60}, r"101: smplx_param: body_pose: expected shape \(63,\), got \(60,\)"),
        ({"trans": [0, float("nan"), 0]}, r"trans: expected finite numbers, shape \(3,\)"),
        ({"shape": [[1.0], [2.0, 3.0]]}, "shape: expected shape .* rows of different lengths"),
    ):
        with pytest.raises(SceneError, match=message):
            open_truth("ubody", str(ubody_root(tmp_path, ubody_people[0], **change)), options).load(0)
    (tmp_path / "annotations" / "Talk" / "smplx_annotation.json").write_text('{"101": {"smplx_param": 3}}')
    with pytest.raises(SceneError, match="101: expected the objects smplx_param and cam_param"):
        open_truth("ubody", str(tmp_path), options)


def test_meshes_come_best_first(tmp_path, smplx_arrays):
    rng = np.random.default_rng(0)
    vertices = rng.normal((0, 0, 4), 0.3, (2, 10475, 3))
    k = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    np.savez(tmp_path / "a.npz", vertices=vertices, score=[0.2, 0.9], K=k)
    people = read_meshes(tmp_path / "a.npz", smplx_arrays["J_regressor"])
    np.testing.assert_array_equal(people.vertices, vertices[::-1])
    np.testing.assert_allclose(people.joints_smplx[0], smplx_arrays["J_regressor"] @ vertices[1], atol=1e-12)
    assert np.isfinite(people.joints_2d).all()
    np.savez(tmp_path / "a.npz", vertices=vertices[:, :100])
    with pytest.raises(SceneError, match=r"vertices`: expected shape \(n, 10475, 3\)"):
        read_meshes(tmp_path / "a.npz", smplx_arrays["J_regressor"])


def test_numbers_of_parts_are_read(tmp_path):
    (tmp_path / "MANO_SMPLX_vertex_ids.pkl").write_bytes(
        pickle.dumps({"left_hand": np.arange(5), "right_hand": np.arange(5, 9)}, protocol=2)
    )
    np.save(tmp_path / "SMPL-X__FLAME_vertex_ids.npy", np.arange(9000, 9010))
    parts = read_parts(str(tmp_path))
    assert {name: len(x) for name, x in parts.items()} == {"left_hand": 5, "right_hand": 4, "face": 10}
    np.save(tmp_path / "body_verts_smpl.npy", np.array([6889]))
    assert read_parts(str(tmp_path))["smpl_body"].tolist() == [6889]
    np.save(tmp_path / "body_verts_smpl.npy", np.array([6890]))
    with pytest.raises(SceneError, match=r"body_verts_smpl\.npy: expected vertex numbers in 0\.\.6889"):
        read_parts(str(tmp_path))
    (tmp_path / "body_verts_smpl.npy").unlink()
    np.save(tmp_path / "body_verts_smplx.npy", np.array([10475]))
    with pytest.raises(SceneError, match=r"body_verts_smplx\.npy: expected vertex numbers in 0\.\.10474"):
        read_parts(str(tmp_path))
    (tmp_path / "body_verts_smplx.npy").write_bytes(b"no array")
    with pytest.raises(SceneError, match=r"body_verts_smplx\.npy: not a readable \.npy file"):
        read_parts(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match=r"none of MANO_SMPLX_vertex_ids\.pkl"):
        read_parts(str(tmp_path / "empty"))
    assert read_parts(None) == {}


@pytest.fixture(scope="module")
def gender_files(smplx_arrays, tmp_path_factory):
    """A folder of model files: the man's body is 5 % larger, the woman's 5 % smaller."""
    folder = tmp_path_factory.mktemp("models") / "smplx"
    folder.mkdir()
    for gender, size in (("NEUTRAL", 1.0), ("MALE", 1.05), ("FEMALE", 0.95)):
        scaled = {key: smplx_arrays[key] * size for key in ("v_template", "shapedirs", "posedirs")}
        np.savez(folder / f"SMPLX_{gender}.npz", **(smplx_arrays | scaled))
    return str(folder.parent)


def posed(arrays, people, row, size=1.0, **changes):
    """The official mesh of a person by the float64 reference: mean hands added, eyes at rest."""
    person = {key: value[row].copy() for key, value in people.items()} | changes
    person["pose_rotvec"][24:39] += arrays["hands_meanl"].reshape(15, 3)
    person["pose_rotvec"][39:] += arrays["hands_meanr"].reshape(15, 3)
    person["pose_rotvec"][22:24] = 0.0
    scaled = arrays | {key: arrays[key] * size for key in ("v_template", "shapedirs", "posedirs")}
    found = smplx_synthetic.reference(scaled, person | {"translation": np.zeros(3)})
    return found["vertices"] - found["transl"] + person["transl"]


def test_humandata_is_posed_with_the_model_of_the_gender(tmp_path, smplx_arrays, ubody_people, gender_files):
    people = ubody_people[0]
    path = human_data(tmp_path / "p1_val.npz", people)
    source = open_truth("arctic", path, TruthOptions(smplx=gender_files))
    name = "egocentric_color_rec_a_PV_0001"
    assert source.names == (f"{name}-1", f"{name}-2", "egocentric_color_rec_b_PV_0001")
    assert source.notes == ()
    for row, size in enumerate((1.05, 1.0, 0.95)):
        truth = source.load(row)
        expected = posed(smplx_arrays, people, row, size)
        assert np.abs(truth.vertices[0] - expected).max() < 3e-5
        np.testing.assert_allclose(truth.joints_3d[0], smplx_arrays["J_regressor"][:22] @ expected, atol=3e-5)
        # The last of the 22 is masked, the first has confidence 2 and pixels 0, 1.
        assert truth.labelled[0].tolist() == [True] * 21 + [False]
        np.testing.assert_array_equal(truth.joints_2d[0, 4], [66 * row + 12, 66 * row + 13])
        assert (truth.image_size, truth.inside, truth.names) == ((1920, 1080), None, SMPLX22)
        np.testing.assert_array_equal(truth.intrinsics, [[1500, 0, 960], [0, 1500, 540], [0, 0, 1]])
    # `PV/0001` ends two pictures, `rec_a/PV/0001` one.
    assert source.load(0).aliases == (name, "rec_a_PV_0001")
    assert source.load(2).aliases == ("rec_b_PV_0001",)


def test_one_model_file_takes_the_neutral_shape(tmp_path, smplx_arrays, smplx_file, ubody_people):
    people = ubody_people[0]
    neutral = np.linspace(-1, 1, 30, dtype=np.float32).reshape(3, 10)
    path = human_data(tmp_path / "a.npz", people, body={"betas_neutral": neutral})
    source = open_truth("egobody", path, TruthOptions(smplx=smplx_file))
    assert "one model file poses everybody, 2 people have a gender" in source.notes[0]
    expected = posed(smplx_arrays, people, 0, betas=neutral[0].astype(np.float64))
    assert np.abs(source.load(0).vertices[0] - expected).max() < 3e-5


def test_parts_without_a_box_are_at_rest(tmp_path, smplx_arrays, smplx_file, ubody_people):
    people = ubody_people[0]
    none = np.array([[0, 0, 0, 0, 0], [1, 1, 9, 9, 1], [1, 1, 9, 9, 1]], np.float32)
    path = human_data(tmp_path / "a.npz", people, lhand_bbox_xywh=none, face_bbox_xywh=none)
    source = open_truth("arctic", path, TruthOptions(smplx=smplx_file))
    pose = people["pose_rotvec"][0].copy()
    pose[24:39] = pose[21] = 0.0
    expected = posed(smplx_arrays, people, 0, pose_rotvec=pose, expression=np.zeros(10))
    assert np.abs(source.load(0).vertices[0] - expected).max() < 3e-5
    assert np.abs(source.load(1).vertices[0] - posed(smplx_arrays, people, 1)).max() < 3e-5


def test_flat_hands_are_heeded(tmp_path, smplx_arrays, smplx_file, ubody_people):
    people = {key: value.copy() for key, value in ubody_people[0].items()}
    path = human_data(tmp_path / "a.npz", people, misc={"flat_hand_mean": True})
    found = open_truth("arctic", path, TruthOptions(smplx=smplx_file)).load(0).vertices[0]
    people["pose_rotvec"][0, 24:39] -= smplx_arrays["hands_meanl"].reshape(15, 3)
    people["pose_rotvec"][0, 39:] -= smplx_arrays["hands_meanr"].reshape(15, 3)
    assert np.abs(found - posed(smplx_arrays, people, 0)).max() < 3e-5


def test_who_of_humandata_is_judged(tmp_path, smplx_file, ubody_people):
    options = TruthOptions(smplx=smplx_file)
    people, path = ubody_people[0], tmp_path / "a.npz"
    outside = np.array([[1920, 5, 9, 9, 1], [5, 5, 0, 9, 1], [5, 5, 9, 9, 1]], np.float32)
    for change in (
        {"bbox_xywh": outside},
        {"annot_valid": np.array([False, False, True])},
        {"meta": {"smplx_valid": np.array([0, 0, 1], np.uint8)}},
        {"body": {"smplx_valid": np.array([0, 0, 1], np.uint8)}},
        {"meta": {"iscrowd": [1, 1, 0]}},
        {"meta": {"valid_label": [0, 0, 2], "num_keypoints": [3, 3, 3]}},
    ):
        source = open_truth("egobody", human_data(path, people, **change), options)
        assert source.names == ("egocentric_color_rec_b_PV_0001",), change
        assert source.notes[0].startswith("2 people without parameters, or without a box in the picture, are left out")
    every_second = open_truth("egobody", human_data(path, people), TruthOptions(smplx=smplx_file, frame_step=2))
    assert [name[-6:] for name in every_second.names] == ["0001-1", "0001-2"]
    # Neither sizes nor keypoints nor a camera: the people are judged, their place in the picture is not known.
    bare = {"keypoints2d_smplx": None, "keypoints2d_smplx_mask": None, "frame_range": None, "meta": {}}
    bare["meta"] = dict.fromkeys(("height", "width", "focal_length", "principal_point", "gender"))
    truth = open_truth("egobody", human_data(path, people, without=("transl",), **bare), options).load(2)
    assert (truth.intrinsics, truth.image_size, truth.labelled.any()) == (None, None, np.False_)


def test_ubody_as_humandata_counts_vertices_inside(tmp_path, smplx_arrays, smplx_file, ubody_people):
    people, options = ubody_people[0], TruthOptions(smplx=smplx_file)
    truth = open_truth("ubody", human_data(tmp_path / "ubody_test.npz", people), options).load(0)
    mesh = posed(smplx_arrays, people, 0)
    pixels = mesh[:, :2] / mesh[:, 2:] * 1500 + [960, 540]
    inside = ((pixels > 0) & (pixels < [1920, 1080])).all(1)
    assert (truth.inside[0] != inside).mean() < 1e-3
    assert 0.02 < inside.mean() < 0.98
    path = human_data(tmp_path / "ubody_test.npz", people, meta={"focal_length": None})
    with pytest.raises(SceneError, match=r"meta: expected focal_length, principal_point, width and height"):
        open_truth("ubody", str(tmp_path), options).load(0)
    assert path.endswith("ubody_test.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smplx": None}, "smplx: missing, the file has no body"),
        ({"smplx": None, "smpl": {"betas": np.zeros((3, 10))}}, "smplx: missing, the file has smpl; truth is SMPL-X here"),
        ({"without": ("betas",)}, "smplx: betas: missing"),
        ({"body": {"body_pose": np.zeros((3, 69))}}, r"row 0 .*smplx: body_pose: expected shape \(63,\), got \(69,\)"),
        ({"body": {"betas": np.zeros((3, 99))}}, "num_betas must be 1 to 10 for this file, got 99"),
        ({"meta": {"gender": ["male"] * 2}}, "meta: gender: expected 3 texts among neutral, male, female, got 2"),
        ({"meta": {"gender": ["x"] * 3}}, r"meta: gender: expected 3 texts .* got 3: \['x'"),
        ({"meta": {"width": [1920, 1920]}}, r"meta: width: expected finite numbers, shape \(3, 1\), got int64 \(2,\)"),
        ({"meta": {"width": np.zeros(3)}}, "width, height: expected 1 to 65536 pixels"),
        ({"meta": {"focal_length": [[1.0], [2.0, 3.0], [1.0]]}}, "focal_length: .*rows of different lengths"),
        ({"lhand_bbox_xywh": np.zeros((2, 5))}, r"lhand_bbox_xywh: expected shape \(3, k\), got \(2, 5\)"),
        ({"keypoints2d_smplx": np.zeros((3, 5, 3)), "keypoints2d_smplx_mask": None}, "expected shape .*k >= 22"),
    ],
)  # fmt: skip
def test_wrong_humandata_is_named(tmp_path, smplx_file, ubody_people, change, message):
    path = human_data(tmp_path / "a.npz", ubody_people[0], **change)
    with pytest.raises(SceneError, match=message):
        open_truth("arctic", path, TruthOptions(smplx=smplx_file)).load(0)


@given(*damage)
@settings(max_examples=25, deadline=None)
def test_damaged_humandata_is_one_clear_error(tmp_path, smplx_file, ubody_people, changes, cut):
    whole = tmp_path / "whole.npz"
    if not whole.is_file():
        human_data(whole, ubody_people[0])
    (tmp_path / "a.npz").write_bytes(damaged(whole.read_bytes(), changes, cut))
    with contextlib.suppress(SceneError):
        open_truth("egobody", str(tmp_path / "a.npz"), TruthOptions(smplx=smplx_file))
