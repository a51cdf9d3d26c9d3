"""Which fits to trust: every check sees what it is for, and nothing else; what cannot be checked costs nothing."""

from __future__ import annotations

import dataclasses

import helpers
import nonsense
import numpy as np
import pytest
from fitted_people import make_fit

from annyfit_jax.distillation.fit_labels import trusted
from annyfit_jax.fit import trust
from annyfit_jax.fit.config import load_config
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.people import anatomy
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import NobodyToFit
from annyfit_jax.records.fit_files import SceneFit
from body_models import anny

PEOPLE = 3


def good(**changes) -> SceneFit:
    """Three plausible people side by side, 4 m away, with all cues agreeing; the third was not fitted."""
    stand = np.zeros((17, 3))
    stand[:, 1] = np.linspace(-0.8, 0.8, 17)
    stand[1::2, 0], stand[2::2, 0] = 0.15, -0.15
    transl = np.array([[-1.0, 0, 4], [1.0, 0, 4], [0, 0, np.nan]], np.float32)
    joints = stand + transl[:, None]
    pixels = np.nan_to_num(project(joints.astype(np.float64), make_fit().K.astype(np.float64)))
    fields = {
        "transl": transl,
        "pose": np.zeros((PEOPLE, 162, 3), np.float32),
        "shape": np.array(
            [[0.05, 0.66, 0.5, 0.5, 0.5, 0.5], [0.95, 0.33, 0.5, 0.5, 0.5, 0.5], [np.nan] * 6], np.float32
        ),
        "age_word": np.array([0.66, 0.33, -1], np.float32),
        "gender_word": np.array([0.0, 1.0, -1], np.float32),
        "depth_m": transl[:, 2],
        "height_m": np.array([1.7, 1.3, np.nan], np.float32),
        "reprojection_px": np.array([1.0, 1.0, np.nan], np.float32),
        "fitted_keypoints_3d": joints.astype(np.float32),
        "visible_depth_m": transl[:, 2] - np.float32(0.1),
        "depth_cue_m": (transl[:, 2] - 0.1) / np.float32(1.05),
        "depth_scale": np.array([1.05, 1.05, np.nan], np.float32),
        "sd_height_m": np.array([0.03, 0.03, np.nan], np.float32),
        "converged": np.array([1, 1, np.nan], np.float32),
        "spread_m": np.array([0.01, 0.01, np.nan], np.float32),
        "evidence": np.array([14.0, 14.0, np.nan], np.float32),
        "extent_px": np.array([220.0, 220.0, np.nan], np.float32),
        "keypoints_2d": np.concatenate([pixels, np.ones((PEOPLE, 17, 1))], -1).astype(np.float32),
    }
    return make_fit(**{**fields, **changes})


def with_first(name: str, value: float) -> SceneFit:
    array = np.array(getattr(good(), name))
    array[0] = value
    return good(**{name: array})


def bent_knees() -> SceneFit:
    limits = anatomy.joint_limits(anny.load())
    pose = np.zeros((PEOPLE, 162, 3), np.float32)
    where = int(np.argmax(limits.high))
    pose[0, limits.bones[where]] = limits.axes[where] * (limits.high[where] + 0.9)
    return good(pose=pose)


def ends() -> SceneFit:
    shape = good().shape
    shape[0, 2:] = [0.0, 1.0, 0.0, 0.5]
    return good(shape=shape)


def inside() -> SceneFit:
    joints = good().fitted_keypoints_3d
    joints[0] = joints[1] + np.float32(0.02)
    return good(fitted_keypoints_3d=joints)


def aged() -> SceneFit:
    shape = good().shape
    shape[0, 1] = 0.33
    return good(shape=shape)


def wrong_sex() -> SceneFit:
    shape = good().shape
    shape[0, 0] = 0.9
    return good(shape=shape)


def tall() -> SceneFit:
    shape = good().shape
    shape[0, 4] = 0.95
    return good(shape=shape)


def behind() -> SceneFit:
    joints = good().fitted_keypoints_3d
    joints[0, 16, 2] = -1.0
    return good(fitted_keypoints_3d=joints)


def small_head() -> SceneFit:
    seen = good().keypoints_2d
    seen[0, :5, :2] = seen[0, :5, :2].mean(0) + 0.5 * (seen[0, :5, :2] - seen[0, :5, :2].mean(0))
    return good(keypoints_2d=seen)


def wrong_metres() -> SceneFit:
    """The cues of the scene agree with each other, at twice the distance."""
    scale = np.array([0.5, 0.5, np.nan], np.float32)
    return good(depth_scale=scale, depth_cue_m=good().visible_depth_m / scale)


BAD = {
    "evidence": lambda: with_first("evidence", 2.0),
    "size": lambda: with_first("extent_px", 20.0),
    "cues": lambda: good(notes=np.array(["no_words;depth_beyond_any_place", "", ""])),
    "height": tall,
    "distance": lambda: with_first("depth_m", 100.0),
    "in_front": behind,
    "proportions": small_head,
    "scale": wrong_metres,
    "reprojection": lambda: with_first("reprojection_px", 30.0),
    "depth": lambda: with_first("depth_cue_m", 3.0),
    "age": aged,
    "gender": wrong_sex,
    "limits": bent_knees,
    "penetration": inside,
    "converged": lambda: with_first("converged", 0.0),
    "uncertainty": lambda: with_first("sd_height_m", 0.3),
    "alternatives": lambda: with_first("spread_m", 0.3),
}


