"""Matching, losses and denoising of AiOS against recordings and live references. Tolerances: `test_aios_ops.py`."""

from __future__ import annotations

import functools

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from annyfit_jax.regressors.aios import aios_losses, denoising, hungarian_matching
from annyfit_jax.regressors.aios.aios_config import AiosConfig, LossConfig, loss_config
from annyfit_jax.regressors.aios.aios_losses import DenoisingTargets
from annyfit_jax.regressors.aios.aios_model import LayerOutput, Outputs
from annyfit_jax.regressors.aios.heads import BodyPrediction, PartRotations
from annyfit_jax.regressors.aios.targets import SMPLX_POINTS, BodyTargets, PartArrays, Targets

PEOPLE = 4
"""Targets are padded to this many."""
PARTS = {"body": "body", "left_hand": "lhand", "right_hand": "rhand", "face": "face"}
SIDES = ("lhand", "rhand", "face")


def recorded_term_names() -> dict[str, str]:
    """Our terms -> the recordings' names."""
    names = {
        "classes": "loss_ce", "box_l1_person": "loss_body_bbox", "box_giou_person": "loss_body_giou",
        "joints_l1_body": "loss_keypoints", "oks_body": "loss_oks", "shape": "loss_smpl_beta",
        "expression": "loss_smpl_expr", "rotation_root": "loss_smpl_pose_root", "rotation_face": "loss_smpl_pose_jaw",
        "denoising_classes": "dn_loss_ce", "denoising_l1": "dn_loss_bbox", "denoising_giou": "dn_loss_giou",
    }  # fmt: skip
    for part, short in PARTS.items():
        more = {
            f"box_l1_{part}": f"loss_{short}_bbox", f"box_giou_{part}": f"loss_{short}_giou",
            f"joints_l1_{part}": f"loss_{short}_keypoints", f"oks_{part}": f"loss_{short}_oks",
            f"rotation_{part}": f"loss_smpl_pose_{short}", f"points3d_{part}": f"loss_smpl_{short}_kp3d",
            f"points3d_relative_{part}": f"loss_smpl_{short}_kp3d_ra", f"points2d_{part}": f"loss_smpl_{short}_kp2d",
        }  # fmt: skip
        names = more | names
    return names


NAMES = recorded_term_names()


def suffix(layer: str) -> str:
    return {"proposals": "_interm", "layer5": ""}.get(layer, f"_{layer[-1]}")


# ------------------------------------------------------------------------------------------------ recordings


def recorded_targets(found: dict[str, np.ndarray]) -> Targets:
    """Targets of the two recorded images, padded to `PEOPLE` with values that must not matter."""

    def padded(key: str) -> jax.Array:
        rows = []
        for image in range(2):
            x = found[key.format(image)].astype(np.float32)
            rows.append(np.concatenate([x, np.full((PEOPLE - len(x), *x.shape[1:]), 0.5, np.float32)]))
        return jnp.asarray(np.stack(rows))

    def joints(key: str, count: int) -> jax.Array:
        flat = padded(key)
        return jnp.concatenate([flat[..., : 2 * count].reshape(2, PEOPLE, count, 2), flat[..., 2 * count :, None]], -1)

    def by_part(x: jax.Array) -> PartArrays:
        return PartArrays(x[:, :, :22], x[:, :, 22:37], x[:, :, 37:52], x[:, :, 52:])

    heatmap = jnp.array([12.0, 16.0, 1.0])  # the unit of the recorded 2D points
    counts = [len(found[f"tgt{image}/labels"]) for image in range(2)]
    return Targets(
        people=jnp.asarray(np.arange(PEOPLE) < np.array(counts)[:, None]),
        boxes=padded("tgt{}/boxes"),
        part_boxes=jnp.stack([padded(f"tgt{{}}/{side}_boxes") for side in SIDES], 2),
        part_boxes_valid=jnp.stack([padded(f"batch{{}}/{side}_bbox_valid") for side in SIDES], 2),
        body_joints=joints("tgt{}/keypoints", 17),
        part_joints=jnp.stack([joints(f"tgt{{}}/{side}_keypoints", 6) for side in SIDES], 2),
        body=BodyTargets(
            by_part(padded("batch{}/smplx_pose").reshape(2, PEOPLE, 53, 3)), by_part(padded("batch{}/smplx_pose_valid")),
            padded("batch{}/smplx_shape"), padded("batch{}/smplx_shape_valid"),
            padded("batch{}/smplx_expr"), padded("batch{}/smplx_expr_valid"),
        ),
        points=padded("batch{}/joint_cam"),
        relative_points=padded("batch{}/smplx_joint_cam"),
        image_points=padded("batch{}/joint_img") / heatmap,
        has_3d=jnp.stack([found[f"batch{image}/is_3D"] for image in range(2)]),
        image_size=jnp.stack([found[f"batch{image}/img_shape"][::-1] for image in range(2)]).astype(jnp.float32),
    )  # fmt: skip


