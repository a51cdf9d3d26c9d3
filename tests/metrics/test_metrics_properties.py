"""What must hold of metrics for any input: invariances, bounds, agreement of variants where they must agree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from annyfit_jax import metrics
from annyfit_jax.metrics import bootstrap, greedy_matching

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=60, deadline=None)


def crowd(rng, people, joints=14):
    """(people, joints, 2) skeletons of about 100 px, about 300 px apart."""
    places = rng.uniform(0, 300 * max(people, 1), (people, 1, 2))
    return places + rng.normal(0, 40, (people, joints, 2))


# ------------------------------------------------------------------------------------------------ matching


@few
@given(seeds, st.integers(0, 5), st.integers(0, 5))
def test_matching_does_not_depend_on_the_order_of_people(seed, p, g):
    rng = np.random.default_rng(seed)
    truth, predicted = crowd(rng, g), crowd(rng, p)
    n = min(p, g)
    predicted[:n] = truth[:n] + rng.normal(0, 15, (n, 14, 2))
    labelled = rng.random((g, 14)) < 0.8
    labelled[:, 0] = True
    a, b = rng.permutation(p), rng.permutation(g)
    for match in (metrics.match_2d_greedy, metrics.match_people):
        found = match(predicted, truth, labelled)
        turned = match(predicted[a], truth[b], labelled[b])
        # The order in which pairs are found is that of their costs, also after the permutation.
        assert [(a[i], b[j]) for i, j in turned.pairs] == [tuple(pair) for pair in found.pairs]
        assert sorted(a[turned.false_positives]) == found.false_positives.tolist()
        assert sorted(b[turned.misses]) == found.misses.tolist()


@few
@given(seeds, st.integers(1, 5), st.floats(0.3, 4), st.floats(-500, 500))
def test_plain_matching_does_not_depend_on_the_resolution(seed, n, scale, offset):
    """Nearly: the boxes are a pixel too large, so overlaps are kept away from the threshold."""
    rng = np.random.default_rng(seed)
    truth = crowd(rng, n)
    predicted = (truth + rng.normal(0, 5, truth.shape))[rng.permutation(n)]
    found = metrics.match_people(predicted, truth)
    scaled = metrics.match_people(scale * predicted + offset, scale * truth + offset)
    assert found.pairs.tolist() == scaled.pairs.tolist()
    assert len(found.pairs) == n


@few
@given(seeds, st.integers(0, 6), st.integers(0, 6))
def test_every_one_is_matched_missed_or_extra_exactly_once(seed, p, g):
    rng = np.random.default_rng(seed)
    predicted, truth = crowd(rng, p), crowd(rng, g)
    counted = rng.random(g) < 0.7
    for match in (metrics.match_2d_greedy, metrics.match_people):
        pairs, extra, missed = match(predicted, truth, counted=counted)
        assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
        assert counted[pairs[:, 1]].all()
        assert sorted([*pairs[:, 1], *missed]) == np.flatnonzero(counted).tolist()
        everybody = [*pairs[:, 0], *extra]
        assert len(everybody) == len(set(everybody))
        if match is metrics.match_2d_greedy:
            assert sorted(everybody) == list(range(p))


@few
@given(seeds, st.integers(1, 5))
def test_well_separated_people_are_matched_as_the_best_assignment_does(seed, n):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 40, (n, 14, 2)) + 1000 * np.arange(n)[:, None, None]
    predicted = (truth + rng.normal(0, 10, truth.shape))[rng.permutation(n)]
    rows, columns = linear_sum_assignment(greedy_matching.pair_costs(predicted, truth, np.ones((n, 14), bool)))
    for match in (metrics.match_2d_greedy, metrics.match_people):
        assert sorted(match(predicted, truth).pairs.tolist()) == sorted(map(list, zip(rows, columns, strict=True)))


def test_far_pairs_use_up_the_budget_of_the_published_matching_alone():
    """Two predictions, two people, a pair of low overlap among the cheap ones: the second good pair is not visited."""
    base = np.array([[0.0, 0], [0, 100]])
    truth = np.stack([base, base + np.array([40, 0])])  # thin people side by side: no overlap, small costs
    predicted = np.stack([base + np.array([0.5, 0]), base + np.array([40, 45])])
    assert metrics.match_2d_greedy(predicted, truth).pairs.tolist() == [[0, 0]]
    assert metrics.match_people(predicted, truth).pairs.tolist() == [[0, 0], [1, 1]]


def test_an_unlabelled_joint_breaks_the_box_of_the_published_matching_alone():
    rng = np.random.default_rng(0)
    predicted = 2000 + rng.normal(0, 30, (1, 14, 2))
    truth, labelled = predicted.copy(), np.ones((1, 14), bool)
    truth[0, 3], labelled[0, 3] = -2.0, False
    assert len(metrics.match_2d_greedy(predicted, truth, labelled).pairs) == 0
    assert len(metrics.match_people(predicted, truth, labelled).pairs) == 1


def test_matching_refuses_arrays_that_do_not_belong_together():
    with pytest.raises(
        ValueError, match=r"match_2d_greedy: expected predictions \(p, J, 2\) .*\(2, 14, 2\), \(2, 13, 2\)"
    ):
        metrics.match_2d_greedy(np.zeros((2, 14, 2)), np.zeros((2, 13, 2)))
    with pytest.raises(ValueError, match=r"match_people: expected labelled \(2, 14\), got \(1, 14\)"):
        metrics.match_people(np.zeros((2, 14, 2)), np.zeros((2, 14, 2)), np.ones((1, 14), bool))


def test_rates_by_hand():
    # 10 people, 2 missed, 4 extra: TP 8, FN 2, FP 4.
    assert metrics.precision_recall_f1(10, 2, 4) == (0.67, 0.8, 0.73)
    assert metrics.detection_rates(10, 2, 4) == pytest.approx((2 / 3, 0.8, 8 / 11))
    assert metrics.precision_recall_f1(0, 0, 3) == (0, 0, 0)
    assert metrics.detection_rates(2, 2, 0) == (0, 0, 0)


# ------------------------------------------------------------------------------------------------ alignments


@few
@given(seeds, st.floats(0.05, 20), st.integers(4, 30))
def test_procrustes_is_invariant_to_a_similarity_of_the_prediction(seed, scale, points):
    rng = np.random.default_rng(seed)
    source, target = rng.normal(0, 1, (2, points, 3))
    moved = scale * source @ Rotation.from_quat(rng.normal(size=4)).as_matrix().T + rng.normal(0, 5, 3)
    np.testing.assert_allclose(
        metrics.similarity_align(moved, target), metrics.similarity_align(source, target), atol=1e-8
    )


@few
@given(seeds, st.floats(0.05, 20))
def test_procrustes_turns_and_scales_with_the_target(seed, scale):
    rng = np.random.default_rng(seed)
    source, target = rng.normal(0, 1, (2, 12, 3))
    turn, shift = Rotation.from_quat(rng.normal(size=4)).as_matrix(), rng.normal(0, 5, 3)
    moved = scale * target @ turn.T + shift
    expected = scale * metrics.similarity_align(source, target) @ turn.T + shift
    np.testing.assert_allclose(metrics.similarity_align(source, moved), expected, atol=1e-7 * scale)


@few
@given(seeds)
def test_procrustes_is_the_best_similarity(seed):
    """No small change of the aligned points by a similarity brings them nearer."""
    rng = np.random.default_rng(seed)
    source, target = rng.normal(0, 1, (2, 10, 3))
    aligned = metrics.similarity_align(source, target)
    best = ((aligned - target) ** 2).sum()
    for _ in range(5):
        turn = Rotation.from_rotvec(rng.normal(0, 0.05, 3)).as_matrix()
        nearby = rng.uniform(0.97, 1.03) * aligned @ turn.T + rng.normal(0, 0.02, 3)
        assert ((nearby - target) ** 2).sum() >= best - 1e-12


@few
@given(seeds, st.integers(1, 4))
def test_errors_do_not_grow_with_more_freedom(seed, people):
    """Summed squares: no alignment >= root >= similarity of the scene >= similarity per person."""
    rng = np.random.default_rng(seed)
    joints, truth = rng.normal(0, 1, (2, people, 17, 3))
    squares = lambda aligned: ((aligned - truth) ** 2).sum()  # noqa: E731
    scene = metrics.similarity_align(joints.reshape(-1, 3), truth.reshape(-1, 3)).reshape(truth.shape)
    person = metrics.similarity_align(joints, truth)
    assert squares(joints) >= squares(scene) - 1e-9 >= squares(person) - 2e-9
    assert squares(metrics.scale_align(joints, truth)) <= squares(joints) + 1e-9
    if people == 1:
        assert metrics.joint_pa_mpjpe(joints, truth) == pytest.approx(metrics.pa_mpjpe(joints, truth)[0], abs=1e-12)


def test_invisible_joints_pull_the_published_alignment_alone():
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 1, (1, 17, 3))
    joints, visible = 2 * truth + 1, np.ones((1, 17), bool)
    joints[0, 3] += 50
    visible[0, 3] = False
    assert metrics.mmpose_mpjpe(joints, truth, visible, "procrustes") > 0.1
    assert metrics.visible_pa_mpjpe(joints, truth, visible)[0] < 1e-9
    assert np.isnan(metrics.visible_pa_mpjpe(joints, truth, np.zeros((1, 17), bool))).all()


def test_pck_is_a_mean_over_joints():
    truth, joints = np.zeros((2, 3, 2)), np.zeros((2, 3, 2))
    joints[0, 0, 0], joints[1, 1, 0] = 5.0, 0.9
    visible = np.array([[True, True, False], [False, True, False]])
    # Joint 0: 0 of 1 right; joint 1: 2 of 2 right; joint 2 is nowhere labelled.
    assert metrics.pck(joints, truth, visible, np.ones(2), 1.0) == pytest.approx(0.5)
    assert np.isnan(metrics.pck(joints, truth, np.zeros((2, 3), bool), np.ones(2), 1.0))


# ------------------------------------------------------------------------------------------------ vertices


@few
@given(seeds, st.floats(0.1, 5))
def test_vertex_errors_ignore_what_they_should(seed, scale):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, (2, 40, 3))
    turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
    shift = rng.normal(0, 3, (2, 1, 3))
    assert metrics.pve(truth + shift, truth, truth[:, 0] + shift[:, 0], truth[:, 0]).max() < 1e-12
    assert metrics.pa_pve(scale * truth @ turn.T + 1, truth).max() < 1e-9
    part, use = np.arange(5, 15), np.zeros(40, bool)
    moved = truth[0].copy()
    moved[20:] += 9.0
    assert metrics.part_pve(moved, truth[0], part, np.zeros(3), np.zeros(3)) == 0.0
    use[5] = True
    moved[5] += [0.5, 0, 0]
    moved[6] += 7.0  # of the part, but it does not count
    assert metrics.part_pve(moved, truth[0], part, np.zeros(3), np.zeros(3), use) == pytest.approx(0.5)
    assert np.isnan(metrics.part_pa_pve(moved, truth[0], part, np.zeros(40, bool)))


def test_meshes_of_two_topologies_are_not_compared():
    anny, smplx = np.zeros((1, 13718, 3)), np.zeros((1, 10475, 3))
    with pytest.raises(metrics.TopologyError, match=r"the prediction is anny \(1, 13718, 3\), the truth smplx"):
        metrics.pa_pve(anny, smplx)
    with pytest.raises(metrics.TopologyError, match="compare joints"):
        metrics.pve(anny, smplx, np.zeros((1, 3)), np.zeros((1, 3)))


# ------------------------------------------------------------------------------------------------ order and classes

depths = hnp.arrays(np.float64, st.integers(0, 7), elements=st.floats(0.5, 20).map(lambda x: round(x, 2)))


@few
@given(depths, seeds)
def test_order_is_antisymmetric(depth, seed):
    """Mirroring all depths and all layers keeps every answer; mirroring the depths alone turns unequal pairs around."""
    rng = np.random.default_rng(seed)
    layer, age = rng.integers(-1, 4, len(depth)), rng.integers(-1, 4, len(depth))
    pairs = metrics.depth_pairs(depth, layer, age)
    top = layer.max(initial=0)
    mirrored = metrics.depth_pairs(-depth, np.where(layer >= 0, top - layer, -1), age)
    np.testing.assert_array_equal(mirrored.right, pairs.right)
    np.testing.assert_array_equal(mirrored.relation, -pairs.relation)
    turned = metrics.depth_pairs(-depth, layer, age)
    unequal = pairs.relation != 0
    assert not (turned.right & pairs.right)[unequal].any()
    np.testing.assert_array_equal(turned.right[~unequal], pairs.right[~unequal])


@few
@given(depths, seeds)
def test_order_does_not_depend_on_the_order_of_people(depth, seed):
    rng = np.random.default_rng(seed)
    layer, age = rng.integers(-1, 4, len(depth)), rng.integers(-1, 4, len(depth))
    turn = rng.permutation(len(depth))
    missed = rng.integers(-1, 4, 3)
    figures = metrics.pcrd(metrics.depth_pairs(depth, layer, age), missed)
    turned = metrics.pcrd(metrics.depth_pairs(depth[turn], layer[turn], age[turn]), missed)
    assert figures == pytest.approx(turned, nan_ok=True)
    assert all(np.isnan(x) or 0 <= x <= 1 for x in figures.values())


def test_a_missed_person_is_a_third_of_a_wrong_pair():
    pairs = metrics.depth_pairs(np.array([1.0, 2.0, 2.1]), np.array([0, 1, 1]), np.array([0, 2, 3]))
    assert pairs.right.all()
    figures = metrics.pcrd(pairs, np.array([2, -1]))
    assert figures["PCRD_0.2"] == pytest.approx(3 / 3.6)
    assert figures["PCRD_0.2_kid"] == pytest.approx(2 / 2.3)  # its own miss only
    assert figures["PCRD_0.2_baby"] == 1.0
    assert np.isnan(figures["PCRD_0.2_teen"])


@few
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=30))
def test_f1_by_counting(people):
    predicted, truth = np.array(people, int).reshape(-1, 2).T
    scores = metrics.class_f1(predicted, truth, 4)
    for label in range(4):
        pairs = [(p, t) for p, t in people if t >= 0]
        tp = sum(p == t == label for p, t in pairs)
        fp, fn = (sum(p == label != t for p, t in pairs), sum(t == label != p for p, t in pairs))
        assert scores[label] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0)


def test_classes_of_relative_human():
    age = np.array([0.0, 0.329, 0.33, 0.499, 0.5, 0.6599, 0.66, 1.0])
    assert metrics.relative_human_age(age).tolist() == [3, 3, 2, 2, 1, 1, 0, 0]
    assert metrics.relative_human_gender(np.array([0.0, 0.5, 0.51])).tolist() == [0, 0, 1]
    np.testing.assert_allclose(
        metrics.age_years(np.array([0.0, 0.05, 0.1325, 0.77, 1.0, 1.2])), [0, 1, 2.5, 18, 110, 110]
    )


# ------------------------------------------------------------------------------------------------ intervals


def mean(scenes):
    return {"mean": float(np.mean([x for scene in scenes for x in scene])), "nan": float("nan")}


def test_intervals_cover_the_mean_and_are_repeatable():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(60):
        scenes = [rng.normal(1.0, 1.0, 3) for _ in range(40)]
        low, high = bootstrap.intervals({"fit": scenes}, mean, rounds=200, seed=trial)["fit"]["mean"]
        hits += low <= 1.0 <= high
    assert 50 <= hits <= 60  # 95 % of 60 is 57; binomial sd 1.7
    again = [bootstrap.intervals({"fit": [[1.0], [2.0], [4.0]]}, mean, rounds=50, seed=3) for _ in range(2)]
    assert str(again[0]) == str(again[1])
    assert np.isnan(again[0]["fit"]["nan"]).all()


def test_intervals_keep_the_people_of_a_scene_together():
    """Ten equal people in each of four scenes say no more than four people."""
    few_people = [[float(i)] for i in range(4)]
    many = [[float(i)] * 10 for i in range(4)]
    a, b = (bootstrap.intervals({"fit": x}, mean, rounds=300)["fit"]["mean"] for x in (few_people, many))
    assert a == b


def test_difference_is_paired():
    """Column b is a + 1 in every scene: the difference has no spread although the columns have."""
    a = [[float(i * i)] for i in range(8)]
    found = bootstrap.intervals({"init": a, "fit": [[x[0] + 1] for x in a]}, mean, rounds=100)
    assert found["fit - init"]["mean"] == pytest.approx((1.0, 1.0))
    assert np.ptp(found["init"]["mean"]) > 5
    for bad in ({"rounds": 1}, {"rounds": 10, "level": 1.0}):
        with pytest.raises(ValueError, match="rounds >= 2 and a level"):
            bootstrap.intervals({"fit": a}, mean, **bad)
    with pytest.raises(ValueError, match="columns over the same scenes"):
        bootstrap.intervals({"init": a, "fit": a[:2]}, mean, rounds=10)


def test_every_protocol_refuses_to_pool_nothing():
    from annyfit_jax.metrics import agora_scores, panoptic_scores, relative_human_scores, smplx_sets

    for pool in (
        metrics.pool,
        metrics.pool_labelled,
        agora_scores.pool,
        panoptic_scores.pool,
        relative_human_scores.pool,
        smplx_sets.pool,
    ):
        with pytest.raises(ValueError, match="at least one"):
            pool([])


def test_joint_sets_name_every_joint_once():
    from annyfit_jax.metrics import skeletons

    sets = [getattr(skeletons, name) for name in ("ANNY", "RH14", "LSP14", "PANOPTIC19", "SMPL24", "LIMBS12")]
    assert [len(x) for x in sets] == [21, 14, 14, 19, 24, 12]
    assert all(len(set(x)) == len(x) for x in sets)
    for ours, theirs in itertools.product([skeletons.ANNY], sets[1:]):
        assert set(skeletons.shared(ours, theirs)) >= set(skeletons.LIMBS12)
    # The helper of the Anny-Fit repository that maps Panoptic's 19 points to COCO-17.
    mapping = [1, 15, 17, 16, 18, 3, 9, 4, 10, 5, 11, 6, 12, 7, 13, 8, 14]
    points = np.arange(19.0)[:, None]
    assert skeletons.pick(points, skeletons.PANOPTIC19, skeletons.COCO17)[:, 0].tolist() == mapping
    with pytest.raises(ValueError, match="expected head_top among"):
        skeletons.pick(points, skeletons.PANOPTIC19, ("nose", "head_top"))
