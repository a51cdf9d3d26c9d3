"""The evaluation program: fits read from disk, truth written in official layouts, figures known beforehand."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import smplx_synthetic
from fitted_people import make_fit
from helpers import HANG_S, REPO
from scipy.spatial.transform import Rotation
from truth_files import agora_frame, human_data, write_ply

from annyfit_jax import metrics
from annyfit_jax.metrics.skeletons import ANNY, LIMBS12, PANOPTIC19, RH14, pick
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import BodyParameters, SceneError
from annyfit_jax.records import files, fit_files
from annyfit_jax.regressors.regressed_people import scene_fit
from annyfit_jax.store.locations import place
from annyfit_jax.truth import TruthOptions, evaluation, evaluation_table, image_evaluation, open_truth
from annyfit_jax.truth.foreign_predictions import AnnyPeople
from annyfit_jax.truth.protocols import image_protocol
from body_models.smplx import JOINTS


@pytest.fixture(scope="module")
def meshes(load_anny):
    return BodyMeshes(load_anny())


@pytest.fixture(scope="module")
def body(load_anny):
    return AnnyPeople(load_anny())


# ------------------------------------------------------------------------------------------------ predictions


@pytest.mark.slow
def test_predicted_joints_are_those_of_the_body(body, meshes):
    """COCO-17 as everywhere; the crown tops an upright body, the neck is above the shoulders, the pelvis between the hips."""
    people = make_fit().parameters.select(np.array([0, 1]))
    joints = body.joints(people)
    coco, _ = meshes.keypoints_and_height(people)
    np.testing.assert_allclose(joints[:, :17], coco, atol=1e-5)
    crown, neck, shoulders, pelvis = (
        joints[0, ANNY.index(name)] for name in ("head_top", "neck_base", "mid_shoulder", "pelvis")
    )
    vertices = meshes.vertices(people.select(np.array([0])))[0]
    assert crown[1] == pytest.approx(vertices[:, 1].min(), abs=1e-4)  # y is down
    assert 0.03 < shoulders[1] - neck[1] < 0.12
    np.testing.assert_allclose(shoulders, (joints[0, 5] + joints[0, 6]) / 2)
    np.testing.assert_allclose(pelvis, (joints[0, 11] + joints[0, 12]) / 2)


def test_people_without_a_fit_are_no_predictions(body):
    fit = make_fit()
    predicted = body.predict(fit.parameters, fit.K)
    assert len(predicted) == 2
    np.testing.assert_array_equal(predicted.depth, fit.transl[:2, 2])
    np.testing.assert_array_equal(predicted.age, fit.shape[:2, 1])
    joints = predicted.joints_3d[1, 3]
    np.testing.assert_allclose(predicted.joints_2d[1, 3], joints[:2] / joints[2] * [554, 550] + [320, 240])


# ------------------------------------------------------------------------------------------------ people to be found


@pytest.fixture
def fitted(tmp_path, body):
    """Fits of the images 100 and 101 (two people each, a third one not fitted) and the predictions in them."""
    fits = {}
    for name, depth in (("100", 0.0), ("101", 1.0)):
        fit = make_fit(name)
        fit.transl = fit.transl + np.array([0, 0, depth], np.float32)
        fit.start_transl = fit.transl * np.float32(1.5)
        fit_files.save(fit, tmp_path / "out" / "fits" / f"{name}.npz")
        fits[name] = fit
    return tmp_path, {name: body.predict(fit.parameters, fit.K) for name, fit in fits.items()}


def relative_human_truth(folder, predicted, *, image=".jpg"):
    """Labels that the fits meet exactly: an adult man behind, a girl in front."""
    annots = {}
    for name, people in predicted.items():
        pixels = pick(people.joints_2d, people.names, RH14)
        labels = ({"age": 0, "gender": 0, "depth_id": 1}, {"age": 3, "gender": 1, "depth_id": 0})
        annots[f"{name}{image}"] = [
            {"kp2d": np.concatenate([points, np.full((14, 1), 2.0)], 1).ravel().tolist()} | label
            for points, label in zip(pixels, labels, strict=True)
        ]
    (folder / "test_annots.json").write_text(json.dumps(annots))
    return str(folder / "test_annots.json"), annots


def test_relative_human(fitted):
    folder, predicted = fitted
    truth, annots = relative_human_truth(folder, predicted)
    report = evaluation.evaluate(str(folder / "out"), truth, "relative_human")
    fit = report["pooled"]["fit"]
    assert (fit["scenes"], fit["people"], fit["matched"], fit["pairs"]) == (2, 4, 4, 2)
    for key in ("mPCKh_0.6", "PCRD_0.2", "PCRD_0.2_adult", "PCRD_0.2_baby", "f1", "gender_f1", "depth_order"):
        assert fit[key] == pytest.approx(1.0), key
    assert fit["age_f1"] == pytest.approx(0.5)  # two of four classes occur: macro over all
    assert math.isnan(fit["PCRD_0.2_kid"])
    assert report["pooled"]["init"]["mPCKh_0.6"] < 0.95  # half as far again
    assert report["not_fitted"] == 2
    # An image without a fit: its people are missed, or it is left out.
    annots["102.jpg"] = annots["100.jpg"]
    (folder / "test_annots.json").write_text(json.dumps(annots))
    missed = evaluation.evaluate(str(folder / "out"), truth, "relative_human")
    assert missed["scenes_without_fit"] == ["102"]
    assert missed["pooled"]["fit"]["PCRD_0.2"] == pytest.approx(2 / (2 + 0.3 * 2))
    assert missed["pooled"]["fit"]["people_recall"] == pytest.approx(4 / 6)
    assert missed["pooled"]["fit"]["age_f1"] == pytest.approx(0.5)
    # As false negatives: of 3 adults and 3 babies two each are found, F1 = 0.8 for two classes of four.
    assert missed["pooled"]["fit"]["age_f1_missed"] == pytest.approx(0.4)
    left_out = evaluation.evaluate(str(folder / "out"), truth, "relative_human", without_fit="left_out")
    assert left_out["pooled"]["fit"]["PCRD_0.2"] == 1.0
    with pytest.raises(ValueError, match=r"none of its 1 images has a fit in .*; the first is 102"):
        evaluation.evaluate(str(folder / "out"), truth, "relative_human", options=TruthOptions(pattern="102"))


def test_wrong_depths_and_classes_are_counted(fitted):
    folder, predicted = fitted
    truth, annots = relative_human_truth(folder, predicted)
    for person, label in zip(annots["100.jpg"], ({"depth_id": 0, "gender": 1}, {"depth_id": 0}), strict=True):
        person |= label
    (folder / "test_annots.json").write_text(json.dumps(annots))
    fit = evaluation.evaluate(str(folder / "out"), truth, "relative_human")["pooled"]["fit"]
    assert fit["PCRD_0.2"] == 0.5  # equal layers, a metre apart
    assert fit["depth_equal"] == 0.0
    # Men: 1 of 2 answers right, of 1; women: 2 right, 3 there.
    assert fit["gender_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


CAMERA = {
    "name": "00_16", "type": "hd", "resolution": [640, 480], "K": [[554.0, 0, 320], [0, 550, 240], [0, 0, 1]],
    "distCoef": [0.0] * 5,
}  # fmt: skip


def panoptic_truth(folder, predicted, moved=(0.0, 0.0, 0.0)):
    """The fits' joints in a dome's axes, centimetres; the second person moved in the camera's axes, metres."""
    sequence = folder / "160906_ian1"
    (sequence / "hdPose3d_stage1_coco19").mkdir(parents=True, exist_ok=True)
    turn, shift = Rotation.from_rotvec([0.2, 1.0, -0.3]), np.array([10.0, -20.0, 250.0])
    camera = CAMERA | {"R": turn.as_matrix().tolist(), "t": shift[:, None].tolist()}
    (sequence / "calibration_160906_ian1.json").write_text(json.dumps({"cameras": [camera]}))
    for frame, people in enumerate(predicted.values()):
        joints = pick(people.joints_3d, people.names, PANOPTIC19) + np.array([[[0, 0, 0]], [moved]])
        world = turn.inv().apply(100 * joints.reshape(-1, 3) - shift).reshape(joints.shape)
        with_confidence = np.concatenate([world, np.full((*joints.shape[:2], 1), 0.6)], axis=2)
        bodies = [{"id": i, "joints19": x.ravel().tolist()} for i, x in enumerate(with_confidence)]
        path = sequence / "hdPose3d_stage1_coco19" / f"body3DScene_{frame:08d}.json"
        path.write_text(json.dumps({"bodies": bodies}))
    for frame, name in enumerate(predicted):
        (folder / "out" / "fits" / f"{name}.npz").rename(folder / "out" / "fits" / f"00_16_{frame:08d}.npz")
    return str(sequence)