def recorded_layer(found: dict, prefix: str) -> LayerOutput:
    """One layer. The 3D points of its bodies, which come with the recording, ride on the camera."""
    found = golden.under(prefix, found)

    def joints(key: str, count: int):
        return None if key not in found else found[key][..., : 2 * count].reshape(2, -1, count, 2)

    body = None
    if "pred_smpl_pose" in found:
        points = found["pred_smpl_kp3d"]
        body = BodyPrediction(
            PartRotations(*(found[f"pred_smpl_{part}"] for part in ("pose", "lhand_pose", "rhand_pose", "jaw_pose"))),
            found["pred_smpl_beta"],
            jnp.concatenate([found["pred_smpl_cam"], points.reshape(*points.shape[:2], -1)], -1),
            found["pred_smpl_expr"],
        )
    sides = dict(zip(("left_hand", "right_hand", "face"), SIDES))
    return LayerOutput(
        found["pred_logits"], found["pred_boxes"], found.get("dn_class_pred"), found.get("dn_bbox_pred"),
        **{f"{name}_boxes": found.get(f"pred_{side}_boxes") for name, side in sides.items()},
        body_joints=joints("pred_keypoints", 17),
        **{f"{name}_joints": joints(f"pred_{side}_keypoints", 6) for name, side in sides.items()},
        body=body,
    )  # fmt: skip


LAYERS = [f"aux{k}/" for k in range(5)] + ["final/"]


@pytest.fixture(scope="module", params=["aios", "naive"])
def recorded_loss(request):
    """(recording, total, terms, gradient by the recording's name, total of the training loop)."""
    found = golden.arrays(f"losses_{request.param}")
    targets = recorded_targets(golden.arrays("losses_aios") if "tgt0/boxes" not in found else found)
    clean = DenoisingTargets(
        jnp.asarray(found["dn_bbox_input"]), jnp.asarray(found["dn_class_input"]),
        jnp.ones(found["dn_class_input"].shape, bool),
    )  # fmt: skip
    patch = pytest.MonkeyPatch()
    plain = aios_losses._point_terms
    patch.setattr(
        aios_losses, "_point_terms", lambda points, camera, *rest, **more: plain(points, camera[..., :3], *rest, **more)
    )

    def points(body: BodyPrediction) -> jax.Array:
        return body.camera[..., 3:].reshape(*body.camera.shape[:-1], 137, 3)

    def total(predictions: dict, config: LossConfig):
        layers = tuple(recorded_layer(predictions, prefix) for prefix in LAYERS)
        outputs = Outputs(layers, recorded_layer(predictions, "interm/"))
        return aios_losses.loss(outputs, targets, config, SMPLX_POINTS, points, clean)

    predictions = golden.under("pred/", found)
    run = jax.jit(jax.value_and_grad(functools.partial(total, config=LossConfig(fifth_layer_parts=1.0)), has_aux=True))
    (value, terms), gradient = run(predictions)
    loop = sum(
        aios_losses.weight(LossConfig(), name.split("/")[1], None if "proposals" in name else int(name[5])) * term
        for name, term in terms.items()
    )
    patch.undo()
    return found, value, terms, gradient, loop


def test_every_term(recorded_loss):
    found, _, terms, _, _ = recorded_loss
    seen = set()
    for name, value in terms.items():
        layer, term = name.split("/")
        key = f"loss/{NAMES[term]}{suffix(layer)}"
        assert float(value) == pytest.approx(float(found[key]), rel=1e-4, abs=1e-5), name
        seen.add(key)
    # What is left: terms that are not trained on (monitoring), and those that a stage does not get, zero there.
    for key in set(found) - seen:
        if key.startswith("loss/") and not key.startswith(("loss/set_", "loss/class_error")):
            assert found[key] == 0, key


def test_weighted_sums(recorded_loss):
    found, value, _, _, loop = recorded_loss
    assert float(value) == pytest.approx(float(found["total"]), rel=1e-5)
    assert float(loop) == pytest.approx(float(found["total_engine"]), rel=1e-5)


def test_gradients_of_all_predictions(recorded_loss):
    found, _, _, gradient, _ = recorded_loss
    for name, value in gradient.items():
        expected = found[f"grad/{name}"]
        assert max_abs(value, expected) < 1e-4 * max(float(np.linalg.norm(expected)), 1e-3), name


