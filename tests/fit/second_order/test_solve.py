"""Second-order fits from end to end: against the first-order solver, on every kind of scene, alone and among others."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import fit_cases
import jax
import numpy as np
import pytest
from second_order_cases import no_starter, on_device, plus_config, scene

from annyfit_jax.fit import adam as solver
from annyfit_jax.fit import fitter as fitting
from annyfit_jax.fit.fit_body import anny_body
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.fit.second_order import prepare_body, released
from annyfit_jax.people.scene import Scene
from annyfit_jax.records import fit_files
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.records.settings import apply_overrides
from body_models import anny

pytestmark = [pytest.mark.slow, pytest.mark.unoptimised]

LENGTH = 32
ADDED = tuple(fit_files.ADDED)
PARAMETERS = ("transl", "root_rotvec", "pose", "shape", "height_m", "sd_depth_m", "sd_height_m", "sd_joints_m")

# ------------------------------------------------------------------------------------------------ the released objective


@pytest.fixture(scope="module")
def last_stage():
    """Energies per person of the released last stage before every second-order iteration, and after 400 steps of Adam."""
    config = apply_overrides(
        fit_cases.released_config(),
        ["solver=lm", "lm.objective=released", "lm.rounds=1", "lm.iterations=15", "stages.pose.steps=400"],
    )
    stage, model = config.stages[-1], anny.load()
    body = anny_body(model, config)
    second = prepare_body(model, body, config)
    assert isinstance(second, released.ReleasedBody)
    problem, start = on_device([scene(index) for index in range(4)], config, 12)
    adam = solver.fit_batch(config, body, problem.problem, start)

    def both(second, problem, start, end):
        outcome = released.last_stage(config, stage, second, problem, start)
        return outcome.energies, released.energy_of(config, stage, second, problem, start, end)

    energies, of_adam = jax.jit(both)(second, problem.problem, adam.stage_variables[1], adam.variables)
    return np.asarray(energies), np.asarray(of_adam), adam


def test_the_energy_is_that_of_the_first_order_solver(last_stage):
    energies, _, adam = last_stage
    summed = sum(float(np.asarray(curve)[0].sum()) for curve in adam.losses[-1].values())
    assert energies[0].sum() == pytest.approx(summed, rel=1e-5)


def test_a_few_iterations_do_what_four_hundred_steps_do(last_stage):
    energies, of_adam, _ = last_stage
    assert energies[8].mean() <= of_adam.mean()
    assert (energies[15] <= of_adam * (1 + 1e-3)).all()
    assert (np.diff(energies, axis=0) <= 1e-5 * energies[:-1]).all()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.pose.weights.depth_order=1", r"weighs \['depth_order'\]; .*released.* solves stages of"),
        ("stages.pose.lr={'transl': 0.1}", r"moves .*, the stage only \{'transl'\}"),
    ],
)
def test_a_stage_that_it_cannot_solve_is_refused(override, message):
    config = apply_overrides(fit_cases.released_config(), ["solver=lm", "lm.objective=released", override])
    with pytest.raises(ValueError, match=message):
        released.check(config.stages[-1])


def test_the_exact_mesh_is_refused(fitter):
    layout = dataclasses.replace(fitter.body.layout, vertices=anny.vertices_people_last)
    with pytest.raises(ValueError, match="needs the sampled mesh regulariser"):
        released.released_body(fitter.model, fitter.body.replace(layout=layout))


# ------------------------------------------------------------------------------------------------ every kind of scene


@pytest.fixture(scope="module")
def fitter() -> Fitter:
    """One device, one length: one program for all scenes of this file."""
    made = Fitter(plus_config(f"person_lengths=[{LENGTH}]"), anny.load(), jax.devices()[:1])
    made.starter = no_starter
    return made


def crowd(count: int) -> Scene:
    """The five people of a scene over and over, all at the same places: none of them has room."""
    one = scene(3)
    index = np.arange(count) % len(one)
    assert one.start is not None
    names = ("keypoints", "dense_keypoints", "median_depth", "depth_layer", "age", "gender")
    return dataclasses.replace(
        one, name="crowd", start=one.start.select(index), **{n: getattr(one, n)[index] for n in names}
    )


def variants() -> dict[str, Scene]:
    """Scenes that lack something."""
    three, five = scene(1), scene(3)
    nobody = np.full(5, -1.0)
    return {
        "one person": scene(0),
        "all cues": three,
        "no dense points": dataclasses.replace(five, dense_keypoints=np.zeros_like(five.dense_keypoints)),
        "no metric depth": dataclasses.replace(five, median_depth=np.full(5, np.nan)),
        "layers": dataclasses.replace(five, median_depth=np.full(5, np.nan), depth_layer=np.array([1, 0, 1, -1, 1])),
        "no words": dataclasses.replace(five, age=nobody, gender=nobody),
        "only keypoints": dataclasses.replace(
            five, dense_keypoints=np.zeros_like(five.dense_keypoints), median_depth=np.full(5, np.nan), age=nobody,
            gender=nobody,
        ),
        "depth of one": dataclasses.replace(five, median_depth=np.array([4.4, *[np.nan] * 4])),
    }  # fmt: skip


@pytest.fixture(scope="module")
def fits(fitter) -> dict[str, SceneFit]:
    found = variants()
    for name, one in found.items():
        one.name = name
    return dict(zip(found, fitter.fit(found.values()), strict=True))


@pytest.mark.parametrize("name", variants())
def test_every_kind_of_scene_is_fitted(fits, name):
    fit = fits[name]
    assert (fit.status == "ok").all()
    for field in PARAMETERS:
        assert np.isfinite(getattr(fit, field)).all(), field
    assert (fit.reprojection_px < fit.start_reprojection_px).all()
    assert (fit.reprojection_px < 0.03 * fit.image_size.max()).all()
    assert ((fit.shape >= 0) & (fit.shape <= 1)).all()
    assert (fit.sd_depth_m > 0.005).all() and (fit.sd_depth_m < 3).all()
    assert (fit.sd_height_m > 0.001).all() and (fit.sd_height_m < 0.6).all()
    assert np.isin(fit.converged, (0.0, 1.0)).all()


def test_what_a_scene_lacks_makes_it_less_certain(fits):
    five = fits["no words"]
    assert (fits["only keypoints"].sd_depth_m > five.sd_depth_m).all()
    assert fits["only keypoints"].sd_joints_m.mean() > 1.5 * fits["no dense points"].sd_joints_m.mean()
    assert (fits["no metric depth"].sd_depth_m.mean()) > five.sd_depth_m.mean()


def test_the_scale_of_depth_is_known_where_there_is_metric_depth(fits):
    for name, fit in fits.items():
        if name in ("no metric depth", "layers", "only keypoints"):
            assert np.isnan(fit.depth_scale).all(), name
        else:
            assert len(np.unique(fit.depth_scale)) == 1 and 0.7 < fit.depth_scale[0] < 1.4, name
            expected = fit.depth_cue_m * fit.depth_scale
            known = np.isfinite(expected)
            # Their noise is estimated as well: a lone person's cue that contradicts the size is followed less.
            np.testing.assert_allclose(fit.visible_depth_m[known], expected[known], rtol=0.2, err_msg=name)


# ------------------------------------------------------------------------------------------------ alone and among others


def assert_alike(one: SceneFit, other: SceneFit, people=slice(None)) -> None:
    for field in (*PARAMETERS, "visible_depth_m"):
        np.testing.assert_allclose(
            getattr(one, field)[people], getattr(other, field)[people], rtol=2e-3, atol=2e-3, err_msg=field
        )


def test_a_fit_depends_on_no_other_scene_and_no_order(fitter, fits):
    """Other neighbours in the batch, another place in it, more padding."""
    found = variants()
    for name in ("all cues", "one person"):
        found[name].name = name
    alone = next(iter(fitter.fit([found["all cues"]])))
    assert_alike(alone, fits["all cues"])
    last, first = fitter.fit([crowd(20), found["one person"]])
    assert_alike(first, fits["one person"])
    assert len(last) == 20


def test_the_order_of_people_is_of_no_account(fitter, fits):
    one = variants()["no words"]
    order = np.array([3, 0, 4, 2, 1])
    assert one.start is not None
    names = ("keypoints", "dense_keypoints", "median_depth", "depth_layer", "age", "gender")
    turned = dataclasses.replace(
        one, start=one.start.select(order), **{n: getattr(one, n)[order] for n in names}
    )  # fmt: skip
    fit = next(iter(fitter.fit([turned])))
    for field in ("transl", "shape", "sd_depth_m"):
        np.testing.assert_allclose(
            getattr(fit, field), getattr(fits["no words"], field)[order], rtol=3e-3, atol=3e-3, err_msg=field
        )


def test_a_crowd_is_fitted(fitter):
    fit = next(iter(fitter.fit([crowd(25)])))
    assert (fit.status == "ok").all()
    assert np.isfinite(fit.transl).all() and np.isfinite(fit.sd_depth_m).all()


ABSURD = {
    "depth": {"median_depth": np.array([1e4, 1e-3, 3.0])},
    "words": {"age": np.array([0.999, 0.0, 0.999]), "gender": np.array([0.0, 1.0, 0.0])},
    "points in one place": {"dense_keypoints": np.tile([320.0, 240.0, 1.0], (3, 138, 1))},
    "points far outside": {"keypoints": np.tile([1e5, -1e5, 1.0], (3, 17, 1))},
    "certain nonsense": {
        "keypoints": np.random.default_rng(0).uniform(0, 640, (3, 17, 3)) * [1, 0.7, 1 / 640],
        "dense_keypoints": np.random.default_rng(1).uniform(0, 640, (3, 138, 3)) * [1, 0.7, 1 / 640],
    },
    "an unlikely camera": {"intrinsics": np.array([[20.0, 0, 900], [0, 9000.0, 9], [0, 0, 1]])},
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_cues_give_numbers_and_hurt_nobody_else(fitter, fits, name):
    bad = scene(1, name="absurd", **ABSURD[name])
    good = variants()["one person"]
    ugly, fine = fitter.fit([bad, good])
    assert np.isfinite(ugly.transl).all() and np.isfinite(ugly.pose).all()
    assert (ugly.transl[:, 2] > 0).all()
    assert_alike(fine, fits["one person"])


# ------------------------------------------------------------------------------------------------ stored


def test_what_the_second_order_solver_knows_is_stored(tmp_path, fits):
    for name, fit in fits.items():
        path = tmp_path / f"{name}.npz"
        fit_files.save(fit, path)
        back = fit_files.load(path)
        for field in ADDED:
            np.testing.assert_array_equal(getattr(back, field), getattr(fit, field), err_msg=field)


def test_a_file_of_an_older_version_is_read_without_it(tmp_path, fits):
    path = tmp_path / "old.npz"
    fit_files.save(fits["all cues"], path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in ADDED}
    np.savez(path, **{**arrays, "format_version": np.array(1)})
    back = fit_files.load(path)
    assert back.sd_joints_m.shape == (3, 17)
    blanks = {field: getattr(back, field) for field in ADDED}
    assert blanks.pop("lens") == ""
    assert all(np.isnan(blank).all() for blank in blanks.values())
    np.testing.assert_array_equal(back.transl, fits["all cues"].transl)


def test_first_order_fits_know_only_whether_they_had_converged(last_stage):
    found = fitting._added(last_stage[2], slice(0, 2), np.asarray, 1.0)
    assert set(found) == {"converged"}
    np.testing.assert_array_equal(found["converged"], [1.0, 1.0])


def test_a_body_without_phenotypes_is_refused(fitter):
    other = SimpleNamespace(labels=SimpleNamespace(phenotypes=("beta0", "beta1")))
    with pytest.raises(ValueError, match="six-phenotype Anny"):
        prepare_body(other, fitter.body, fitter.config)  # pyright: ignore[reportArgumentType]
