"""Distillation: labels in the form of fits, who counts, the report's arithmetic, and all steps on a few small scenes."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from fake_job import FakeFitter
from fake_job import run as run_job
from helpers import REPO
from PIL import Image

from annyfit_jax import metrics
from annyfit_jax.distillation import distillation_report, fit_labels
from annyfit_jax.distillation import distillation_steps as program
from annyfit_jax.distillation.distillation_config import DistillConfig, Labels, Scenes, Student, load_config
from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.exports.training_set import FitRecords
from annyfit_jax.fit.config import load_config as load_fit_config
from annyfit_jax.inputs import cue_dataset
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.records.fit_files import FitFileError, SceneFit
from annyfit_jax.records.settings import table
from annyfit_jax.regressors.multihmr.multihmr_config import HeadConfig, MultiHmrConfig
from annyfit_jax.regressors.multihmr.multihmr_feed import FitSet, MultiHmrFeed, certainty
from annyfit_jax.regressors.multihmr.multihmr_regressor import MultiHmrRegressor
from annyfit_jax.regressors.vit import VitConfig
from annyfit_jax.synthetic import population
from annyfit_jax.synthetic.world import World, jpeg
from annyfit_jax.synthetic.world_config import CameraConfig, PeopleConfig, WorldConfig
from annyfit_jax.training.training_config import OptimiserConfig, TrainConfig
from experiments.program import find_config
from experts.start_predictor import PeoplePredictor

pytestmark = pytest.mark.unoptimised

COUNT = 4
LOW = 0.02
"""A threshold that only people with senseless fits are below; some of the world stand at the limit of their joints."""
SIDE = 56
CONFIGS = REPO / "experiments" / "configs"


def world_config() -> WorldConfig:
    return WorldConfig(
        people=PeopleConfig(groups=table(family=1.0), max_people=2),
        camera=CameraConfig(image_sizes=((64, 64),), min_pixels=4),
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A cue dataset of small rendered families."""
    folder = tmp_path_factory.mktemp("scenes") / "cues"
    world = World(3, world_config())
    cue_dataset.write(folder, cue_dataset.Plan(COUNT, world.fingerprint(), 2), world.scenes, photo=jpeg)
    return folder


@pytest.fixture(scope="module")
def meshes() -> BodyMeshes:
    return BodyMeshes()