# ------------------------------------------------------------------------------------------------ weights, stages


@pytest.mark.parametrize("kind", ["aios", "naive"])
def test_weights_are_the_released_table(kind):
    table = golden.table(f"loss_weights_{kind}")
    config = LossConfig(fifth_layer_parts=1.0)
    checked = set()
    for layer in (None, 0, 1, 2, 3, 4, 5):
        for term, name in NAMES.items():
            key = name + {None: "_interm", 5: ""}.get(layer, f"_{layer}")
            if key in table:
                assert aios_losses.weight(config, term, layer) == table[key], key
                checked.add(key)
    assert checked == {key for key in table if not key.endswith("query_expand") and "kp2d_ba" not in key}


def test_weights_of_the_paper():
    paper = loss_config("paper")
    assert aios_losses.weight(paper, "oks_face", 5) == 0.5
    assert aios_losses.weight(paper, "rotation_left_hand", 5) == 1.0
    assert (
        aios_losses.weight(paper, "points3d_left_hand", 4) == aios_losses.weight(paper, "points3d_left_hand", 5) == 0.5
    )
    assert aios_losses.weight(paper, "points3d_relative_body", 5) == 0.0
    assert not paper.slips
    assert aios_losses.weight(loss_config("released"), "points3d_left_hand", 4) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("supervision", "body", "parts"),
    [
        ("all", range(6), range(2, 6)),
        ("second_third", range(2, 6), range(4, 6)),
        ("third_only", range(4, 6), range(4, 6)),
    ],
)
def test_stages_of_supervision(supervision, body, parts):
    got = [aios_losses.supervised(LossConfig(supervision=supervision), layer) for layer in range(6)]
    assert [layer for layer, wanted in enumerate(got) if wanted.body] == list(body)
    assert [layer for layer, wanted in enumerate(got) if wanted.parts] == list(parts)


# ------------------------------------------------------------------------------------------------ matching


def recorded_match(case: str, joints: bool) -> tuple[LayerOutput, Targets, list[int]]:
    found = golden.under(f"{case}/", golden.arrays("matcher"))
    counts = [len(found[f"tgt{image}_labels"]) for image in range(2)]
    most = max(counts)

    def padded(key: str) -> np.ndarray:
        rows = [found[f"tgt{image}_{key}"] for image in range(2)]
        return np.stack([np.concatenate([x, np.zeros((most - len(x), x.shape[1]), np.float32)]) for x in rows])

    xyv = padded("keypoints")
    xyv = np.concatenate([xyv[..., :34].reshape(2, most, 17, 2), xyv[..., 34:, None]], -1)
    empty = dict.fromkeys(Targets._fields)
    targets = Targets(
        **{
            **empty,
            "people": jnp.asarray(np.arange(most) < np.array(counts)[:, None]),
            "boxes": jnp.asarray(padded("boxes")),
            "body_joints": jnp.asarray(xyv),
        }
    )
    output = LayerOutput(jnp.asarray(found["pred_logits"]), jnp.asarray(found["pred_boxes"]))
    if joints:
        xy = found["pred_keypoints"][..., :34].reshape(2, -1, 17, 2)
        output = output._replace(body_joints=jnp.asarray(xy))
    return output, targets, counts


MATCH = jax.jit(hungarian_matching.match)


@pytest.mark.parametrize(
    ("case", "joints"),
    [(case, joints) for case in ("kp", "empty", "more_gt") for joints in (True, False)] + [("box", False)],
)
def test_matching(case, joints):
    """Costs and assignments; also of an image without people and of one with more people than queries."""
    found = golden.under(f"{case}/", golden.arrays("matcher"))
    output, targets, counts = recorded_match(case, joints)
    prefix = "" if joints or case == "box" else "naive_"
    cost = hungarian_matching.costs(output, targets)
    query = np.asarray(MATCH(output, targets))
    for image, count in enumerate(counts):
        expected = found[f"{prefix}cost{image}"]
        np.testing.assert_allclose(cost[image, :, :count], expected, rtol=1e-4, atol=1e-4)
        pairs = {(int(q), p) for p, q in enumerate(query[image]) if q >= 0}
        wanted = set(zip(found[f"{prefix}pred_idx{image}"].tolist(), found[f"{prefix}tgt_idx{image}"].tolist()))
        assert pairs == wanted


