"""Synthetic scenes: the same however the work is cut, true to their truth, wrong in the ways the cues should be."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import HANG_S, REPO
from scipy.spatial.transform import Rotation

from annyfit_jax import synthetic
from annyfit_jax.inputs import cue_dataset, open_input
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.people import anatomy
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.camera import project
from annyfit_jax.people.dense_points import dense_vertex_indices
from annyfit_jax.people.scene import Scene
from annyfit_jax.synthetic import body_chunks, plain_cues, plain_people
from experiments import synthesize

COUNT = 200


@pytest.fixture(scope="module")
def generator(load_anny) -> synthetic.Generator:
    return synthetic.Generator(synthetic.Recipe(seed=3), load_anny())


@pytest.fixture(scope="module")
def scenes(generator) -> list[Scene]:
    return list(generator.scenes(range(COUNT)))


def pooled(scenes: list[Scene], value) -> np.ndarray:
    return np.concatenate([np.asarray(value(scene)) for scene in scenes])


# ------------------------------------------------------------------------------------------------ truth


def test_scenes_are_valid_and_nobody_is_behind_the_camera(scenes):
    for scene in scenes:
        validate_scene(scene, "synthetic")
        assert scene.extra["gt_coco3d"][..., 2].min() > 0.35
        assert scene.start is not None
        assert scene.start.transl[:, 2].min() > 0
    assert len({scene.name for scene in scenes}) == COUNT


def test_truth_is_what_the_body_model_says(scenes, load_anny):
    """Joints, height and pixels of the extras are those of an independent full forward pass of the true parameters."""
    meshes = BodyMeshes(load_anny())
    for scene in scenes[:6]:
        truth, extra = scene.truth, scene.extra
        assert truth is not None
        joints, height = meshes.keypoints_and_height(truth)
        np.testing.assert_allclose(extra["gt_coco3d"], joints, atol=2e-5)
        np.testing.assert_allclose(extra["gt_coco2d"], project(extra["gt_coco3d"], scene.intrinsics), atol=2e-3)
        np.testing.assert_allclose(extra["gt_body_height"], height, atol=2e-3)
        vertices = meshes.vertices(truth).astype(np.float64)
        dense_px = project(vertices[:, dense_vertex_indices()], scene.intrinsics)
        confident = scene.dense_keypoints[..., 2] > 0.6  # seen from the front, not hidden
        errors = np.linalg.norm(scene.dense_keypoints[..., :2] - dense_px, axis=-1)[confident]
        # a Rayleigh median of 1.18 sigma; sigma is at most 6 px in 300, and at least 1.2 px
        assert np.median(errors) < max(0.03 * np.ptp(dense_px, axis=1).max(), 2.0)


def test_poses_stay_within_the_anatomical_ranges(scenes, load_anny):
    limits = anatomy.joint_limits(load_anny())
    pose = pooled(scenes, lambda s: s.truth.pose)
    angles = np.einsum("nkj,kj->nk", pose[:, list(limits.bones)], limits.axes)
    assert (angles >= limits.low - 1e-5).all()
    assert (angles <= limits.high + 1e-5).all()
    assert angles.std(0).max() > 0.4  # and they are used


def test_heights_are_those_of_the_population(scenes):
    """WHO and adult means of the classes' ages: newborn-ish 0.6, toddler 0.9, adults 1.6 to 1.8 m."""
    age = pooled(scenes, lambda s: s.extra["gt_age_cat"])
    height = pooled(scenes, lambda s: s.extra["gt_body_height"])
    means = [height[age == k].mean() for k in range(6)]
    assert means == pytest.approx([0.64, 0.89, 1.28, 1.54, 1.69, 1.69], abs=0.06)


def test_normals_point_outwards(generator):
    """A dense point moved along its normal leaves the body: for a convex-ish limb set, away from the nearest joint."""
    _, bodies = generator._block(0)[0]
    nearest = np.linalg.norm(bodies.dense[0][:, None] - bodies.joints[0], axis=-1).argmin(1)
    outward = ((bodies.dense[0] - bodies.joints[0][nearest]) * bodies.normals[0]).sum(-1) > 0
    assert outward.mean() > 0.75


# ------------------------------------------------------------------------------------------------ cues


def test_people_per_image_follow_the_shares(generator):
    counts = np.bincount([len(generator._draft(i).truth) for i in range(1000)], minlength=21)[1:] / 1000
    assert synthetic.COCO_SHARES.sum() == pytest.approx(1)
    np.testing.assert_allclose(counts[:6], synthetic.COCO_SHARES[:6], atol=0.05)
    assert 3.0 < (counts * np.arange(1, 21)).sum() < 3.8
    assert counts[14:].sum() > 0