def test_panoptic(fitted):
    folder, predicted = fitted
    truth = panoptic_truth(folder, predicted, moved=(0.0, 0.0, 0.5))
    report = evaluation.evaluate(str(folder / "out"), truth, "panoptic", options=TruthOptions(cameras=("00_16",)))
    fit, people = report["pooled"]["fit"], list(predicted.values())
    assert (fit["scenes"], fit["people"], fit["matched"], fit["missed"]) == (2, 4, 4, 0)
    assert max(fit["root_mpjpe"], fit["pa_mpjpe"]) < 1e-6
    assert fit["mpjpe_abs"] == pytest.approx(250.0)  # half of the people, half a metre
    assert fit["depth_abs_err"] == pytest.approx(0.25)
    expected = []
    for one in people:
        joints = one.joints_3d[:, :17]
        target = joints + np.array([[[0, 0, 0]], [[0, 0, 0.5]]])
        expected.append(metrics.joint_pa_mpjpe(joints, target) * 1000)
    assert fit["joint_pa_mpjpe"] == pytest.approx(np.mean(expected), rel=1e-6)
    # BEV's ground truth is shifted by (0, 6, 3) cm at 13 of 14 joints; nothing else is wrong.
    assert fit["mpjpe"] == pytest.approx(13 / 14 * 1000 * math.hypot(0.06, 0.03), rel=1e-6)
    assert math.isnan(fit["mpjpe_pizza"])