ASSIGN = jax.jit(hungarian_matching.assign)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.sampled_from([(1, 1), (4, 9), (7, 7), (9, 4)]), seed=st.integers(0, 2**31))
def test_assignment_is_optimal(data, shape, seed):
    """Against scipy, with people missing, ties and large offsets."""
    rng = np.random.default_rng(seed)
    kind = data.draw(st.sampled_from(["uniform", "ties", "offset"]))
    cost = rng.uniform(-5, 5, shape) if kind != "ties" else rng.integers(0, 3, shape)
    cost = (cost + (rng.uniform(0, 1000, (shape[0], 1)) if kind == "offset" else 0)).astype(np.float32)
    people = np.array(data.draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])))
    query = np.asarray(ASSIGN(jnp.asarray(cost), jnp.asarray(people)))
    assert (query[~people] == -1).all()
    chosen = np.flatnonzero(query >= 0)
    assert len(set(query[chosen])) == len(chosen) == min(people.sum(), shape[1])
    rows, columns = linear_sum_assignment(cost[people].astype(np.float64))
    best = cost[people].astype(np.float64)[rows, columns].sum()
    assert cost[chosen, query[chosen]].astype(np.float64).sum() == pytest.approx(best, abs=2e-3)


def test_padded_people_change_nothing():
    rng = np.random.default_rng(3)
    cost = rng.normal(size=(5, 20)).astype(np.float32)
    people = np.array([True, False, True, True, False])
    alone = ASSIGN(jnp.asarray(cost[people]), jnp.ones(3, bool))
    np.testing.assert_array_equal(np.asarray(ASSIGN(jnp.asarray(cost), jnp.asarray(people)))[people], alone)


# ------------------------------------------------------------------------------------------------ denoising


@pytest.mark.parametrize("case", ["aios", "box"])
def test_denoising_queries(case):
    """From the recorded draws; the recording's replaced labels stand in the order of their queries."""
    found = golden.under(f"{case}/", golden.arrays("masks_dn"))
    replaced = found["dn_label_u"] < 0.5
    label = np.zeros((2, 4), int)
    label[replaced] = found["dn_new_label"][: replaced.sum()]
    remainder = np.zeros((2, 4), int)
    remainder[0, 3] = found["dn_resid0"][0]
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0], boxes[1, :2] = found["dn_gt_boxes0"], found["dn_gt_boxes1"]
    draws = denoising.Draws(
        jnp.asarray(remainder), jnp.asarray(found["dn_label_u"]), jnp.asarray(label), jnp.asarray(found["dn_box_u"]),
        jnp.zeros((2, 4, 4)),
    )  # fmt: skip
    table = np.random.default_rng(0).normal(size=(101, 256)).astype(np.float32)
    people = jnp.array([[True, True, True], [True, True, False]])
    queries, clean = denoising.make(AiosConfig(), draws, jnp.asarray(table), people, jnp.asarray(boxes))
    assert max_abs(queries.reference, found["dn_refpoint_unsig"]) < 1e-5
    assert max_abs(clean.boxes, found["dn_known_boxes"]) < 1e-6
    np.testing.assert_array_equal(clean.labels, found["dn_known_labels"])
    np.testing.assert_array_equal(queries.content, table[np.where(replaced, label, 1)])
    # The recorded table is not there, but the recorded queries repeat where ours do.
    ours, theirs = (x.reshape(8, -1) for x in (np.asarray(queries.content), found["dn_query"]))
    np.testing.assert_array_equal(
        (ours[:, None] == ours).all(-1), np.isclose(theirs[:, None], theirs, atol=1e-6).all(-1)
    )
    np.testing.assert_array_equal(queries.group, [[0, 0, 0, 1], [0, 0, 1, 1]])


def test_people_need_not_come_first():
    """Targets in any order, gaps included: the same queries from the same draws."""
    config = AiosConfig(denoising=7)
    boxes = jax.random.uniform(jax.random.key(0), (1, 4, 4))
    people = jnp.array([[False, True, False, True]])
    draws = denoising.draw(jax.random.key(1), config, people)
    table = jax.random.normal(jax.random.key(2), (101, 8))
    got = denoising.make(config, draws, table, people, boxes)
    packed = denoising.make(config, draws, table, jnp.ones((1, 2), bool), boxes[:, jnp.array([1, 3])])
    jax.tree.map(np.testing.assert_array_equal, got, packed)
    np.testing.assert_array_equal(got[1].boxes[0, :2], boxes[0, jnp.array([1, 3])])


def test_an_image_without_people():
    config = AiosConfig(denoising=5)
    people = jnp.zeros((1, 3), bool)
    draws = denoising.draw(jax.random.key(0), config, people)
    queries, clean = denoising.make(config, draws, jnp.ones((101, 8)), people, jnp.zeros((1, 3, 4)))
    assert np.isfinite(queries.reference).all()
    assert not clean.real.any()
    assert (clean.labels == denoising.NOBODY).all()