def test_keypoint_noise_is_that_of_the_table(scenes):
    """Noise in units of the person's extent, over visible joints; hidden ones are worse; 6 % are missed, 2 % wild."""
    extent = pooled(scenes, lambda s: np.ptp(s.extra["gt_coco2d"], axis=1).max(-1))[:, None]
    error = pooled(scenes, lambda s: np.linalg.norm(s.keypoints[..., :2] - s.extra["gt_coco2d"], axis=-1))
    found = pooled(scenes, lambda s: s.keypoints[..., 2] > 0)
    visible = pooled(scenes, lambda s: s.extra["gt_visible"])
    large = extent[:, 0] > 250  # above the floor of 1.2 px
    relative = (error / extent)[large]
    clear, covered = (relative[found[large] & part] for part in (visible[large], ~visible[large]))
    # 4 px of 300 on average, and a Rayleigh median of 1.18 sigma; extents of joints are a tenth below those of the surface
    assert 0.010 < np.median(clear) < 0.022
    assert np.median(covered) > 1.7 * np.median(clear)
    assert 0.01 < (clear > 0.12).mean() < 0.035
    inside = pooled(scenes, lambda s: plain_cues.inside(s.extra["gt_coco2d"], s.image_size))
    assert 0.04 < 1 - found[inside].mean() < 0.08
    assert not found[~inside].any()
    confidence = pooled(scenes, lambda s: s.keypoints[..., 2])
    assert confidence[found & visible].mean() > 0.7 > 0.5 > confidence[found & ~visible].mean()


def test_depth_cue_has_scene_and_person_errors(scenes):
    ratios = [scene.median_depth / scene.truth.transl[:, 2] for scene in scenes if scene.truth and len(scene) >= 3]
    means = np.array([np.log(r).mean() for r in ratios])
    within = np.concatenate([np.log(r) - np.log(r).mean() for r in ratios])
    assert 0.035 < means.std() < 0.07
    assert 0.012 < within.std() < 0.03
    assert -0.06 < means.mean() < 0.0  # the front of a body is nearer than its root


def test_start_takes_everybody_for_an_adult(scenes):
    age = pooled(scenes, lambda s: s.extra["gt_age_cat"])
    ratio = pooled(scenes, lambda s: s.start.transl[:, 2] / s.truth.transl[:, 2])
    shape = pooled(scenes, lambda s: s.start.shape)
    np.testing.assert_array_equal(shape, np.tile(body_chunks.single(plain_people.ADULT_AVERAGE), (len(shape), 1)))
    medians = [np.median(ratio[age == k]) for k in range(6)]
    assert medians[0] > 2.2  # a baby of 0.64 m, taken for an adult, starts at more than twice its distance
    assert medians[1] > 1.7
    assert sorted(medians[:4], reverse=True) == medians[:4]
    assert 0.9 < medians[4] < 1.2
    error = []
    for scene in scenes[:40]:
        assert scene.start is not None and scene.truth is not None
        turned = Rotation.from_rotvec(scene.start.root_rotvec) * Rotation.from_rotvec(scene.truth.root_rotvec).inv()
        error.append(turned.magnitude())
    assert 0.1 < np.concatenate(error).mean() < 0.25  # three axes of 0.1 rad


def test_start_error_in_the_image_is_plausible(scenes, generator):
    """The development set of the same recipe starts at 24.5 px in 640 and 1280 px images."""
    starts = body_chunks.concatenate([scene.start for scene in scenes if scene.start])
    joints = np.split(body_chunks.in_chunks(generator._start, starts), np.cumsum([len(scene) for scene in scenes])[:-1])
    errors = [
        np.linalg.norm(project(points, scene.intrinsics) - scene.extra["gt_coco2d"], axis=-1)[scene.extra["gt_visible"]]
        for points, scene in zip(joints, scenes, strict=True)
    ]
    assert 8 < np.concatenate(errors).mean() < 40


def test_words_are_confused_at_the_stated_rates():
    rng = np.random.default_rng(0)
    age, gender = np.repeat(np.arange(6), 4000), np.tile([0, 2], 12000)
    words, sexes = plain_cues.words(rng, age, gender)
    anchors = np.array([0.0, 0.1, 0.33, 0.5, 0.66, 0.999])
    usable = words >= 0
    assert (~usable).mean() == pytest.approx(0.03, abs=0.005)
    middle = usable & (age > 0) & (age < 5)
    assert (words[middle] == anchors[age[middle]]).mean() == pytest.approx(0.88, abs=0.01)
    assert (words[usable & (age == 5)] == 0.999).mean() == pytest.approx(0.94, abs=0.01)
    for young, neutral, wrong in ((True, 0.45, 0.10), (False, 0.05, 0.04)):
        who = (sexes >= 0) & ((age <= 1) == young)
        assert (sexes[who] == 0.5).mean() == pytest.approx(neutral, abs=0.015)
        assert (sexes[who] == 1 - gender[who] / 2).mean() == pytest.approx(wrong, abs=0.015)