def test_agora_by_limbs(fitted, monkeypatch):
    """Anny has no SMPL-X mesh: joints are compared, vertex figures are not available."""
    folder, predicted = fitted
    people = predicted["100"]
    joints = np.zeros((2, 127, 3))
    pixels = np.full((2, 127, 2), 5000.0)
    names = ("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
             "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
             "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist")  # fmt: skip
    for name in LIMBS12:
        joints[:, names.index(name)] = people.joints_3d[:, ANNY.index(name)] + [0.0, 0.0, 1.0]
        pixels[:, names.index(name)] = people.joints_2d[:, ANNY.index(name)]
    joints[1, names.index("left_wrist")] += [0.12, 0, 0]
    frame = agora_frame(
        monkeypatch, imgPath=["100.png"], isValid=[[True, True]], occlusion=[[0.0, 10.0]], kid=[[False, True]],
        gt_joints_2d=[list(pixels)], gt_joints_3d=[list(joints)], gt_verts=[list(np.zeros((2, 10475, 3)))],
    )  # fmt: skip
    (folder / "validation_0.pkl").write_bytes(frame)
    report = evaluation.evaluate(str(folder / "out"), str(folder / "validation_0.pkl"), "agora")
    fit = report["pooled"]["fit"]
    assert (fit["f1"], fit["people"], fit["kid_people"]) == (1.0, 2, 1)
    assert fit["mpjpe_mm"] == pytest.approx(120 / 12 / 2, abs=1e-3)  # the truth is stored in float32
    assert fit["kid_mpjpe_mm"] == pytest.approx(10.0, abs=1e-3)
    assert math.isnan(fit["MVE"])
    assert "no vertex correspondence" in report["settings"]["MVE, NMVE"]
    assert "MVE " in (text := evaluation_table.table(report["pooled"])) and "n.a." in text


def test_agora_with_its_own_predictions(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    joints, vertices = rng.normal((0, 0, 5), 0.4, (2, 127, 3)), rng.normal((0, 0, 5), 0.4, (2, 10475, 3))
    pixels = rng.normal(0, 60, (2, 127, 2)) + np.array([[[500, 500]], [[2000, 900]]])
    frame = agora_frame(
        monkeypatch, imgPath=["x.png"], isValid=[[True, True]], occlusion=[[0.0, 10.0]], kid=[[False, True]],
        gt_joints_2d=[list(pixels)], gt_joints_3d=[list(joints)], gt_verts=[list(vertices)],
    )  # fmt: skip
    (tmp_path / "truth.pkl").write_bytes(frame)
    shift = np.array([1.0, 2.0, 3.0])  # moves with the root
    for k in range(2):
        moved = joints[k] + shift
        moved[30] += [0.032, 0, 0]  # a joint of the left hand
        person = {"joints": pixels[k, :24], "allSmplJoints3d": moved, "verts": vertices[k] + shift}
        (tmp_path / f"x_personId_{k}.pkl").write_bytes(pickle.dumps(person))
    parts = tmp_path / "parts"
    parts.mkdir()
    np.save(parts / "body_verts_smplx.npy", np.arange(4010))
    report = evaluation.evaluate(
        str(tmp_path), str(tmp_path / "truth.pkl"), "agora", predictions="agora", parts=str(parts)
    )
    fit = report["pooled"]["fit"]
    assert list(report["pooled"]) == ["fit"]
    assert (fit["precision"], fit["recall"], fit["MPJPE"], fit["MVE"], fit["NMVE"]) == (1.0, 1.0, 0.0, 0.0, 0.0)
    assert fit["mve_mm"] < 1e-3  # the truth is stored in float32
    assert fit["LH_MPJPE"] == 2.0  # 32 mm over wrist and 15 joints
    assert fit["matched_LH_MPJPE"] == pytest.approx(32 / 15, abs=2e-3)
    assert fit["RH_MPJPE"] == fit["F_MPJPE"] == 0.0
    assert fit["FB_MPJPE"] == 0.7
    assert "LH_MVE" not in fit  # no vertex numbers of hands were given
    (tmp_path / "x_personId_1.pkl").unlink()
    missed = evaluation.evaluate(str(tmp_path), str(tmp_path / "truth.pkl"), "agora", predictions="agora")["pooled"][
        "fit"
    ]
    assert missed["LH_MPJPE"] == 1.0  # the miss enters as 0
    assert missed["matched_LH_MPJPE"] == pytest.approx(32 / 15, abs=2e-3)
    assert (missed["recall"], missed["kid_recall"], missed["kid_f1"]) == (0.5, 0.0, 0.0)


# ------------------------------------------------------------------------------------------------ SMPL-X sets


@pytest.fixture(scope="module")
def smplx_file(tmp_path_factory):
    arrays = smplx_synthetic.arrays()
    return str(smplx_synthetic.save(tmp_path_factory.mktemp("smplx"), arrays)), arrays["J_regressor"]


def ehf_truth(folder, world):
    """Two EHF images with the same mesh; returns it in the camera's axes."""
    for name in ("01", "02"):
        write_ply(folder / f"{name}_align.ply", world)
    turn = Rotation.from_rotvec([-2.98747896, 0.01172457, -0.05704687])
    return turn.apply(world.astype(np.float32).astype(np.float64)) + np.array([-0.03609917, 0.43416458, 2.37101226])


def test_ehf_with_meshes(tmp_path, smplx_file, monkeypatch):
    path, regressor = smplx_file
    rng = np.random.default_rng(0)
    vertices = ehf_truth(tmp_path, rng.normal(0, 0.3, (10475, 3)))
    parts = tmp_path / "parts"
    parts.mkdir()
    hands = {"left_hand": np.arange(100, 200), "right_hand": np.arange(200, 300)}
    (parts / "MANO_SMPLX_vertex_ids.pkl").write_bytes(pickle.dumps(hands))
    (tmp_path / "pred").mkdir()
    worse = vertices + rng.normal(0, 0.05, vertices.shape)
    moved = 1.1 * vertices + np.array([0.3, 0, 0])
    np.savez(tmp_path / "pred" / "01_img.npz", vertices=[worse, moved], score=[0.1, 0.9])
    report = evaluation.evaluate(
        str(tmp_path / "pred"), str(tmp_path), "ehf", predictions="meshes", parts=str(parts),
        options=TruthOptions(smplx=path), without_fit="left_out",
    )  # fmt: skip
    fit = report["pooled"]["fit"]
    assert (fit["people"], fit["matched"]) == (1, 1)
    joints = regressor @ vertices
    expected = 0.1 * np.linalg.norm(vertices - joints[0], axis=1).mean() * 1000  # scaled about the pelvis
    assert fit["pve_all"] == pytest.approx(expected, rel=1e-6)
    sides = [
        0.1 * np.linalg.norm(vertices[hands[side]] - joints[j], axis=1).mean() * 1000
        for side, j in (("left_hand", 20), ("right_hand", 21))
    ]
    assert fit["pve_hands"] == pytest.approx(np.mean(sides), rel=1e-6)
    assert max(fit["pa_pve_all"], fit["pa_pve_hands"], fit["pa_mpjpe_body"]) < 1e-6
    assert math.isnan(fit["pve_face"])
    assert report["scenes_without_fit"] == ["02"]
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path / "cache"))
    bucket = f"memory://ehf-{tmp_path.name}-{os.getpid()}"
    for name in place(tmp_path).tree():
        (place(bucket) / name).put((tmp_path / name).read_bytes())
    (place(bucket) / "SMPLX.npz").put(Path(path).read_bytes())
    there = evaluation.evaluate(
        f"{bucket}/pred", bucket, "ehf", predictions="meshes", parts=f"{bucket}/parts",
        options=TruthOptions(smplx=f"{bucket}/SMPLX.npz"), without_fit="left_out",
    )  # fmt: skip
    assert json.dumps(there) == json.dumps(report | {"fits": f"{bucket}/pred", "truth": bucket})
    (place(bucket) / "01_align.ply").put(b"no mesh")
    with pytest.raises(SceneError, match=f"^{bucket}/01_align.ply"):
        evaluation.evaluate(
            f"{bucket}/pred", bucket, "ehf", predictions="meshes", options=TruthOptions(smplx=f"{bucket}/SMPLX.npz")
        )


