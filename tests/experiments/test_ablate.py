"""The ablation: rows see the cues they name, figures are those of the metrics, verdicts follow from the intervals."""

from __future__ import annotations

import dataclasses

import fake_job
import numpy as np
import pytest
from fit_cases import short_config

from annyfit_jax import metrics
from annyfit_jax.fit.fitter import Fitter
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import Scene
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.records.settings import apply_overrides
from annyfit_jax.synthetic import Generator, Recipe
from annyfit_jax.truth import ablation, ablation_report
from annyfit_jax.truth.ablation import ROWS, Row, SceneSet
from annyfit_jax.truth.scene_evaluation import synthetic_errors

pytestmark = pytest.mark.unoptimised


@pytest.fixture(scope="module")
def scenes(load_anny) -> list[Scene]:
    return list(Generator(Recipe(5, (1, 2, 3)), load_anny()).scenes(range(6)))


class Told(Fitter):
    """Answers the truth as far as the cues of a row go: its shape with words, its place with depth; else the start's."""

    asked: list[Scene] = []  # noqa: RUF012 (the record of one test, cleared by it)

    def __init__(self, config, model) -> None:
        self.config = config

    def fit(self, scenes):
        for scene in scenes:
            Told.asked.append(scene)
            yield told(scene)


def told(scene: Scene) -> SceneFit:
    truth, start, n = scene.truth, scene.start, len(scene)
    assert truth is not None
    assert start is not None
    words, depth = scene.age[0] >= 0 or scene.gender[0] >= 0, np.isfinite(scene.median_depth[0])
    parameters = {
        "root_rotvec": truth.root_rotvec, "pose": truth.pose,
        "shape": truth.shape if words else start.shape, "transl": truth.transl if depth else start.transl,
    }  # fmt: skip
    fit = fake_job.fake_fit(scene)
    return dataclasses.replace(fit, **parameters, status=np.full(n, "ok"), depth_m=parameters["transl"][:, 2])


@pytest.fixture
def report(scenes, monkeypatch) -> dict:
    monkeypatch.setattr(ablation, "Fitter", Told)
    Told.asked.clear()
    known = [s for s in scenes if s.age[0] >= 0 or s.gender[0] >= 0]
    sets = [SceneSet("made, adult-biased", "adult-biased", {1: known[:3], 2: known[3:]}, {"Init": {"err2d_px": 12.5}})]
    made = ablation.ablate(sets, short_config(), ROWS, rounds=40)
    return {**made, "config": "c.py", "command": "ablate"}


@pytest.mark.slow
def test_rows_see_the_cues_they_name(report, scenes):
    count = len(Told.asked) // len(ROWS)
    for row, first in zip(ROWS, range(0, len(Told.asked), count)):
        for scene in Told.asked[first : first + count]:
            assert np.isfinite(scene.median_depth).any() == row.depth
            assert (scene.age >= 0).any() or (scene.gender >= 0).any() if row.words else (scene.age < 0).all()
            assert (scene.depth_layer == -1).all()
            assert scene.keypoints.any()
    assert any(np.isfinite(scene.median_depth).any() for scene in scenes)  # the scenes themselves are untouched


def test_figures_are_those_of_the_metrics(report, scenes, load_anny):
    """Init is the start as it comes; a row that knows everything has no error; bounds hold the value; seeds are kept apart."""
    found = report["sets"]["made, adult-biased"]
    meshes = BodyMeshes(load_anny())
    known = [s for s in scenes if s.age[0] >= 0 or s.gender[0] >= 0]
    by_hand = metrics.pool([synthetic_errors(s, np.arange(len(s)), s.start, meshes) for s in known])
    assert found["pooled"]["Init"] == pytest.approx(by_hand, nan_ok=True)
    assert found["pooled"]["+O+S+D"]["mpjpe_abs"] == pytest.approx(0, abs=0.2)
    assert found["pooled"]["+O+S+D"]["age_acc"] == 1.0
    assert found["pooled"]["+O+D"]["depth_abs_err"] == pytest.approx(0, abs=1e-5)
    assert found["pooled"]["+O+S"]["depth_abs_err"] == pytest.approx(by_hand["depth_abs_err"])
    assert set(found["per_seed"]["+O"]) == {"1", "2"}
    assert sum(found["per_seed"]["+O"][seed]["people"] for seed in "12") == by_hand["people"]
    for name, values in found["pooled"].items():
        low, high = found["intervals"][name]["mpjpe_root"]
        assert low <= values["mpjpe_root"] + 1e-9 and values["mpjpe_root"] - 1e-9 <= high


