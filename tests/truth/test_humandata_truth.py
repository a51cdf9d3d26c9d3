"""Reader of HumanData as truth: genders, flat hands, parts without a box, damaged files."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import contextlib

import numpy as np
import pytest
import smplx_synthetic
from hostile_files import damage, damaged
from hypothesis import given, settings
from truth_files import human_data

from annyfit_jax.metrics.skeletons import SMPLX22
from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth import TruthOptions, open_truth


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


@pytest.mark.slow
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