def test_ehf_with_fits_compares_joints_alone(fitted, smplx_file):
    folder, _ = fitted
    ehf_truth(folder, np.random.default_rng(0).normal(0, 0.3, (10475, 3)))
    for name, new in (("100", "01"), ("101", "02_img")):
        (folder / "out" / "fits" / f"{name}.npz").rename(folder / "out" / "fits" / f"{new}.npz")
    report = evaluation.evaluate(str(folder / "out"), str(folder), "ehf", options=TruthOptions(smplx=smplx_file[0]))
    for column in ("init", "fit"):
        pooled = report["pooled"][column]
        assert pooled["matched"] == 2
        assert 0 < pooled["pa_mpjpe_body"] < pooled["mpjpe_body"]
        assert math.isnan(pooled["pve_all"])
    assert "no vertex correspondence" in report["settings"]["PVE"]


# ------------------------------------------------------------------------------------------------ fits of SMPL-X


@pytest.fixture(scope="module")
def smplx_people():
    """Three people of the synthetic model, eyes and hands as a fit stores them, and their meshes by the reference."""
    arrays = smplx_synthetic.arrays()
    people = smplx_synthetic.parameters(3)
    people["expression"][:] = 0.0
    people["pose_rotvec"][:, 22:24] = 0.0
    people["translation"] = np.array([(-0.6, 0.0, 4.0), (0.7, 0.1, 4.5), (0.0, -0.1, 5.0)])
    rows = [{key: value[row] for key, value in people.items()} for row in range(3)]
    return arrays, people, [smplx_synthetic.reference(arrays, row) for row in rows]


def smplx_fit(name, people, rows, **changes):
    """A prediction as `experiments.predict` stores it: the people in some order, the start is the result."""
    parts = BodyParameters(*(people[key][rows] for key in ("root_rotvec", "translation", "pose_rotvec", "betas")))
    unknown = np.zeros((len(rows), 17, 3))
    return scene_fit(
        name, f"{name}.jpg", (1920, 1080), np.array([[1500.0, 0, 960], [0, 1500, 540], [0, 0, 1]]), parts,
        (np.array(JOINTS[1:]), np.array([f"beta{k}" for k in range(10)])), keypoints_3d=unknown,
        height_m=np.ones(len(rows)), **changes,
    )  # fmt: skip