def config(scenes: Path, **changes: Any) -> DistillConfig:
    network = MultiHmrConfig(
        size=SIDE, vit=VitConfig(16, 1, 2, table=4), head=HeadConfig(16, 1, 2, 8, 16), max_people=3
    )
    feed = MultiHmrFeed((FitSet("labels", 0.5), FitSet("synthetic", 0.5)), side=SIDE, max_people=3)
    train = TrainConfig(
        regressor=MultiHmrRegressor(network), feed=feed, optimiser=OptimiserConfig(lr=1e-3, ema=0.5), steps=2, batch=4,
        log_every=1, reader_threads=1,
    )  # fmt: skip
    known = Scenes(path=str(scenes))
    made = DistillConfig(
        train=train,
        teacher=dataclasses.replace(train, feed=dataclasses.replace(feed, sets=(FitSet("synthetic", 1.0),))),
        synthetic=known, stream=known, held_out=known,
        labels=(Labels("fits", threshold=LOW), Labels("raw", source="teacher"), Labels("truth", source="truth")),
        students=(Student("fits", "fits"), Student("truth", "truth", title="ceiling")),
        ceiling="truth", main="fits", batch=3, bootstrap=5,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


# ------------------------------------------------------------------------------------------------ config


@pytest.mark.parametrize("name", ["distill", "distill_tiny"])
def test_shipped_configs_hang_together(name):
    made = load_config(CONFIGS / f"{name}.py", ["stream.path=somewhere", "train.steps=7"])
    assert (made.stream.path, made.train.steps) == ("somewhere", 7)
    for train in (made.train, made.teacher):
        assert isinstance(train.regressor, MultiHmrRegressor)
        assert isinstance(train.feed, MultiHmrFeed)
        assert train.feed.side == train.regressor.config.size
    assert made.train.regressor == made.teacher.regressor, "students start from the teacher's weights"
    assert isinstance(made.train.feed, MultiHmrFeed)
    assert [part.name for part in made.train.feed.sets] == ["labels", "synthetic"]
    for entry in made.labels:
        if entry.source == "fits":
            load_fit_config(find_config(entry.config))


@pytest.mark.slow
def test_a_config_that_does_not_hang_together_says_what_is_missing(scenes):
    with pytest.raises(ValueError, match=r"students\.a\.labels: no labels 'gold'; there are"):
        config(scenes, students=(Student("a", "gold"),), ceiling="", main="")
    with pytest.raises(ValueError, match="ceiling: no student 'best'"):
        config(scenes, ceiling="best")
    with pytest.raises(ValueError, match="names of their own"):
        config(scenes, students=(Student("a", "fits"), Student("a", "raw")), ceiling="", main="")
    with pytest.raises(ValueError, match=r"labels.x.cues: expected some of .*words.*got"):
        Labels("x", cues=("masks",))


def test_the_world_of_adults_has_nobody_young():
    rng = np.random.default_rng(0)
    groups = [population.draw_people(rng, PeopleConfig(groups=table(adults=1.0))) for _ in range(200)]
    years = np.concatenate([group.years for group in groups])
    assert years.min() >= 18
    assert years.max() <= 64
    assert {len(group) for group in groups} == {1, 2, 3}


# ------------------------------------------------------------------------------------------------ labels


def test_stated_people_are_those_of_the_dataset(scenes, meshes):
    source, stated = fit_labels.open_scenes(scenes), fit_labels.StatedPeople(scenes, "truth", meshes)
    assert stated.names == source.names
    for index, outcome in enumerate(stated.outcomes()):
        scene, fit = source.load(index), outcome.fit
        assert outcome.index == index
        assert scene.truth is not None
        np.testing.assert_array_equal(fit.transl, scene.truth.transl.astype(np.float32))
        np.testing.assert_allclose(fit.fitted_keypoints_3d, scene.extra["gt_coco3d"], atol=1e-4)
        np.testing.assert_allclose(fit.height_m, scene.extra["gt_body_height"], atol=2e-3)
        assert fit.person_ids.tolist() == scene.person_ids
        np.testing.assert_array_equal(fit.age_word, scene.age.astype(np.float32))
    starts = fit_labels.StatedPeople(scenes, "start", meshes)
    assert starts.fingerprint != stated.fingerprint
    assert not np.allclose(starts.load(source.names[0]).shape, stated.load(source.names[0]).shape, atol=0.05)
    with pytest.raises(FitFileError, match="no scene nowhere"):
        stated.load("nowhere")


def test_cues_are_taken_away(scenes):
    scene = fit_labels.open_scenes(scenes).load(0)
    assert (scene.age >= 0).any()
    assert np.isfinite(scene.median_depth).any()
    bare = fit_labels.without(scene, ("words", "depth"))
    assert (bare.age == -1).all()
    assert (bare.gender == -1).all()
    assert np.isnan(bare.median_depth).all()
    np.testing.assert_array_equal(bare.keypoints, scene.keypoints)
    np.testing.assert_array_equal(fit_labels.without(scene, ("words",)).median_depth, scene.median_depth)


def spoiled(scene: Scene, meshes: BodyMeshes) -> SceneFit:
    """The truth with cues that say nothing against it, but for the first person, whose keypoints are far off; and spreads."""
    assert scene.truth is not None
    fit = fit_labels.as_fit(scene, scene.truth, meshes, "test")
    n = len(fit)
    off = np.zeros(n, np.float32)
    off[0] = 1000.0
    unknown = np.full(n, -1, np.float32)
    return dataclasses.replace(
        fit, age_word=unknown, gender_word=unknown, depth_cue_m=np.full(n, np.nan, np.float32),
        keypoints_2d=np.zeros((n, 17, 3), np.float32), reprojection_px=off,
        sd_depth_m=0.04 * fit.depth_m, sd_height_m=0.04 * fit.height_m, sd_joints_m=np.full((n, 17), 0.3, np.float32),
        config_hash="00000000c0ffee00",
    )  # fmt: skip


class Truth(FakeFitter):
    """Fits that are the truth, `spoiled`."""

    def __init__(self, meshes: BodyMeshes) -> None:
        super().__init__()
        self.meshes = meshes

    def collect(self, pending: list[Scene]) -> list[SceneFit]:
        return [spoiled(scene, self.meshes) for scene in pending]


def test_people_below_the_threshold_do_not_count(scenes, meshes, tmp_path):
    run_job(tmp_path / "job", fit_labels.open_scenes(scenes), fitter=Truth(meshes))
    source = open_fits(tmp_path / "job", details=False)
    weights = [fit_labels.trusted(LOW)(fit) for fit in source]
    assert all(w[0] == 0 and w[1:].all() for w in weights), "the first of each scene is the spoiled one"
    chosen = fit_labels.select(source, fit_labels.trusted(LOW))
    assert chosen.people == sum(len(w) - 1 for w in weights)
    assert chosen.all_people == sum(len(w) for w in weights)
    assert chosen.names == tuple(n for n, w in zip(source.names, weights) if len(w) > 1)
    with pytest.raises(ValueError, match="nobody is trusted"):
        fit_labels.select(source, fit_labels.trusted(1.1))


def test_weights_fall_with_the_spread_of_a_fit():
    same = np.array([0.04, 0.08, 0.0, np.nan])
    weights = certainty({"depth": same, "height": same, "joints": 2.5 * same})
    np.testing.assert_allclose(weights, [1.0, 2 / 5, 2.0, 1.0])
    np.testing.assert_allclose(
        certainty({"depth": np.array([0.04]), "height": np.array([np.nan]), "joints": np.array([0.3])}),
        [2 / (1 + (1 + 9) / 2)],
    )


# ------------------------------------------------------------------------------------------------ all steps


def finished(folder: Path) -> dict[str, int]:
    """When each file of the steps was written; config, seconds and report are written at every call."""
    kept = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.parent != folder and p.name != "config.json"]
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in kept}


