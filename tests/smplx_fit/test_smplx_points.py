"""Named points of SMPL-X's surface, on the made body, which is Anny's surface: order, sides and distances."""

from __future__ import annotations

import dataclasses
import itertools

import laid_smplx
import numpy as np
import pytest
import smplx_synthetic

from annyfit_jax.inputs.point_sets import FACE, LEFT_HAND, POINT_SETS, PUPILS, RIGHT_HAND, WHOLE_BODY
from annyfit_jax.people.named_points import ALIASES, NamedPoints, named_points
from annyfit_jax.people.scene import COCO17
from annyfit_jax.smplx_fit import smplx_points
from annyfit_jax.smplx_fit.smplx_map_body import Laying
from body_models import smplx


@pytest.fixture(scope="module")
def laying(load_anny, made_file) -> Laying:
    return laid_smplx.made_laying(load_anny(), made_file)


def points_of(laying: Laying, model: smplx.SmplxModel | None = None) -> NamedPoints:
    return smplx_points.smplx_points(laying.laid, laying.anny_model, model or laying.model)


def places(points: NamedPoints, vertices: np.ndarray, heads: np.ndarray) -> np.ndarray:
    at = (points.vertex_weights[:, :, None] * vertices[points.vertices]).sum(1)
    return at + (points.bone_weights[:, :, None] * heads[points.bones]).sum(1)


def test_points_lie_where_annys_do(laying):
    points, named = points_of(laying), named_points(laying.anny_model.labels)
    laid = laying.laid
    own = places(points, laid.smplx, laid.smplx_joints)
    off = dict(zip(points.names, np.linalg.norm(own - places(named, laid.anny, laid.anny_heads), axis=1), strict=True))
    assert points.names == named.names and set(POINT_SETS["coco133"]) - set(COCO17) <= set(points.names)
    np.testing.assert_allclose(points.vertex_weights.sum(1) + points.bone_weights.sum(1), 1.0, atol=1e-6)
    # Joints of the two bodies are the same places here; the mesh has three quarters of Anny's vertices.
    assert max(off[name] for name in (*LEFT_HAND, *RIGHT_HAND)) < 0.006
    assert np.median([off[name] for name in FACE]) < 0.001 and max(off[name] for name in FACE) < 0.006
    assert max(off[name] for name in PUPILS) < 0.004


def test_the_numbers_of_the_template_are_used_where_they_lie_there(laying):
    points = points_of(laying)
    row = {name: i for i, name in enumerate(points.names)}
    for name, vertex in smplx_points.VERTICES.items():
        assert points.vertices[row[name]].tolist() == [vertex] * 3, name
    assert laying.model.landmarks is not None
    corners = laying.model.landmarks.corners
    np.testing.assert_array_equal(points.vertices[[row[name] for name in FACE]], corners)
    assert smplx.JOINTS[points.bones[row["left_index_2"]][0]] == "left_index2"
    assert smplx.JOINTS[points.bones[row["right_hand_root"]][0]] == "right_wrist"


def test_a_file_with_other_numbers_has_the_nearest_places(laying):
    there = places(points_of(laying), laying.laid.smplx, laying.laid.smplx_joints)
    mixed = np.random.default_rng(0).permutation(smplx.NUM_VERTICES)
    back = np.argsort(mixed)
    model = laying.model.replace(faces=back[np.asarray(laying.model.faces)], landmarks=None)
    laid = dataclasses.replace(laying.laid, smplx=laying.laid.smplx[mixed])
    other = smplx_points.smplx_points(laid, laying.anny_model, model)
    off = np.linalg.norm(places(other, laid.smplx, laid.smplx_joints) - there, axis=1)
    assert off.max() < 0.012 and np.median(off) < 0.002
    assert smplx_points.VERTICES["left_heel"] not in other.vertices[other.names.index("left_heel")]
    # Landmarks that lie anywhere are not believed.
    rng = np.random.default_rng(1)
    wrong = smplx.smplx_file.Landmarks(np.asarray(model.faces)[rng.integers(0, 20000, 68)], np.full((68, 3), 1 / 3))
    again = smplx_points.smplx_points(laid, laying.anny_model, model.replace(landmarks=wrong))
    np.testing.assert_array_equal(again.vertices, other.vertices)


def test_order_sides_and_distances(laying):
    """Ratios of anthropometry: hand .108 of body height, foot .152, eyes some 6 cm apart."""
    points, laid = points_of(laying), laying.laid
    at = dict(zip(points.names, places(points, laid.smplx, laid.smplx_joints), strict=True))
    height = np.ptp(laid.smplx[:, 1])
    middle = laid.smplx[:, 0].mean()
    for name, place in at.items():
        if name.startswith(("left", "right")):
            assert (place[0] > middle) == name.startswith("left"), name
    length = lambda a, b: float(np.linalg.norm(at[a] - at[b]))  # noqa: E731
    for side in ("left", "right"):
        for finger in ("index", "middle", "ring", "little"):
            chain = [length(f"{side}_hand_root", f"{side}_{finger}_{k}") for k in (1, 2, 3, "tip")]
            assert chain == sorted(chain) and 0.08 < chain[0] / height * 2 < 0.13
        chain = ["hand_root", *(f"middle_{k}" for k in (1, 2, 3, "tip"))]
        stretched = sum(length(f"{side}_{a}", f"{side}_{b}") for a, b in itertools.pairwise(chain))
        assert abs(stretched / height / 0.108 - 1.0) < 0.12
        assert abs(length(f"{side}_heel", f"{side}_big_toe") / height / 0.152 - 1.0) < 0.15
        assert length(f"{side}_thumb_tip", f"{side}_index_tip") < length(f"{side}_thumb_tip", f"{side}_little_tip")
    assert 0.05 < length("left_pupil", "right_pupil") < 0.075
    # iBUG: the contour runs from the person's right ear over the chin; nose above mouth above chin; 36 is right, 45 left.
    contour = np.array([at[f"face_{i}"] for i in range(17)])
    assert (np.diff(contour[1:16, 0]) > 0).all() and contour[:, 1].argmin() in (7, 8, 9)
    assert at["face_27"][1] > at["face_33"][1] > at["face_51"][1] > at["face_57"][1] > at["face_8"][1]
    assert at["face_36"][0] < at["face_39"][0] < middle < at["face_42"][0] < at["face_45"][0]


def test_every_set_of_points_has_its_places(laying):
    """OpenPose's and MediaPipe's points of feet, hands and face are these, some by other names."""
    known = {*points_of(laying).names, *COCO17}
    for name in ("coco133", "halpe136", "blazepose33", "body_25"):
        missing = {p for p in POINT_SETS[name] if ALIASES.get(p, p) not in known}
        assert missing <= {"neck", "pelvis", "head_top"}, name
    assert set(WHOLE_BODY) <= known


def test_made_up_files_fall_back(load_anny, tmp_path):
    laying = laid_smplx.laying(load_anny(), tmp_path)
    points = points_of(laying)
    rows = [points.names.index(name) for name in FACE]
    assert laying.model.landmarks is not None
    assert (points.vertices[rows] != laying.model.landmarks.corners).any()
    assert len(points) == len(named_points(laying.anny_model.labels)) and points.vertices.max() < smplx_synthetic.V