def procrustes(source, target):
    """The source after the best similarity, by Horn's quaternion instead of the singular values of the metrics."""
    a, b = source - source.mean(0), target - target.mean(0)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = a.T @ b
    n = np.array([
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ])  # fmt: skip
    w, x, y, z = np.linalg.eigh(n)[1][:, -1]
    turned = Rotation.from_quat([x, y, z, w]).apply(a)
    return (turned * b).sum() / (turned**2).sum() * turned + target.mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["arctic", "egobody"])
def test_predictions_of_smplx_are_judged_in_full(tmp_path, smplx_people, smplx_file, protocol):
    """The truth is person 0 with another pose of arms, hands and jaw; in the photo he is the second of two people."""
    arrays, people, meshes = smplx_people
    rng = np.random.default_rng(5)
    true = {key: value.copy() for key, value in people.items()}
    true["pose_rotvec"][:, 15:] += 0.2 * rng.standard_normal(true["pose_rotvec"][:, 15:].shape)
    true["pose_rotvec"][:, 22:24] = 0.0
    target = [smplx_synthetic.reference(arrays, {key: value[row] for key, value in true.items()}) for row in range(3)]
    means = np.stack([arrays["hands_meanl"], arrays["hands_meanr"]]).reshape(30, 3)
    stored = {key: value.copy() for key, value in true.items()}
    stored["pose_rotvec"][:, 24:] -= means
    stored["transl"] = np.stack([one["transl"] for one in target])
    truth = human_data(tmp_path / "truth.npz", stored, keypoints2d_smplx=None, keypoints2d_smplx_mask=None)
    fit_files.save(smplx_fit("egocentric_color_rec_a_PV_0001", people, [1, 0]), tmp_path / "out" / "fits" / "a.npz")
    (tmp_path / "out" / "fits" / "a.npz").rename(tmp_path / "out" / "fits" / "egocentric_color_rec_a_PV_0001.npz")
    parts = tmp_path / "parts"
    parts.mkdir()
    numbers = {"left_hand": np.arange(100, 200), "right_hand": np.arange(200, 320), "face": np.arange(400, 700)}
    hands = {side: numbers[side] for side in ("left_hand", "right_hand")}
    (parts / "MANO_SMPLX_vertex_ids.pkl").write_bytes(pickle.dumps(hands))
    np.save(parts / "SMPL-X__FLAME_vertex_ids.npy", numbers["face"])
    options = TruthOptions(smplx=smplx_file[0])
    report = evaluation.evaluate(
        str(tmp_path / "out"), truth, protocol, options=options, parts=str(parts), without_fit="left_out"
    )
    assert list(report["pooled"]) == ["fit"]  # a prediction is its own start
    assert report["scenes_without_fit"] == ["egocentric_color_rec_b_PV_0001"]
    assert report["settings"]["expression"] == "zero, unless fits store vertices"
    fit = report["pooled"]["fit"]
    assert (fit["people"], fit["matched"], fit["missed"]) == (2, 2, 0)
    expected = {f"{kind}_{part}": [] for kind in ("pve", "pa_pve") for part in ("all", "hands", "face")}
    for row in (0, 1):
        ours, theirs = meshes[row]["vertices"], target[row]["vertices"]
        centred = [x - (arrays["J_regressor"] @ x)[:, None] for x in (ours, theirs)]  # (joint, vertex, 3)
        error = np.linalg.norm(centred[0] - centred[1], axis=-1)
        expected["pve_all"].append(error[0].mean())
        sides = [error[joint, numbers[side]].mean() for joint, side in ((20, "left_hand"), (21, "right_hand"))]
        expected["pve_hands"].append(np.mean(sides))
        expected["pve_face"].append(error[12, numbers["face"]].mean())
        aligned = {"all": np.arange(10475), **numbers}
        pa = {
            part: np.linalg.norm(procrustes(ours[use], theirs[use]) - theirs[use], axis=1).mean()
            for part, use in aligned.items()
        }
        expected["pa_pve_all"].append(pa["all"])
        expected["pa_pve_hands"].append((pa["left_hand"] + pa["right_hand"]) / 2)
        expected["pa_pve_face"].append(pa["face"])
    for name, values in expected.items():
        assert fit[name] == pytest.approx(1000 * np.mean(values), rel=2e-4), name
        assert fit[name] > 1.0, name
    joints = [
        (arrays["J_regressor"] @ one["vertices"])[[16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8]]
        for one in (meshes[0], target[0])
    ]
    ours, theirs = (x - x[[6, 7]].mean(0) for x in joints)
    single = report["per_scene"]["egocentric_color_rec_a_PV_0001-1"]["fit"]
    assert single["mpjpe_body"] == pytest.approx(1000 * np.linalg.norm(ours - theirs, axis=1).mean(), rel=2e-4)
    assert single["pa_mpjpe_body"] == pytest.approx(
        1000 * np.linalg.norm(procrustes(*joints) - joints[1], axis=1).mean(), rel=2e-4
    )