def distillation(made: DistillConfig, folder: Path, **options: Any) -> program.Distillation:
    return program.Distillation(made, folder, PeoplePredictor, find_config=find_config, **options)


@pytest.mark.slow
def test_all_steps_and_again(scenes, meshes, tmp_path, monkeypatch):
    made, calls = config(scenes), []

    def fit(source: Any, folder: Path, configs: Any, **_: Any) -> SimpleNamespace:
        calls.append(configs)
        assert list(configs.by_hash.values()) == [load_fit_config(CONFIGS / "annyfit_plus.py")]
        if not (folder / "dataset_info.json").is_file():
            run_job(folder, source, fitter=Truth(meshes))
        return SimpleNamespace(totals={})

    monkeypatch.setattr(program, "fit_job", fit)
    folder = tmp_path / "out"
    distillation(made, folder).run(list(program.STEPS))
    assert len(calls) == 1

    started, stream = fit_labels.open_scenes(folder / "start" / "all_cues"), fit_labels.open_scenes(scenes)
    assert started.names == stream.names
    first, before = started.load(0), stream.load(0)
    assert first.start is not None
    assert before.start is not None
    assert not np.allclose(first.start.transl, before.start.transl), "starts are the teacher's"
    np.testing.assert_array_equal(first.keypoints, before.keypoints)

    records = FitRecords(folder / "labels" / "fits")
    record = records[0]
    assert len(record["image_jpeg"]) > 100
    np.testing.assert_array_equal(record["loss_weight"], [0.0] + [1.0] * (len(record["loss_weight"]) - 1))
    feed = MultiHmrFeed(
        (FitSet("labels", 1.0, str(folder / "labels" / "fits"), uncertainty=True),), side=SIDE, max_people=3, flip=0.0
    )
    row = feed.row("labels", record, np.random.default_rng(0))
    counted = np.sort(np.asarray(row.targets.weight)[np.asarray(row.targets.people)])
    np.testing.assert_allclose(counted, [0.0, 2 / (1 + (1 + 1 + 9) / 3)], rtol=1e-4)

    part = FitSet("labels", 1.0, str(folder / "labels" / "fits"))
    read, kept = (
        MultiHmrFeed((dataclasses.replace(part, in_memory=memory),), side=SIDE, max_people=3, colour=0.2)
        for memory in (False, True)
    )
    source = kept.sources()[0].source
    assert source[0] is source[0], "decoded once"
    for seed in range(4):  # mirrored and not
        theirs, ours = (
            jax.tree.leaves(feed.row("labels", records[0], np.random.default_rng(seed))) for feed in (read, kept)
        )
        mine = jax.tree.leaves(kept.row("labels", source[0], np.random.default_rng(seed)))
        for a, b, c in zip(theirs, ours, mine, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)

    quality = json.loads((folder / "labels" / "truth.json").read_text())["quality"]
    assert quality["depth_rel_err"] < 1e-3
    assert quality["age_f1"] == 1.0
    assert json.loads((folder / "labels" / "raw.json").read_text())["quality"]["depth_rel_err"] > 0.1

    held_out = [metrics_of(stream.load(i), folder / "predictions" / "fits", meshes) for i in range(COUNT)]
    pooled = json.loads((folder / "metrics" / "fits.json").read_text())["pooled"]
    assert pooled["depth_rel_err"] == pytest.approx(metrics.pool(held_out)["depth_rel_err"], rel=1e-6)
    text = (folder / "report.md").read_text()
    assert "| before |" in text
    assert "| ceiling |" in text
    assert Image.open(folder / "curve.png").size[0] == len(distillation_report.CURVES) * distillation_report._PANEL[0]
    assert Image.open(folder / "people.jpg").format == "JPEG"

    stamps = finished(folder)
    (folder / "report.md").write_text(text + "\n## Reading\n\nkept\n")
    distillation(made, folder).run(list(program.STEPS))
    assert finished(folder) == stamps, "what is finished is left alone"
    assert (folder / "report.md").read_text().endswith("## Reading\n\nkept\n")

    with pytest.raises(ValueError, match=r"config\.json: a distillation with another train"):
        distillation(dataclasses.replace(made, train=dataclasses.replace(made.train, steps=3)), folder)
    with pytest.raises(ValueError, match="no student 'x'"):
        distillation(made, folder, students=["x"])

    # A second student is trained where the others are; what it needs is there already.
    stop = threading.Event()
    more = dataclasses.replace(made, students=(*made.students, Student("raw", "raw", every=2)))
    shutil.rmtree(folder / "metrics")
    stop.set()
    with pytest.raises(Interrupted):
        distillation(more, folder, students=["raw"], stop=stop).run(["train"])
    distillation(more, folder, students=["raw"]).run(["train", "evaluate"])
    assert sorted(path.stem for path in (folder / "metrics").iterdir()) == ["raw", "teacher"]