def test_who_stands_behind_whom():
    """Two people in line: the far one's torso is hidden by the near one, not the other way round, nor beside."""
    body = np.zeros((17, 3))
    body[[5, 6, 11, 12], 0] = [0.2, -0.2, 0.12, -0.12]
    body[[5, 6], 1], body[[0, 1, 2, 3, 4], 1], body[13:15, 1], body[15:17, 1] = -0.5, -0.7, 0.4, 0.8
    body[7:11] = body[[5, 6, 5, 6]] + [0, 0.3, 0]
    k = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    people = body + np.array([[[0, 0, 6]], [[0, 0, 3]], [[2, 0, 6]]])
    hidden = plain_cues.hidden(people, people, k)
    assert hidden[0, [5, 6, 11, 12]].all()
    assert not hidden[1:].any()


def test_translation_fit_recovers_an_exact_translation():
    rng = np.random.default_rng(1)
    joints, t = rng.normal(0, 0.4, (5, 17, 3)), np.c_[rng.normal(0, 1, (5, 2)), rng.uniform(3, 8, 5)]
    k = np.array([[500.0, 0, 320], [0, 480, 240], [0, 0, 1]])
    pixels = project(joints + t[:, None], k)
    np.testing.assert_allclose(plain_cues.fit_translation(joints, pixels, k, np.ones((5, 17))), t, atol=1e-5)


# ------------------------------------------------------------------------------------------------ reproducibility


def test_a_scene_depends_only_on_seed_and_index(generator, scenes):
    again = list(generator.scenes(range(60, 70)))  # across a block boundary
    fresh = next(generator.with_recipe(synthetic.Recipe(seed=3)).scenes(range(65, 66)))
    for scene, first in [*zip(again, scenes[60:70], strict=True), (fresh, scenes[65])]:
        assert scene.name == first.name
        for name in ("keypoints", "dense_keypoints", "median_depth", "age", "gender"):
            np.testing.assert_array_equal(getattr(scene, name), getattr(first, name))
        assert scene.start is not None and first.start is not None
        np.testing.assert_array_equal(scene.start.transl, first.start.transl)
    other = next(generator.with_recipe(synthetic.Recipe(seed=4)).scenes(range(1)))
    assert other.name != scenes[0].name
    assert other.intrinsics[0, 0] != scenes[0].intrinsics[0, 0]


def test_recipe_people_and_bias(generator):
    mild = generator.with_recipe(synthetic.Recipe(seed=1, people=(2, 5), bias=(0.0, 0.0)))
    scenes = list(mild.scenes(range(24)))
    assert {len(scene) for scene in scenes} == {2, 5}
    np.testing.assert_allclose(
        pooled(scenes, lambda s: s.start.shape[:, 1]), pooled(scenes, lambda s: s.truth.shape[:, 1]), atol=1e-7
    )


@pytest.mark.slow
def test_shards_do_not_depend_on_how_often_the_work_was_begun(tmp_path, generator):
    """At once, or 100 scenes first and then 50 more: the same bytes."""

    def write(folder: str, count: int = 150) -> cue_dataset.Progress:
        scenes = generator.with_recipe(synthetic.Recipe(seed=5)).scenes
        return cue_dataset.write(tmp_path / folder, cue_dataset.Plan(count, {"seed": 5}, 50), scenes)

    assert write("one").finished
    assert write("two", 100).finished
    assert write("two").finished
    files = {p.name for p in (tmp_path / "one").glob("cues-train.array_record-*")}
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.process
def test_synthesize_program(tmp_path, generator, scenes):
    command = [sys.executable, "-m", "experiments.synthesize", f"--output={tmp_path}/d", "--scenes=5", "--seed=3"]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(REPO / ".cache" / "jax"), "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    result = subprocess.run(
        [*command, "--scenes_per_shard=2"], cwd=REPO, capture_output=True, text=True, timeout=HANG_S, env=environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "3 of 3 shards, 5 scenes" in result.stdout
    source = open_input(str(tmp_path / "d"))
    assert source.kind == "cues"
    assert source.names == tuple(scene.name for scene in scenes[:5])
    loaded = source.load(4)
    assert loaded.extra.pop("provenance")["cues"]["all"]["expert"] == "synthetic"
    np.testing.assert_allclose(loaded.keypoints, scenes[4].keypoints, atol=1e-3)
    for name, value in scenes[4].extra.items():
        np.testing.assert_allclose(loaded.extra[name], value, atol=1e-3, err_msg=name)


def test_flags_are_checked():
    assert synthesize.parse_people("coco") == ()
    assert synthesize.parse_people("1,2,3") == (1, 2, 3)
    assert synthesize.parse_bias("0.2,0.8") == (0.2, 0.8)
    for text in ("", "0", "1,x", "300"):
        with pytest.raises(ValueError, match="--people"):
            synthesize.parse_people(text)
    for text in ("", "1", "0.8,0.2", "0,2"):
        with pytest.raises(ValueError, match="--bias"):
            synthesize.parse_bias(text)