def test_stored_meshes_of_smplx_have_an_expression(tmp_path, smplx_people, smplx_file):
    arrays, people, _ = smplx_people
    smiling = {key: value[0] for key, value in people.items()} | {"expression": np.linspace(-2, 2, 10)}
    mesh = smplx_synthetic.reference(arrays, smiling)["vertices"]
    vertices = np.stack([mesh + np.array([5.0, 0.0, 0.0]), mesh]).astype(np.float32)
    fit = dataclasses.replace(smplx_fit("01", people, [1, 0]), vertices=vertices)
    fit.status = np.array(["failed:x", "ok"])
    fit_files.save(fit, tmp_path / "out" / "01.npz")
    turn = Rotation.from_rotvec([-2.98747896, 0.01172457, -0.05704687])
    world = turn.inv().apply(mesh - [-0.03609917, 0.43416458, 2.37101226])
    write_ply(tmp_path / "01_align.ply", world)
    options = TruthOptions(smplx=smplx_file[0])
    judge = functools.partial(evaluation.evaluate, str(tmp_path / "out"), str(tmp_path), "ehf", options=options)
    assert judge()["pooled"]["fit"]["pve_all"] < 1e-3
    fit_files.save(dataclasses.replace(fit, vertices=None), tmp_path / "out" / "01.npz")
    assert judge()["pooled"]["fit"]["pve_all"] > 1.0


def test_fits_of_anny_in_humandata_sets_compare_joints_alone(fitted, smplx_people, smplx_file):
    folder, predicted = fitted
    _, people, meshes = smplx_people
    stored = people | {"transl": np.stack([one["transl"] for one in meshes])}
    points = np.zeros((3, 190, 3), np.float32)
    # The only labelled joint lies where the second of the two fitted people has it.
    points[:, 7, :2] = predicted["100"].joints_2d[1, ANNY.index("left_ankle")]
    points[:, 7, 2] = 1
    truth = human_data(
        folder / "truth.npz", stored, keypoints2d_smplx=points, keypoints2d_smplx_mask=None, frame_range=None,
        image_path=np.array(["100.png", "101.png", "x.png"]),
    )  # fmt: skip
    options = TruthOptions(smplx=smplx_file[0])
    report = evaluation.evaluate(str(folder / "out"), truth, "egobody", options=options, without_fit="left_out")
    scene = report["per_scene"]["100"]["fit"]
    person = open_truth("egobody", truth, options).load(0)
    assert person.joints_3d is not None
    target = pick(person.joints_3d, person.names, LIMBS12)[0]
    ours = pick(predicted["100"].joints_3d, ANNY, LIMBS12)[1]
    error = np.linalg.norm((ours - ours[6:8].mean(0)) - (target - target[6:8].mean(0)), axis=1).mean()
    assert scene["mpjpe_body"] == pytest.approx(1000 * error, rel=1e-5)
    assert math.isnan(scene["pve_all"]) and math.isnan(scene["pa_pve_hands"])
    assert report["pooled"]["init"]["matched"] == 2
    assert "no vertex correspondence" in report["settings"]["PVE"]


def test_agora_with_fits_of_smplx(tmp_path, monkeypatch, smplx_people, smplx_file):
    """Predictions on pictures of 1920 x 1080, truth in 3840 x 2160: one person is exact, one misses 30 mm at a wrist."""
    arrays, people, meshes = smplx_people
    corners = arrays["f"].astype(int)[arrays["lmk_faces_idx"]]
    joints = np.zeros((3, 127, 3))
    for row, mesh in enumerate(meshes):
        joints[row, :55] = mesh["joints"]
        joints[row, 76:] = mesh["vertices"][corners].mean(1)  # all weights are 1/3
    pixels = joints[..., :2] / np.maximum(joints[..., 2:], 1e-9) * 3000 + [1920, 1080]
    truth = joints.copy()
    truth[1, 20] += [0.0, 0.0, 0.03]
    truth[1, 76] += [0.0, 0.0, 0.051]
    frame = agora_frame(
        monkeypatch, imgPath=["x.png"], isValid=[[True] * 3], occlusion=[[0.0] * 3], kid=[[False] * 3],
        gt_joints_2d=[list(pixels)], gt_joints_3d=[list(truth)], gt_verts=[[one["vertices"] for one in meshes]],
    )  # fmt: skip
    (tmp_path / "truth.pkl").write_bytes(frame)
    fit_files.save(smplx_fit("x", people, [1, 0]), tmp_path / "out" / "x.npz")
    with pytest.raises(SceneError, match=r"option smplx: .*fits of SMPL-X, need the SMPL-X model file"):
        evaluation.evaluate(str(tmp_path / "out"), str(tmp_path / "truth.pkl"), "agora")
    options = TruthOptions(smplx=smplx_file[0])
    report = evaluation.evaluate(str(tmp_path / "out"), str(tmp_path / "truth.pkl"), "agora", options=options)
    fit = report["pooled"]["fit"]
    assert (fit["precision"], fit["recall"], fit["matched"], fit["missed"]) == (1.0, 0.67, 2, 1)
    assert fit["mpjpe_mm"] == pytest.approx(30 / 22 / 2, abs=2e-3)
    assert fit["mve_mm"] < 2e-3
    # Aligned at the wrist that is 30 mm off: all other joints of that hand are.
    assert fit["matched_LH_MPJPE"] == pytest.approx(30 / 2, abs=2e-3)
    assert fit["matched_RH_MPJPE"] < 2e-3
    assert fit["matched_F_MPJPE"] == pytest.approx(51 / 51 / 2, abs=2e-3)
    assert "body_verts_smplx.npy was not given" in report["settings"]["MVE"]
    with pytest.raises(SceneError, match="protocol relative_human: fits of smplx cannot be judged"):
        evaluation.evaluate(str(tmp_path / "out"), "nowhere", "relative_human", options=options)