def test_claims_are_judged_by_paired_intervals(report):
    claims = {c["claim"]: c for c in report["sets"]["made, adult-biased"]["pattern"]}
    age = claims["words give the age"]
    assert age["change"] > 0.3
    assert ablation_report.verdict("age_f1", *age["interval"]) == "yes"
    body = claims["words make the body right"]
    assert body["interval"][0] <= body["change"] <= body["interval"][1] < 0
    assert ablation_report.verdict("mpjpe_root", *body["interval"]) == "yes"
    assert claims["depth costs no pose beside words"]["change"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("metric", "low", "high", "expected"),
    [("mpjpe_root", -3, -1, "yes"), ("mpjpe_root", 1, 3, "no"), ("mpjpe_root", -1, 3, "open"), ("pcrd02", 0.1, 0.2, "yes"),
     ("pcrd02", -0.2, -0.1, "no"), ("pcrd02", float("nan"), float("nan"), "open")],
)  # fmt: skip
def test_verdicts(metric, low, high, expected):
    assert ablation_report.verdict(metric, low, high) == expected


def test_the_table_shows_every_row_and_the_reference(report):
    text = ablation_report.markdown(report)
    for row in ("Init", "Init (ref)", "+O", "+O+S", "+O+D", "+O+S+D"):
        line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
        assert line.count("|") == len(ablation_report.COLUMNS) + 2
    assert "| Init (ref) | 12.5 | n.a. |" in text
    assert "65.4 | 78.8" in text


def test_the_reading_is_kept(tmp_path):
    file = tmp_path / "ablation.md"
    assert ablation_report.kept_reading(file) == ""
    file.write_text("# Ablation\n\ntable\n\n## Reading\n\nDepth pulls.\n")
    assert ablation_report.kept_reading(file) == "\n## Reading\n\nDepth pulls.\n"


def test_rows_and_worlds_are_checked():
    row = ablation.parse_row("no limits: map.joint_limits=false map.contact_sd_m=0.1")
    assert row == Row("no limits", overrides=("map.joint_limits=false", "map.contact_sd_m=0.1"))
    for text in ("no limits", ": map.joint_limits=false", "name:"):
        with pytest.raises(ValueError, match="--row"):
            ablation.parse_row(text)
    with pytest.raises(ValueError, match="moon"):
        ablation.scene_sets(["moon"], [1], 1, (1,), "")
    assert ablation.scene_sets([], [1], 1, (1,), "") == []


@pytest.mark.slow
def test_taking_a_cue_away_is_switching_its_term_off(scenes, load_anny):
    """The released schedule, shortened: the same fit from scenes without cues and from a config without their terms."""
    config = dataclasses.replace(short_config(), person_lengths=(8,))
    off = ["words_set_start=false", *(f"stages.{s.name}.weights.words=0" for s in config.stages)]
    off += [f"stages.{s.name}.weights.depth_order=0" for s in config.stages if "depth_order" in s.weights]
    several = [scene for scene in scenes if len(scene) > 1][:2]
    stripped = Fitter(config, load_anny()).fit([ablation.without_cues(s, ROWS[0]) for s in several])
    switched = Fitter(apply_overrides(config, off), load_anny()).fit(several)
    everything = Fitter(config, load_anny()).fit(several)
    for a, b, c in zip(stripped, switched, everything, strict=True):
        for name in ("root_rotvec", "transl", "pose", "shape"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-5)
        assert np.abs(a.shape - c.shape).max() > 0.05