def metrics_of(scene: Scene, folder: Path, meshes: BodyMeshes) -> dict[str, np.ndarray]:
    from annyfit_jax.truth.scene_evaluation import synthetic_errors

    fit = open_fits(folder).load(scene.name)
    return synthetic_errors(scene, np.arange(len(scene)), fit.parameters, meshes)


def test_a_dataset_without_spreads_cannot_be_weighted():
    feed = MultiHmrFeed((FitSet("labels", 1.0, uncertainty=True),), side=SIDE, max_people=2, flip=0.0)
    photo = io.BytesIO()
    Image.new("RGB", (64, 64)).save(photo, "JPEG")
    example = {
        "name": "old", "image_jpeg": photo.getvalue(), "intrinsics": np.diag([60.0, 60.0, 1.0]), "fitted": np.ones(1, bool),
        "root_rotvec": np.zeros((1, 3)), "transl": np.array([[0, 0, 3.0]]), "pose": np.zeros((1, 162, 3)),
        "shape": np.full((1, 6), 0.5),
    }  # fmt: skip
    with pytest.raises(SceneError, match="old: no sd_depth_m, depth_m"):
        feed.row("labels", example, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ report


def test_shares_of_a_gap(scenes):
    made = config(scenes)
    pooled = {"teacher": (0.2, 300.0), "fits": (0.5, 180.0), "truth": (0.6, 100.0)}
    networks: dict[str, Any] = {n: {"pooled": {"age_f1": a, "joint_pa_mpjpe": e}} for n, (a, e) in pooled.items()}
    found = distillation_report.gaps(made, networks)
    assert found["fits"]["age_f1"] == pytest.approx(0.75)
    assert found["fits"]["joint_pa_mpjpe"] == pytest.approx(0.6)
    assert np.isnan(found["fits"]["pcrd02"])
    assert distillation_report.gaps(dataclasses.replace(made, ceiling=""), networks) == {}
    networks["teacher"]["intervals"] = {"age_f1": (0.1, 0.3), "joint_pa_mpjpe": (90.0, 400.0)}
    networks["truth"]["intervals"] = {"age_f1": (0.5, 0.7), "joint_pa_mpjpe": (80.0, 120.0)}
    found = distillation_report.gaps(made, networks)
    assert found["fits"]["age_f1"] == pytest.approx(0.75)
    assert np.isnan(found["fits"]["joint_pa_mpjpe"]), "the way is no longer than the error of its ends"


def test_a_student_on_every_other_scene_has_half_the_people():
    assert distillation_report.labelled(Student("a", "fits", every=4), {"fits": {"people": 100}}) == 25
    assert distillation_report.labelled(Student("a", "fits"), {"fits": {}}) is None


def test_nothing_judged_is_an_error(scenes, tmp_path):
    with pytest.raises(FileNotFoundError, match="run the step evaluate first"):
        distillation_report.write_report(config(scenes), tmp_path, scenes)