def test_agora_of_smpl(tmp_path, monkeypatch):
    """24 joints, AGORA's body vertices of SMPL, no hands and no face."""
    rng = np.random.default_rng(0)
    joints, vertices = rng.normal((0, 0, 5), 0.4, (2, 24, 3)), rng.normal((0, 0, 5), 0.4, (2, 6890, 3))
    pixels = rng.normal(0, 60, (2, 24, 2)) + np.array([[[500, 500]], [[2000, 900]]])
    columns = {
        "imgPath": ["x.png"], "isValid": [[True, True]], "occlusion": [[0.0, 10.0]], "kid": [[False, True]],
        "gt_joints_2d": [list(pixels)], "gt_joints_3d": [list(joints)], "gt_verts": [list(vertices)],
    }  # fmt: skip
    (tmp_path / "truth.pkl").write_bytes(agora_frame(monkeypatch, **columns))
    shift = np.array([1.0, 2.0, 3.0])  # moves with the root
    for k in range(2):
        moved, mesh = joints[k] + shift, vertices[k] + shift
        moved[23] += [0.048, 0, 0]  # the last of the 24 counts
        mesh[5] += [0.0, 0.03, 0]
        person = {"joints": pixels[k], "allSmplJoints3d": moved, "verts": mesh}
        (tmp_path / f"x_personId_{k}.pkl").write_bytes(pickle.dumps(person))
    parts = tmp_path / "parts"
    parts.mkdir()
    np.save(parts / "body_verts_smpl.npy", np.arange(3))
    judge = functools.partial(
        evaluation.evaluate, str(tmp_path), str(tmp_path / "truth.pkl"), "agora", predictions="agora"
    )
    report = judge()
    fit = report["pooled"]["fit"]
    assert (fit["f1"], fit["people"], fit["kid_people"]) == (1.0, 2, 1)
    assert fit["mpjpe_mm"] == pytest.approx(48 / 24, abs=1e-3)
    assert fit["mve_mm"] == pytest.approx(30 / 6890, abs=1e-3)
    assert not [name for name in fit if name.startswith(("LH", "RH", "F_", "FB"))]
    assert report["settings"]["joints"] == "24 of smpl, root = middle of joints 1 and 2"
    assert "body_verts_smpl.npy was not given" in report["settings"]["MVE"]
    body = judge(parts=str(parts))
    assert body["pooled"]["fit"]["mve_mm"] < 1e-3  # vertex 5 is not among them
    other = columns | {
        "gt_joints_3d": [[rng.normal(size=(127, 3))] * 2], "gt_joints_2d": [[np.pad(p, ((0, 103), (0, 0))) for p in pixels]],
        "gt_verts": [[rng.normal(size=(10475, 3))] * 2],
    }  # fmt: skip
    (tmp_path / "truth.pkl").write_bytes(agora_frame(monkeypatch, **other))
    with pytest.raises(SceneError, match="x: gt_joints_3d: predictions are of smpl, the truth of smplx"):
        judge()


def test_intrinsics_follow_the_size_of_the_picture():
    k = np.array([[554.0, 0, 320], [0, 550.0, 240], [0, 0, 1]])
    doubled = image_evaluation.of_truth_size(k, (640, 480), (1280, 960))
    np.testing.assert_array_equal(doubled, [[1108, 0, 640], [0, 1100, 480], [0, 0, 1]])
    for same in ((640, 480), None, (1280, 720)):  # the last is another picture
        np.testing.assert_array_equal(image_evaluation.of_truth_size(k, (640, 480), same), k)


def test_what_a_protocol_cannot_judge_is_said():
    for name in ("relative_human", "panoptic", "agora"):
        with pytest.raises(SceneError, match=f"protocol {name}: predictions of kind meshes cannot be judged"):
            image_protocol(name, "meshes")
    with pytest.raises(SceneError, match="protocol synthetic: predictions of kind agora cannot be judged"):
        evaluation.evaluate("nowhere", "nowhere", "synthetic", predictions="agora")


# ------------------------------------------------------------------------------------------------ the table


def test_intervals_stand_in_table_and_json(fitted):
    folder, predicted = fitted
    truth, _ = relative_human_truth(folder, predicted)
    report = evaluation.evaluate(str(folder / "out"), truth, "relative_human", bootstrap=20, seed=3)
    again = evaluation.evaluate(str(folder / "out"), truth, "relative_human", bootstrap=20, seed=3)
    assert str(report["intervals"]) == str(again["intervals"])
    low, high = report["intervals"]["init"]["mPCKh_0.6"]
    assert low <= report["pooled"]["init"]["mPCKh_0.6"] <= high
    text = evaluation_table.table(report["pooled"], report["intervals"])
    assert "fit - init" in text.splitlines()[1]
    (row,) = [line for line in text.splitlines() if line.startswith("mPCKh_0.6 ")]
    assert row.count("[") == 3
    assert "[1.000, 1.000]" in row
    assert "95 %, 20 draws of 2 scenes, seed 3" in report["settings"]["intervals"]
    json.dumps(files.without_nan(report))