def test_every_check_has_a_limit_and_a_field():
    checks = {f.name for f in dataclasses.fields(trust.Trust)} - {"fitted"}
    assert checks == set(trust.LIMITS) == set(BAD)


def test_good_people_are_trusted_and_missing_ones_are_not():
    found = trust.judge(good())
    assert (found.score[:2] > 0.8).all()
    assert found.score[2] == 0
    assert found.reasons() == [[], [], ["not fitted"]]


@pytest.mark.parametrize("name", BAD)
def test_a_check_sees_what_it_is_for(name):
    before, after = trust.judge(good()), trust.judge(BAD[name]())
    assert after.strains[name][0] > before.strains[name][0] + 0.3
    others = set(trust.LIMITS) - {name}
    # Whoever is moved or made small also changes what is measured by size or distance.
    others -= {
        "penetration": {"proportions"}, "size": {"reprojection"}, "in_front": {"proportions"},
        "age": {"height"}, "gender": {"height"},
    }.get(name, set())  # fmt: skip
    for other in others:
        np.testing.assert_allclose(after.strains[other][0], before.strains[other][0], atol=1e-5, err_msg=other)
    assert after.score[0] < before.score[0]
    if name not in ("penetration", "scale"):  # two people are in each other; a scene has one scale
        np.testing.assert_allclose(after.score[1], before.score[1])
    if after.strains[name][0] >= 1:
        assert name in after.reasons()[0]
        assert after.score[0] <= 0.5


def test_the_ends_of_the_shape_count():
    assert trust.judge(ends()).limits[0] == 3
    assert trust.judge(good()).limits[0] == 0


def test_what_cannot_be_checked_costs_nothing():
    """A first-order fit without words and without depth: most checks are blind."""
    blind = dict.fromkeys(
        ("depth_cue_m", "depth_scale", "visible_depth_m", "sd_height_m", "converged"),
        np.full(PEOPLE, np.nan, np.float32),
    )
    unknown = np.full(PEOPLE, -1.0, np.float32)
    found = trust.judge(good(**blind, age_word=unknown, gender_word=unknown))
    for name in ("depth", "scale", "age", "gender", "converged", "uncertainty"):
        assert np.isnan(getattr(found, name)).all(), name
        assert (found.strains[name] == 0).all()
    assert (found.score[:2] >= trust.judge(good()).score[:2]).all()


def test_without_a_scale_of_the_solver_depth_cues_are_compared_with_each_other():
    joints = np.repeat(good().fitted_keypoints_3d[:1], PEOPLE, 0)
    fit = good(
        depth_scale=np.full(PEOPLE, np.nan, np.float32), visible_depth_m=np.full(PEOPLE, np.nan, np.float32),
        depth_m=np.array([4.0, 5.0, 6.0], np.float32), depth_cue_m=np.array([2.0, 2.5, 4.5], np.float32),
        fitted_keypoints_3d=joints,
    )  # fmt: skip
    np.testing.assert_allclose(trust.judge(fit).depth, [0.0, 0.0, np.log(1.5)], atol=1e-6)


def test_neutral_words_say_nothing_of_gender():
    assert np.isnan(trust.judge(with_first("gender_word", 0.5)).gender[0])


def test_scores_are_between_zero_and_one_whatever_the_numbers():
    rng = np.random.default_rng(0)
    for _ in range(20):
        wild = {
            name: (rng.normal(size=np.shape(getattr(good(), name))) * 10.0 ** rng.integers(-3, 5)).astype(np.float32)
            for name in ("reprojection_px", "depth_cue_m", "shape", "pose", "sd_height_m", "height_m", "depth_m")
        }
        score = trust.judge(good(**wild)).score
        assert ((score >= 0) & (score <= 1)).all()


def test_fits_of_another_body_are_judged_by_what_they_share():
    fit = good(
        shape=np.zeros((PEOPLE, 10), np.float32), pose=np.zeros((PEOPLE, 54, 3), np.float32),
        phenotype_labels=np.array([f"beta{i}" for i in range(10)]),
    )  # fmt: skip
    found = trust.judge(fit)
    for name in ("age", "gender", "limits"):
        assert np.isnan(getattr(found, name)).all(), name
    assert (found.score[:2] > 0.5).all()


def test_the_stored_score_is_that_of_the_fit_and_older_fits_are_judged():
    stored = np.array([0.25, 0.75, np.nan], np.float32)
    np.testing.assert_array_equal(trust.scores(good(trust=stored)), [0.25, 0.75, 0.0])
    np.testing.assert_array_equal(trust.scores(good()), trust.judge(good()).score)


