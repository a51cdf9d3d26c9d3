"""Matching, losses and denoising of AiOS against recordings and live references. Tolerances: `test_aios_ops.py`."""

from __future__ import annotations

import functools

import aios_golden as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import max_abs

from annyfit_jax.regressors.aios import aios_losses
from annyfit_jax.regressors.aios.aios_config import LossConfig, loss_config
from annyfit_jax.regressors.aios.aios_losses import DenoisingTargets
from annyfit_jax.regressors.aios.aios_model import LayerOutput, Outputs
from annyfit_jax.regressors.aios.heads import BodyPrediction, PartRotations
from annyfit_jax.regressors.aios.targets import SMPLX_POINTS, BodyTargets, PartArrays, Targets

pytestmark = pytest.mark.unoptimised

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_weighted_sums(recorded_loss):
    found, value, _, _, loop = recorded_loss
    assert float(value) == pytest.approx(float(found["total"]), rel=1e-5)
    assert float(loop) == pytest.approx(float(found["total_engine"]), rel=1e-5)


@pytest.mark.slow
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
            if (
                key in table and term in aios_losses.WEIGHT_OF_TERM
            ):  # the recordings also call a person's box the body's
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
