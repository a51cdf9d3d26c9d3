"""Metrics against recorded numbers of public evaluators (`goldens/metrics`): the part a clone has, or all where it is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import GOLDENS, SHARED, max_abs

from annyfit_jax import metrics
from annyfit_jax.metrics import agora_scores, greedy_matching, panoptic_scores, relative_human_scores
from annyfit_jax.metrics.people_of_image import PredictedPeople, TruthPeople
from annyfit_jax.metrics.skeletons import RH14, SMPL24
from annyfit_jax.truth.relative_human_truth import people_of

KEPT = GOLDENS / "metrics"
MM = 1000.0


def recorded(name: str) -> Path:
    """The whole recording where it is beside the repository, else the part that is kept here."""
    whole = SHARED / "golden" / "metrics" / name
    return whole if whole.exists() else KEPT / name


def read_json(name: str):
    path = recorded(name)
    packed = path.with_suffix(path.suffix + ".gz")
    return json.loads(path.read_text() if path.exists() else gzip.decompress(packed.read_bytes()))


def read_npz(name: str) -> dict[str, np.ndarray]:
    with np.load(recorded(name), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


# ------------------------------------------------------------------------------------------------ what is kept


@pytest.mark.parametrize("name", ["match_2d.json", "relative_human.json", "panoptic_bev.json"])
def test_kept_cases_are_recorded_ones(name):
    whole = SHARED / "golden" / "metrics" / name
    if not whole.exists():
        pytest.skip("the whole recording is not beside the repository")
    kept, cases = json.loads((KEPT / name).read_text())["cases"], json.loads(whole.read_text())["cases"]
    assert kept
    assert all(case in cases for case in kept)


@pytest.mark.parametrize("name", ["joint_pa.npz", "pve.npz", "procrustes.npz", "pckh.npz"])
def test_kept_arrays_are_recorded_ones(name):
    whole = SHARED / "golden" / "metrics" / name
    if not whole.exists():
        pytest.skip("the whole recording is not beside the repository")
    kept, arrays = np.load(KEPT / name), np.load(whole)
    for key in kept.files:
        if key != "n":
            value = kept[key]
            np.testing.assert_array_equal(value, arrays[key][: len(value)] if value.ndim else arrays[key])


def test_kept_agora_images_are_the_recorded_ones():
    whole = SHARED / "golden" / "metrics" / "agora_protocol.json"
    if not whole.exists():
        pytest.skip("the whole recording is not beside the repository")
    kept = json.loads(gzip.decompress((KEPT / "agora_protocol.json.gz").read_bytes()))
    assert kept == json.loads(whole.read_text())


# ------------------------------------------------------------------------------------------------ matching


def matching_cases():
    for case in read_json("match_2d.json")["cases"]:
        gt = np.array(case["gt"])
        valid = None if case["gt_valid"] is None else np.array(case["gt_valid"], bool)
        predicted = np.array(case["pred"]).reshape(len(case["pred"]), *gt.shape[1:])
        yield (predicted, gt, np.array(case["gt_joint_mask"], bool), case["iou_thresh"], valid), case


def test_greedy_matching_equals_the_public_one():
    count = 0
    for arguments, case in matching_cases():
        found = metrics.match_2d_greedy(*arguments)
        assert found.pairs.tolist() == case["best_match"]
        assert found.false_positives.tolist() == case["false_positives"]
        assert found.misses.tolist() == case["misses"]
        count += 1
    assert count >= 30


def test_the_cost_is_the_largest_singular_value():
    """With the root of the summed squares some cases come out otherwise."""
    (predicted, truth, labelled, *_), _ = next(iter(matching_cases()))
    expected = [[np.linalg.norm((p - g)[use], 2) for g, use in zip(truth, labelled, strict=True)] for p in predicted]
    costs = greedy_matching.pair_costs(predicted, truth, labelled)
    np.testing.assert_allclose(costs, expected, rtol=1e-10)
    assert (costs <= np.sqrt(((predicted[:, None] - truth) ** 2 * labelled[None, ..., None]).sum((2, 3))) + 1e-9).all()


# ------------------------------------------------------------------------------------------------ 3D


def test_procrustes_equals_public_evaluators():
    """mmpose, roma and BUDDI on 48 bodies, every eighth of them mirrored; 1e-9."""
    golden = read_npz("procrustes.npz")
    pred, gt = golden["pred"], golden["gt"]
    aligned = metrics.similarity_align(pred, gt)
    assert max_abs(aligned, golden["roma_aligned"]) < 1e-9
    assert max_abs(aligned, golden["mmpose_aligned"]) < 1e-9
    assert max_abs(metrics.distances(aligned, gt), golden["buddi_error_procrustes"]) < 1e-9
    assert max_abs(metrics.distances(metrics.centred_scale_align(pred, gt), gt), golden["buddi_error_scale"]) < 1e-9
    assert max_abs(metrics.rooted_errors(pred, gt, 0), golden["buddi_error_root"]) < 1e-9
    centred = metrics.distances(pred - pred.mean(1, keepdims=True), gt - gt.mean(1, keepdims=True))
    assert max_abs(centred, golden["buddi_error_translation"]) < 1e-9
    for alignment in ("none", "scale", "procrustes"):
        figure = metrics.mmpose_mpjpe(pred, gt, golden["mask"], alignment)
        assert figure == pytest.approx(float(golden[f"mmpose_mpjpe_{alignment}"]), abs=1e-9), alignment
    error = metrics.pa_mpjpe(pred, gt)
    assert max_abs(error, golden["buddi_error_procrustes"].mean(1)) < 1e-9
    unmirrored = metrics.pa_mpjpe(pred * [-1, 1, 1], gt)
    assert (error[7::8] > unmirrored[7::8] + 0.01).all()  # a mirrored body must not be un-mirrored


def test_joint_procrustes_equals_the_public_evaluator():
    golden, pairs = read_npz("joint_pa.npz"), 0
    for i in range(int(golden["n"])):
        pred, gt, visible = (golden[f"{i}_{key}"] for key in ("pred", "gt", "visible"))
        stacked = metrics.similarity_align(pred.reshape(-1, 3), gt.reshape(-1, 3)).reshape(gt.shape)
        assert max_abs(metrics.distances(stacked, gt), golden[f"{i}_joint_pa_error"]) < 1e-9
        expected = {key: float(golden[f"{i}_joint_pa_mpjpe{key}"]) for key in ("", "_visible")}
        assert metrics.joint_pa_mpjpe(pred, gt) == pytest.approx(expected[""], abs=1e-9)
        assert metrics.joint_pa_mpjpe(pred, gt, visible) == pytest.approx(expected["_visible"], abs=1e-9)
        assert max_abs(metrics.pa_mpjpe(pred, gt), golden[f"{i}_person_pa_mpjpe"]) < 1e-9
        assert max_abs(metrics.rooted_errors(pred, gt, 0).mean(1), golden[f"{i}_root_mpjpe"]) < 1e-9
        if len(pred) == 2:
            best = float(golden[f"{i}_joint_pa_mpjpe_best_of_two"])
            assert metrics.joint_pa_mpjpe_best_of_two(pred, gt) == pytest.approx(best, abs=1e-9)
            pairs += 1
    assert pairs


def test_vertex_errors_equal_the_formula_of_multi_hmr():
    golden = read_npz("pve.npz")
    arguments = (golden["pred_vertices"], golden["gt_vertices"])
    pve = metrics.pve(*arguments, golden["pred_pelvis"], golden["gt_pelvis"])
    assert max_abs(pve * MM, golden["pve_mm"]) < 1e-6
    assert max_abs(metrics.pa_pve(*arguments) * MM, golden["pa_pve_mm"]) < 1e-6


# ------------------------------------------------------------------------------------------------ keypoints, classes


def test_pckh_equals_the_public_one():
    golden = read_npz("pckh.npz")
    shares = metrics.pckh(golden["pred"], golden["gt"], np.all(golden["gt"] > -1, axis=-1))
    assert max_abs(shares, golden["pckh"]) <= 1e-6
    assert shares.dtype == np.float32
    assert (golden["pckh"] == -1).any()


@pytest.mark.parametrize(("name", "classes"), [("age", 4), ("gender", 2)])
def test_f1_equals_scikit_learn(name, classes):
    cases = read_json("age_gender_f1.json")["cases"]
    assert len(cases) == 12
    for labels in cases:
        predicted, truth = np.array(labels[f"{name}_pred"]), np.array(labels[f"{name}_gt"])
        expected = {key.removeprefix(f"{name}_"): x for key, x in labels["expected"].items() if key.startswith(name)}
        np.testing.assert_allclose(metrics.class_f1(predicted, truth, classes), expected["f1_per_class"], atol=1e-12)
        for function, key in (
            (metrics.f1_macro, "macro_f1"),
            (metrics.f1_macro_present, "macro_f1_present_classes"),
            (metrics.f1_weighted, "weighted_f1"),
        ):
            assert function(predicted, truth, classes) == pytest.approx(expected[key], abs=1e-12), key
        assert metrics.f1_micro(predicted, truth) == pytest.approx(expected["micro_f1"], abs=1e-12)
        # The synthetic scenes' variant: the classes that occur in the truth.
        use = truth >= 0
        present = np.array(expected["f1_per_class"])[np.unique(truth[use])].mean()
        assert metrics.macro_f1(predicted[use], truth[use]) == pytest.approx(present, abs=1e-12)


def test_a_constant_answer_scores_the_published_figures():
    """Why macro F1: an adult-only model has 23.29 for age at a share of 0.87, a one-sex model 34.83 at 0.53."""
    adults = np.repeat([0, 1, 2, 3], [870, 60, 50, 20])
    assert metrics.f1_macro(np.zeros(1000, int), adults, 4) == pytest.approx(0.2329, abs=5e-4)
    sexes = np.repeat([0, 1], [5345, 4655])
    assert metrics.f1_macro(np.zeros(10000, int), sexes, 2) == pytest.approx(0.3483, abs=5e-4)


# ------------------------------------------------------------------------------------------------ whole evaluators


def predicted_rh(people: list[dict]) -> PredictedPeople:
    pixels = np.array([p["kp2ds"] for p in people], np.float64).reshape(-1, 14, 2)
    depth = np.array([p["trans"][2] for p in people], np.float64)
    return PredictedPeople(names=RH14, joints_2d=pixels, joints_3d=np.zeros((len(pixels), 14, 3)), depth=depth)


def test_relative_human_equals_the_public_evaluator():
    golden = read_json("relative_human.json")
    for case in golden["cases"]:
        expected, images = case["expected"], {}
        for image, people in case["annots"].items():
            truth = people_of(image, people, "annots")
            errors = relative_human_scores.image_errors(predicted_rh(case["results"].get(image, [])), truth)
            shares = expected["pckh_per_person"].get(image, [])
            np.testing.assert_allclose(errors["pckh"], shares, atol=1e-6)
            images[image] = errors
        counts = [int(errors["predictions"][0]) for errors in images.values()]
        assert counts == expected["count_predictions"]
        assert [int(errors["false_positives"][0]) for errors in images.values()] == expected["false_positives"]
        assert [int(errors["misses"][0]) for errors in images.values()] == expected["misses"]
        pooled = relative_human_scores.pool(list(images.values()))
        assert pooled["missed"] == expected["n_missed"]
        assert pooled["pairs"] == sum(expected["n_pairs"].values())
        for key in ("precision", "recall", "f1"):
            assert pooled[key] == expected[key], key
        for key in ("PCRD_0.2", *(f"PCRD_0.2_{age}" for age in golden["age_codes"])):
            assert pooled[key] == pytest.approx(expected.get(key, np.nan), abs=1e-6, nan_ok=True), key
        assert pooled["mPCKh_0.6"] == pytest.approx(expected["mPCKh"], abs=1e-6)
        for key, share in zip(("equal", "nearer", "farther"), expected["percent_equal_close_far"], strict=True):
            assert pooled[f"depth_{key}"] * 100 == pytest.approx(share, abs=0.0051), key


def test_matches_of_relative_human_equal_the_public_ones():
    """Indices of people count those with keypoints, which in these recordings is everybody."""
    for case in read_json("relative_human.json")["cases"]:
        for image, pairs in case["expected"]["matches"].items():
            truth = people_of(image, case["annots"][image], "annots")
            predicted = predicted_rh(case["results"][image]).joints_2d
            found = metrics.match_2d_greedy(predicted, truth.joints_2d, truth.labelled)
            assert found.pairs.tolist() == pairs
            assert found.misses.tolist() == case["expected"]["missed"].get(image, [])


def test_panoptic_equals_the_public_evaluator():
    golden = read_json("panoptic_bev.json")
    chosen = golden["pred17_to_14"]
    for case in golden["cases"]:
        errors: dict[str, list[np.ndarray]] = {action: [] for action in panoptic_scores.ACTIONS}
        for image, gt in case["gt"].items():
            pred = case["pred"].get(image, {"kp2d": [], "kp3d": []})
            pixels, points = (np.array(pred[key]).reshape(-1, 17, d) for key, d in (("kp2d", 2), ("kp3d", 3)))
            person = panoptic_scores.bev_errors(
                pixels[:, chosen], points[:, chosen], np.array(gt["kp2d"]), np.array(gt["kp3d"]),
                roots=(golden["gt_root"], golden["gt_root"]), predicted_roots=points[:, golden["pred_root"]],
            )  # fmt: skip
            errors[next(action for action in panoptic_scores.ACTIONS if action in image)].append(person)
        for action, people in errors.items():
            assert np.concatenate(people).mean() == pytest.approx(case["expected_mm"][action], abs=1e-6)
        everybody = np.concatenate([person for people in errors.values() for person in people])
        assert everybody.mean() == pytest.approx(case["expected_mm"]["mean"], abs=1e-6)


def test_agora_equals_the_recorded_protocol():
    golden = read_json("agora_protocol.json")
    images = []
    for image in golden["images"]:
        gt = {key: np.array(value) for key, value in image.items()}
        valid = gt["gt_valid"].astype(bool)
        truth = TruthPeople(
            name="image", names=SMPL24, joints_2d=gt["gt_joints2d"], labelled=np.ones(gt["gt_joints2d"].shape[:2], bool),
            joints_smplx=gt["gt_joints3d"], vertices=gt["gt_verts"], counted=valid, valid=valid,
            kid=gt["gt_kid"].astype(bool),
        )  # fmt: skip
        found = metrics.match_2d_greedy(gt["pred_joints2d"], truth.joints_2d, None, 0.1, valid)
        assert found.pairs.tolist() == image["best_match"]
        assert found.false_positives.tolist() == image["false_positives"]
        assert found.misses.tolist() == image["misses"]
        # Invalid people who are matched, and predictions on them, are in no rate of the plain matching.
        images.append(agora_scores.image_errors(gt["pred_joints2d"], truth, gt["pred_joints3d"], gt["pred_verts"]))
    pooled = agora_scores.pool(images)
    names = {
        "count": "people",
        "miss": "missed",
        "fp": "false_positives",
        "kid_count": "kid_people",
        "kid_miss": "kid_missed",
    }
    for key, value in golden["expected"].items():
        if key.endswith("_unrounded"):
            ours = pooled[f"{key.removesuffix('_unrounded')}_mm"]
            assert ours == pytest.approx(value, abs=1e-6), key
        else:
            assert pooled[str(names.get(key, key))] == value, key
    assert pooled["people_f1"] == pytest.approx(pooled["f1"], abs=0.1)
    assert pooled["people_precision"] > pooled["precision"] + 0.005  # predictions on invalid people are left alone
