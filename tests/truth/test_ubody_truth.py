"""Reader of UBody: parameters of its layout, posed with the user's model."""

# The fields of `TruthPeople` are optional: which reader fills which is what is tested here.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
from __future__ import annotations

import json

import numpy as np
import pytest

from annyfit_jax.people.scene import SceneError
from annyfit_jax.truth import TruthOptions, open_truth


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