def test_fits_that_do_not_say_what_they_saw_are_judged_by_their_keypoints():
    unknown = dict.fromkeys(("evidence", "extent_px"), np.full(PEOPLE, np.nan, np.float32))
    seen = good().keypoints_2d
    seen[1, 1:, 2] = 0.0
    found = trust.judge(good(**unknown, keypoints_2d=seen))
    assert found.evidence[0] == pytest.approx((4 / 14) ** 2)
    assert found.evidence[1] == pytest.approx(16)
    assert found.score[0] > 0.8
    assert found.score[1] < 0.01


def test_the_seen_extent_measures_the_error_not_the_fitted_one():
    """A body as large as the picture for a person of 40 pixels: 12 pixels off are much."""
    huge = good().fitted_keypoints_3d * np.array([10, 10, 1], np.float32)
    small = np.array([40.0, 40.0, np.nan], np.float32)
    error = np.array([12.0, 12.0, np.nan], np.float32)
    found = trust.judge(good(fitted_keypoints_3d=huge, extent_px=small, reprojection_px=error))
    np.testing.assert_allclose(found.reprojection[:2], 0.3)


def test_an_error_counts_also_where_nothing_is_known_of_what_was_seen():
    unknown = dict.fromkeys(("evidence", "extent_px"), np.full(PEOPLE, np.nan, np.float32))
    fit = good(
        **unknown,
        keypoints_2d=np.zeros((PEOPLE, 17, 3), np.float32),
        reprojection_px=np.array([1000, 1, np.nan], np.float32),
    )
    found = trust.judge(fit)
    assert found.score[0] < 0.01
    assert found.score[1] > 0.8


def test_babies_are_not_thrown_away_for_an_uncertainty_that_is_small_in_metres():
    """A baby of 65 cm known to 10 % is more certain than an adult known to 10 %, and counts as a label."""
    height = np.array([0.65, 1.7, np.nan], np.float32)
    fit = good(height_m=height, sd_height_m=0.1 * height, sd_depth_m=np.array([0.4, 0.4, np.nan], np.float32))
    np.testing.assert_allclose(trust.judge(fit).uncertainty[:2], [0.065, 0.17], rtol=1e-5)
    assert trusted(trust.THRESHOLD)(fit).tolist() == [1.0, 0.0, 0.0]


# ------------------------------------------------------------------------------------------------ nonsense


@pytest.fixture(scope="module", params=["annyfit", "annyfit_plus"])
def fits(request) -> dict[str, SceneFit | str]:
    """Of every case the fit, or why its person was set aside."""
    config = load_config(helpers.REPO / "experiments" / "configs" / f"{request.param}.py")
    fitter = Fitter(dataclasses.replace(config, person_lengths=(32,)))
    out: dict[str, SceneFit | str] = {}
    ready = []
    for scene in nonsense.scenes():
        try:
            ready.append(fitter.prepare(scene))
        except NobodyToFit as error:
            (out[scene.name],) = error.reasons
    for batch in fitter.batches(iter(ready)):
        out |= {fit.name: fit for fit in fitter.fit_batch(batch)}
    return out


@pytest.mark.slow
def test_nonsense_is_not_trusted(fits):
    """The sane pictures of the same people are, so that the score does not merely distrust everybody."""
    assert set(fits) == {scene.name for scene in nonsense.scenes()}
    # A person whose fit failed, behind the camera say, has no trust and counts as 0.
    scores = {name: float(trust.scores(fit)[0]) for name, fit in fits.items() if not isinstance(fit, str)}
    sane = [name for name in fits if name.startswith("sane")]
    assert len(sane) >= 3
    assert all(scores[name] >= trust.THRESHOLD for name in sane), scores
    wrong = {name: score for name, score in scores.items() if name not in sane}
    assert all(score < trust.THRESHOLD for score in wrong.values()), wrong
    for name in ("only the nose", "all at one point", "five pixels tall"):
        assert fits[name] == "too_little_evidence"


@pytest.mark.slow
def test_trust_is_a_field_of_every_fit(fits):
    for fit in fits.values():
        if isinstance(fit, SceneFit):
            np.testing.assert_allclose(fit.trust[fit.ok], trust.judge(fit).score[fit.ok], rtol=1e-6)
            assert np.isfinite(fit.converged[fit.ok]).all()


@pytest.mark.slow
def test_a_nose_beside_somebody_is_set_aside_alone(fits):
    fit = fits["sane, beside a nose"]
    assert not isinstance(fit, str)
    assert fit.status.tolist() == ["ok", "skipped:too_little_evidence"]
    assert np.isnan(fit.trust[1])
    assert trust.scores(fit)[1] == 0
    assert np.isnan(fit.transl[1]).all()


@pytest.mark.slow
def test_a_start_supports_a_body_whose_unseen_parts_are_marked(fits):
    fit = fits["only the nose, with a start"]
    assert not isinstance(fit, str)
    assert fit.status.tolist() == ["ok"]
    assert fit.seen[0].tolist() == [1.0, *[0.0] * 16]


@pytest.mark.slow
def test_an_impossible_depth_lowers_trust(fits):
    assert fits["depth of 1e308"].trust[0] < fits["sane"].trust[0]