def test_fits_without_a_stored_start_have_one_column(fitted):
    folder, predicted = fitted
    truth, _ = relative_human_truth(folder, predicted)
    path = folder / "out" / "fits" / "101.npz"
    fit = fit_files.load(path)
    fit.start_transl = np.full_like(fit.start_transl, np.nan)
    fit_files.save(fit, path)
    report = evaluation.evaluate(str(folder / "out"), truth, "relative_human")
    assert list(report["pooled"]) == ["fit"]
    assert all(list(scene) == ["fit"] for scene in report["per_scene"].values())


@pytest.mark.slow
@pytest.mark.process
def test_the_program(fitted):
    folder, predicted = fitted
    truth, _ = relative_human_truth(folder, predicted)
    command = [sys.executable, "-m", "experiments.evaluate", f"--fits={folder / 'out'}", f"--truth={truth}"]
    command += ["--protocol=relative_human", "--bootstrap=5", f"--json={folder / 'report.json'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, cwd=REPO, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mPCKh_0.6" in done.stdout
    assert "people not fitted: 2; scenes without a fit: 0" in done.stdout
    assert "matching: greedy 2D, 14 joints, IoU 0.05" in done.stdout
    report = json.loads((folder / "report.json").read_text())
    assert report["pooled"]["fit"]["mPCKh_0.6"] == pytest.approx(1.0)
    assert set(report["per_scene"]) == {"100", "101"}
    broken = [*command[:4], f"--truth={folder / 'none'}", "--protocol=agora"]
    done = subprocess.run(broken, capture_output=True, text=True, timeout=HANG_S, cwd=REPO, check=False)
    assert done.returncode == 2
    assert "none: no such file or folder" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------ the same people on both sides


def coco_file(tmp_path, fit):
    """Annotations whose keypoints are 10 px right of the fit's projections for the first two people."""
    intrinsics = fit.K.astype(np.float64)
    annotations = []
    for row, layer in ((0, 1), (1, 0), (2, 2)):
        pixels = np.zeros((17, 2))
        if row < 2:
            pixels = metrics.project(fit.fitted_keypoints_3d[row].astype(np.float64), intrinsics) + np.array([10, 0])
        keypoints = np.concatenate([pixels, np.full((17, 1), 2)], 1)
        keypoints[5:, 2] = 0  # only the head is labelled
        annotations.append(
            {"id": row, "image_id": 1, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "num_keypoints": 5}
            | {"bbox": [0, 0, 50, 200], "hand_label": {"age": 0, "gender": 0, "depth_id": layer}}
        )
    image = {"id": 1, "file_name": "photo.jpg", "width": 640, "height": 480, "intrinsics": intrinsics.tolist()}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": []}))
    return path


@pytest.fixture
def layered(tmp_path, meshes):
    fit = make_fit(person_ids=np.array(["0", "1", "2"]))
    parameters = BodyParameters(fit.root_rotvec, fit.transl, fit.pose, fit.shape)
    fit.fitted_keypoints_3d = meshes.keypoints_and_height(parameters)[0]
    fit.start_transl = fit.transl * np.float32(2.0)
    fit_files.save(fit, tmp_path / "out" / "fits" / "photo.npz")
    return fit, tmp_path / "out", coco_file(tmp_path, fit)


def test_layers_protocol(layered):
    _, output, truth = layered
    report = evaluation.evaluate(str(output), str(truth), "layers")
    pooled = report["pooled"]["fit"]
    assert (pooled["people"], pooled["keypoints"], pooled["pairs"]) == (2, 10, 1)
    assert pooled["err2d_px"] == pytest.approx(10.0, abs=1e-2)
    assert pooled["err2d_box"] == pytest.approx(10.0 / np.sqrt(50 * 200), abs=1e-4)
    assert pooled["ordered_pairs"] == 1.0  # the second person is nearer, as labelled
    assert report["pooled"]["init"]["err2d_px"] > 20.0
    assert report["not_fitted"] == 1
    assert "ordered_pairs" in evaluation_table.table(report["pooled"])
    assert "err2d_box" in report["settings"]["units"]


def test_fits_of_other_people_are_refused(layered):
    fit, output, truth = layered
    fit.person_ids = np.array(["0", "5", "2"])
    fit_files.save(fit, output / "fits" / "photo.npz")
    with pytest.raises(ValueError, match=r"photo\.npz: person_ids: expected the people .*'1'.* got .*'5'"):
        evaluation.evaluate(str(output), str(truth), "layers")


def test_fits_of_another_input_are_refused(layered, tmp_path):
    fit, _, truth = layered
    fit_files.save(fit, tmp_path / "other" / "elsewhere.npz")
    with pytest.raises(ValueError, match="none of its 1 scenes has a fit"):
        evaluation.evaluate(str(tmp_path / "other"), str(truth), "layers")


def test_truth_without_ground_truth_is_refused(layered):
    _, output, truth = layered
    with pytest.raises(ValueError, match=r"photo: the synthetic protocol needs gt_coco3d.*gt_transl"):
        evaluation.evaluate(str(output), str(truth), "synthetic")
