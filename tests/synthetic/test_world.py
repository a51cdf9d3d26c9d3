"""The rendered world: calibrated people in anatomical poses on the ground; picture, masks, depth and truth agree."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import HANG_S, REPO
from PIL import Image

from annyfit_jax.inputs import cue_dataset, open_input
from annyfit_jax.inputs.validate import validate_scene
from annyfit_jax.people import anatomy
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import COCO17
from annyfit_jax.synthetic import layout, measure, population, postures, render, world_cues
from annyfit_jax.synthetic.world import RenderedScene, World, jpeg
from annyfit_jax.synthetic.world_config import PoseConfig, override, preset
from annyfit_jax.truth import scene_evaluation
from annyfit_jax.viz.raster import rasterise

pytestmark = pytest.mark.slow

COUNT = 32
SIZE = 144
SMALL = [f"camera.image_sizes=(({SIZE},{SIZE}),)"]


@pytest.fixture(scope="module")
def world(load_anny) -> World:
    return World(3, override(preset("standard"), SMALL), load_anny())


@pytest.fixture(scope="module")
def scenes(world) -> list[RenderedScene]:
    return list(world.scenes(range(COUNT)))


@pytest.fixture(scope="module")
def meshes(load_anny) -> BodyMeshes:
    return BodyMeshes(load_anny())


def pooled(scenes, value) -> np.ndarray:
    return np.concatenate([np.asarray(value(scene)) for scene in scenes])


def truth(scene):
    assert scene.truth is not None
    return scene.truth


# ------------------------------------------------------------------------------------------------ people


@pytest.mark.parametrize(
    ("years", "sex", "cm", "cv"),
    [(1, 0, 75.7, 3.1), (4, 2, 102.7, 4.2), (8, 0, 127.3, 4.4), (12, 2, 151.2, 4.5), (25, 0, 176.5, 4.1), (25, 2, 163.2, 4.0),
     (70, 0, 173.5, 4.1), (80, 2, 155.2, 4.0)],
)  # fmt: skip
def test_drawn_heights_have_who_means_and_spreads(years, sex, cm, cv, monkeypatch):
    """WHO's medians and coefficients of variation, less 3 cm (men, 70 years) and 8 cm (women, 80 years)."""
    monkeypatch.setitem(population.GROUPS, "single", lambda rng: np.full(4000, float(years)))
    config = override(preset("easy"), ["people.groups={'single': 1.0}"]).people
    config = dataclasses.replace(config, max_people=4000)
    group = population.draw_people(np.random.default_rng(0), config)
    height = 100 * group.height[group.gender == sex]
    assert len(height) > 1800
    assert height.mean() == pytest.approx(cm, rel=0.004)
    assert height.std() / height.mean() == pytest.approx(cv / 100, abs=0.003)


def test_bodies_have_calibrated_heights(scenes, meshes):
    """The stored height is that of the whole resting mesh, and within 2.9 standard deviations of WHO's median."""
    for scene in scenes[:12]:
        body = truth(scene)
        years, sex = scene.extra["gt_age_years"], scene.extra["gt_gender_cat"]
        _, height = meshes.keypoints_and_height(body)
        np.testing.assert_allclose(scene.extra["gt_body_height"], height, atol=2e-3)
        median, cv = population.height_statistics(years, sex)
        assert (np.abs(height / median - 1) < 2.9 * cv + 0.002).all()
    shapes = np.concatenate([truth(scene).shape for scene in scenes])
    assert ((shapes >= 0) & (shapes <= 1)).all()


def test_phenotypes_are_solved_for_height_and_mass(world):
    """Height within 1 mm, mass within 4 % wherever the weight phenotype is not at its end, which it is for few past infancy."""
    group = population.draw_people(np.random.default_rng(5), preset("easy").people)
    years = np.linspace(0.3, 90, 60)
    sex = np.tile([population.MALE, population.FEMALE], 30)
    median, cv = population.height_statistics(years, sex)
    height = median * (1 + cv * np.linspace(-2, 2, 60)[np.random.default_rng(0).permutation(60)])
    mass = population.mass_median(years, sex, height) * np.tile([0.8, 0.9, 1.0, 1.1, 1.25], 12)
    build, femininity = np.full((60, 2), 0.5), np.where(sex == population.MALE, 0.05, 0.95)
    group = population.People(group.kind, years, sex, height, mass, build, femininity)
    shape = population.solve_phenotypes(group, world._sizer.height, world._sizer.mass)
    np.testing.assert_allclose(world._sizer.height(shape), height, atol=1e-3)
    free = (shape[:, 3] > 0.021) & (shape[:, 3] < 0.979)
    np.testing.assert_allclose(world._sizer.mass(shape)[free], mass[free], rtol=0.04)
    assert free.mean() > 0.9


def test_mass_is_the_volume_of_the_whole_mesh(world, scenes, meshes):
    resting = truth(scenes[0])
    zero = dataclasses.replace(resting, pose=np.zeros_like(resting.pose))
    a, b, c = np.moveaxis(meshes.vertices(zero).astype(np.float64)[:, meshes.faces], 2, 0)
    mass = 980 / 6 * (a * np.cross(b, c)).sum((1, 2))
    np.testing.assert_allclose(world._sizer.mass(zero.shape), mass, rtol=0.012)


def test_age_classes_are_those_of_the_anchors(scenes):
    years = np.array([0.0, 0.9, 1.1, 3.9, 4.1, 10.9, 11.1, 14.0, 14.4, 63.0, 65.0])
    np.testing.assert_array_equal(population.age_class(years), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5])
    assert len(np.unique(pooled(scenes, lambda s: s.extra["gt_age_cat"]))) == 6
    for scene in scenes:
        nearest = np.abs(truth(scene).shape[:, 1:2] - population.AGE_ANCHORS).argmin(1)
        np.testing.assert_array_equal(nearest, scene.extra["gt_age_cat"])


def test_families_have_parents_and_children():
    rng = np.random.default_rng(1)
    for _ in range(50):
        family = population.GROUPS["family"](rng)
        assert family.max() - family.min() > 18
        assert family.max() >= 22 > 18 > family.min()
        school = population.GROUPS["school"](rng)
        assert (school > 20).sum() == 1
        assert np.ptp(np.sort(school)[:-1]) <= 1.2


# ------------------------------------------------------------------------------------------------ poses and ground


@pytest.mark.parametrize("posture", postures.POSTURES)
def test_postures_stay_within_the_anatomical_ranges(posture, load_anny):
    model = load_anny()
    limits = anatomy.joint_limits(model)
    sampler = postures.PoseSampler(model, PoseConfig(spread=2.0, limit_share=0.95))
    rng = np.random.default_rng(0)
    drawn = [sampler.draw_posture(rng, posture, years) for years in np.tile([0.7, 5.0, 30.0, 80.0], 10)]
    pose = np.stack([p.pose for p in drawn])
    angles = np.einsum("nkj,kj->nk", pose[:, list(limits.bones)], limits.axes)
    assert (angles >= 0.95 * limits.low - 1e-6).all()
    assert (angles <= 0.95 * limits.high + 1e-6).all()
    assert pose.std(0).max() > 0.1


def test_infants_neither_stand_nor_sit_on_chairs(load_anny):
    sampler = postures.PoseSampler(load_anny(), PoseConfig())
    rng = np.random.default_rng(0)
    names = {years: {sampler.draw(rng, years).name for _ in range(60)} for years in (0.3, 0.7, 30.0)}
    assert names[0.3] <= {"lie", "floor"}
    assert names[0.7] <= {"lie", "floor", "crawl"}
    assert {"stand", "walk", "sit", "reach"} <= names[30.0]


def test_everybody_is_on_the_ground(world, scenes, meshes):
    """The whole mesh's lowest vertex is within 1 cm of the plane; what should touch the ground together is near it."""
    gaps: dict[str, list[float]] = {}
    for scene in scenes:
        body = truth(scene)
        vertices = meshes.vertices(body).astype(np.float64)
        plane = scene.extra["gt_ground"]
        above = vertices @ plane[:3] + plane[3]
        assert np.abs(above.min(1)).max() < 0.01
        for row, name in enumerate(scene.extra["gt_posture"]):
            reach = above[row][world.mesh.vertices]
            low = lambda part, reach=reach: reach[world.mesh.parts[part]].min()  # noqa: E731
            share = 1 / scene.extra["gt_body_height"][row]
            if name in ("stand", "reach", "bend", "walk", "squat", "sit"):
                gaps.setdefault(name, []).append(share * max(low("foot.L"), low("foot.R")))
            if name == "floor":
                gaps.setdefault(name, []).append(share * low("seat"))
            if name == "crawl":
                gaps.setdefault(name, []).append(
                    share * max(low("hand.L"), low("hand.R"), low("shin.L"), low("shin.R"))
                )
            if name == "kneel":
                gaps.setdefault(name, []).append(share * max(low("shin.L"), low("shin.R")))
    assert {"stand", "walk", "sit", "floor"} <= set(gaps)
    for name, values in gaps.items():  # shares of the body's height
        most = {"crawl": 0.13, "floor": 0.08, "kneel": 0.05}.get(name, 0.03)
        assert max(values) < most, (name, max(values))
        assert np.median(values) < most / 2


def test_bodies_do_not_stand_in_each_other(scenes):
    """Limb spheres of two people of a scene do not overlap; they do when one is moved into the other."""
    several = [scene for scene in scenes if len(scene) > 1]
    assert len(several) > 15
    for scene in several:
        centres, radii = layout.limb_spheres(scene.extra["gt_coco3d"])
        nobody_moved = np.zeros((len(scene), 2))
        assert layout.overlaps(centres, radii, nobody_moved).max() < 0.002
        centres[1] += centres[0].mean(0) - centres[1].mean(0)
        assert layout.overlaps(centres, radii, nobody_moved).max() > 0.02


# ------------------------------------------------------------------------------------------------ pictures


def test_scenes_are_valid(scenes):
    for scene in scenes:
        validate_scene(scene, "world")
        assert scene.image is not None
        assert scene.image.shape == (SIZE, SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.image.std() > 8
        assert len(set(scene.person_ids) | {person for person, _ in scene.skipped}) == len(scene) + len(scene.skipped)
    assert {len(scene) for scene in scenes} >= {1, 2, 3, 4}


def test_masks_depth_and_points_agree(scenes):
    """Masks are disjoint; depth in them is the body's surface; visible joints lie in their person's mask, behind it."""
    shares, hidden = [], 0
    for scene in scenes:
        masks, depth, body = scene.masks, scene.true_depth, truth(scene)
        assert masks is not None
        assert depth is not None
        assert masks.sum(0).max() <= 1
        level = scene.extra["gt_joint_visibility"]
        pixels = np.floor(scene.extra["gt_coco2d"]).astype(int)
        for row in range(len(scene)):
            joints = scene.extra["gt_coco3d"][row]
            assert masks[row].any()
            inside = depth[masks[row]]
            reach = 0.35 * scene.extra["gt_body_height"][row]
            assert inside.min() > joints[:, 2].min() - reach
            assert inside.max() < joints[:, 2].max() + reach
            seen = level[row] == world_cues.VISIBLE
            x, y = pixels[row][seen].T
            shares.append(masks[row][y, x])
            hit = masks[row][y, x]
            pixel = joints[seen, 2][hit] / scene.intrinsics[0, 0]  # metres at the joint: the surface may be steep
            assert (depth[y, x][hit] < joints[seen, 2][hit] + 0.05 + 4 * pixel).all()
            covered = level[row] == world_cues.HIDDEN
            x, y = pixels[row][covered].T
            assert not masks[row][y, x].any()
            assert (depth[y, x] < joints[covered, 2]).all()
            hidden += covered.sum()
            outside = ((pixels[row] < 0) | (pixels[row] >= SIZE)).any(-1)
            np.testing.assert_array_equal(level[row] == world_cues.OUTSIDE, outside)
        visible = ~((pixels < 0) | (pixels >= SIZE)).any(-1) & (level != world_cues.HIDDEN)
        np.testing.assert_array_equal(scene.extra["gt_visible"], visible)
        assert abs(float(np.dot(scene.extra["gt_ground"][:3], scene.extra["gt_ground"][:3])) - 1) < 1e-9
        assert body.transl[:, 2].min() > 0
    assert np.concatenate(shares).mean() > 0.95  # a joint at the rim may fall beside its own outline
    assert hidden > 30


def test_depth_is_that_of_the_whole_mesh(world, scenes, meshes):
    """The drawn mesh of 3000 vertices against all 13 718: same outlines up to a pixel's rim, millimetres in depth."""
    overlap, errors = [], []
    for scene in scenes[:6]:
        k = scene.intrinsics.copy()
        k[:2] *= 3
        vertices = meshes.vertices(truth(scene)).astype(np.float64)
        whole = rasterise(vertices, meshes.faces, k, (3 * SIZE, 3 * SIZE))
        drawn = rasterise(vertices[:, world.mesh.vertices], world.mesh.faces, k, (3 * SIZE, 3 * SIZE))
        both = (whole.person == drawn.person) & (whole.person >= 0)
        overlap.append(both.sum() / ((whole.person >= 0) | (drawn.person >= 0)).sum())
        errors.append(np.abs(whole.depth[both] - drawn.depth[both]))
    assert min(overlap) > 0.95
    errors = np.concatenate(errors)
    assert np.median(errors) < 0.003
    assert (errors < 0.02).mean() > 0.97


def test_leaving_out_averted_triangles_changes_nothing(world, scenes):
    """The view of two bodies and a box against the rasteriser with all triangles, both sides drawn."""
    placed = next(p for p in world._block(0) if len(p.boxes) and len(p.people) > 1)
    seen = render.view(placed.camera, placed.surface, world.mesh.faces, placed.boxes)
    bodies = rasterise(placed.surface, world.mesh.faces, placed.camera.intrinsics, placed.camera.image_size)
    boxes = rasterise(placed.boxes, layout.BOX_FACES, placed.camera.intrinsics, placed.camera.image_size)
    depth = np.minimum(bodies.depth, boxes.depth)
    expected = np.where(boxes.depth < bodies.depth, render.THING, bodies.person)
    assert (seen.owner == expected).mean() > 0.9995  # a body's own lid may touch its outline
    same = seen.owner == expected
    np.testing.assert_allclose(seen.depth[same], depth[same], rtol=1e-3)
    assert (seen.owner == render.THING).any()


def test_the_ground_has_its_depth(scenes):
    """Pixels of the ground in front of everybody satisfy the plane's equation."""
    for scene in scenes[:10]:
        depth, plane, k = scene.true_depth, scene.extra["gt_ground"], scene.intrinsics
        assert depth is not None
        assert scene.masks is not None
        y, x = np.nonzero(~scene.masks.any(0) & np.isfinite(depth))
        rays = np.stack([(x + 0.5 - k[0, 2]) / k[0, 0], (y + 0.5 - k[1, 2]) / k[1, 1], np.ones(len(x))], axis=1)
        above = (rays * depth[y, x][:, None]) @ plane[:3] + plane[3]
        near = np.abs(above) < 1e-3 * np.maximum(depth[y, x], 1.0)
        assert near.mean() > 0.2
        assert above.min() > -0.02


def test_sizes_in_the_picture_follow_the_config(world):
    far, cut = (
        world.with_config(override(world.config, [f"camera.apparent={a}", "camera.aim=0.0", "layout.occluders=0.0"]), 1)
        for a in ("(0.3,0.3)", "(1.6,1.6)")
    )
    extents = [np.ptp(s.boxes[:, [1, 3]], axis=None) / SIZE for s in far.scenes(range(10)) if s.boxes is not None]
    assert 0.1 < np.median(extents) <= 0.4
    outside = [1 - s.extra["gt_visible"].mean() for s in cut.scenes(range(10))]
    assert np.mean(outside) > 0.2


def test_somebody_is_in_every_picture(world):
    """Also where groups are larger than the picture and the aim is wild: at least a fifth of somebody's vertices."""
    wild = [*SMALL, "camera.apparent=(1.5,2.0)", "camera.aim=0.6", "layout.occluders=0.0"]
    for placed in world.with_config(override(preset("hard"), wild), 5)._block(0):
        pixels = project(placed.surface, placed.camera.intrinsics)
        inside = ((pixels >= 0) & (pixels < SIZE)).all(-1) & (placed.surface[..., 2] > 0)
        assert inside.mean(1).max() >= 0.2 - 1e-3


# ------------------------------------------------------------------------------------------------ truth and cues


def test_truth_is_what_the_body_model_says(scenes, meshes):
    for scene in scenes[:8]:
        joints, _ = meshes.keypoints_and_height(truth(scene))
        np.testing.assert_allclose(scene.extra["gt_coco3d"], joints, atol=5e-5)
        np.testing.assert_allclose(
            scene.extra["gt_coco2d"], project(joints.astype(np.float64), scene.intrinsics), atol=0.02
        )


def test_evaluation_of_the_truth_finds_no_error(scenes, meshes):
    """`experiments.evaluate --protocol=synthetic` reads these scenes: the truth has no error, the start has."""
    for scene in scenes[:8]:
        rows = np.arange(len(scene))
        errors = scene_evaluation.synthetic_errors(scene, rows, truth(scene), meshes)
        assert np.max(errors["mpjpe_root"]) < 0.1
        assert np.max(errors["depth_abs_err"]) < 1e-6
        assert scene.start is not None
        assert np.mean(scene_evaluation.synthetic_errors(scene, rows, scene.start, meshes)["mpjpe_root"]) > 10


def test_starts_are_adult_biased_and_fit_the_image(world, scenes):
    mild = world.with_config(override(preset("standard", "camerahmr"), SMALL))
    ratios = {}
    for name, some in (("multihmr", scenes), ("camerahmr", list(mild.scenes(range(COUNT))))):
        age = pooled(some, lambda s: s.extra["gt_age_cat"])
        ratio = pooled(some, lambda s: s.start.transl[:, 2] / s.truth.transl[:, 2])
        ratios[name] = [np.median(ratio[age == k]) for k in (1, 2, 4)]
        assert 0.85 < ratios[name][2] < 1.25
    assert ratios["multihmr"][0] > 1.5 > ratios["multihmr"][1] > 1.15
    assert ratios["multihmr"][0] > ratios["camerahmr"][0] > 1.1
    pose = pooled(scenes, lambda s: s.start.pose)
    assert not pose[:, world._sampler.extremities].any()
    error = pooled(scenes, lambda s: s.start.shape - s.truth.shape)
    assert 0.02 < error[pooled(scenes, lambda s: s.extra["gt_age_cat"]) == 4, 2].std() < 0.2


def test_boxes_go_round_the_visible_pixels(scenes):
    for scene in scenes[:10]:
        assert scene.boxes is not None
        assert scene.masks is not None
        for (x0, y0, x1, y1), mask in zip(scene.boxes.astype(int), scene.masks):
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()


def test_difficulties_differ_in_the_right_direction(world):
    errors, seen = [], []
    for name in ("easy", "hard"):
        some = list(world.with_config(override(preset(name), SMALL), 2).scenes(range(16)))
        found = pooled(some, lambda s: (s.keypoints[..., 2] > 0) & s.extra["gt_visible"])
        error = pooled(some, lambda s: np.linalg.norm(s.keypoints[..., :2] - s.extra["gt_coco2d"], axis=-1))
        errors.append(np.mean(np.minimum(error[found], 20)))
        seen.append(pooled(some, lambda s: s.extra["gt_visible_share"]).mean())
    assert errors[1] > 1.4 * errors[0]
    assert seen[1] < seen[0] - 0.05


def test_measured_noise_is_that_of_the_cues(scenes):
    """Perfect cues measure as perfect; a known error of every cue measures as that error."""
    exact, shifted = [], []
    for scene in scenes[:12]:
        ones = np.ones((len(scene), 17, 1))
        true = np.array([np.median(scene.true_depth[mask]) for mask in scene.masks])
        truth_px = scene.extra["gt_coco2d"]
        words = {"age": population.AGE_ANCHORS[scene.extra["gt_age_cat"]], "gender": scene.extra["gt_gender_cat"] / 2.0}
        exact.append(dataclasses.replace(scene, keypoints=np.concatenate([truth_px, ones], -1), median_depth=true,
                                         start=scene.truth, **words))  # fmt: skip
        size = np.ptp(truth_px, axis=1).max(-1)[:, None, None]
        off = np.concatenate([truth_px + 0.05 * size * [0.6, 0.8], ones], -1)
        far = dataclasses.replace(truth(scene), transl=2.0 * truth(scene).transl)
        shifted.append(dataclasses.replace(scene, keypoints=off, median_depth=1.3 * true, start=far, age=0 * true - 1))
    good, bad = measure.measure(exact), measure.measure(shifted)
    assert good["people"] == sum(len(scene) for scene in exact)
    assert good["joints visible: missed"] == 0
    assert good["joints visible: median error, % of size"] == pytest.approx(0, abs=1e-9)
    assert good["depth cue: spread of the scene's log error, %"] == pytest.approx(0, abs=1e-3)
    assert good["age words: right, of the usable"] == 1
    assert good["gender words, others: wrong"] == 0
    assert good["start: depth / true depth, adult (median)"] == 1
    assert bad["joints visible: median error, % of size"] == pytest.approx(5)
    assert bad["joints behind others: error above 10 % of size"] == 0
    assert bad["depth cue: spread of the person's log error, %"] == pytest.approx(0, abs=1e-3)
    assert bad["age words: unusable"] == 1
    assert bad["start: depth / true depth, adult (median)"] == 2
    page = measure.sheet(exact[:5], 3, 40)
    assert page.shape == (80, 120, 3)
    assert page[:40].std() > 5 and (page[40:, 80:] == 255).all()


# ------------------------------------------------------------------------------------------------ reproducibility


def same(a: RenderedScene, b: RenderedScene) -> None:
    assert a.name == b.name
    for name in ("image", "keypoints", "dense_keypoints", "median_depth", "masks", "depth_map", "age", "boxes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for part in ("root_rotvec", "transl", "pose", "shape"):
        np.testing.assert_array_equal(getattr(truth(a), part), getattr(truth(b), part))
        np.testing.assert_array_equal(getattr(a.start, part), getattr(b.start, part))


def test_a_scene_depends_only_on_seed_and_index(world, scenes):
    fresh = world.with_config(world.config)
    for scene in fresh.scenes(range(14, 18)):  # across a block's border, out of order
        same(scene, scenes[int(scene.name[-7:])])
    other = next(world.with_config(world.config, 4).scenes(range(1)))
    assert not np.array_equal(other.image, scenes[0].image)


def test_noise_leaves_geometry_and_picture_alone(world, scenes):
    noisy = world.with_config(override(world.config, ["keypoints.missed=0.5", "depth.scale=0.3", "start.root=0.3"]))
    for a, b in zip(noisy.scenes(range(3)), scenes):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.extra["gt_coco3d"], b.extra["gt_coco3d"])
        assert not np.array_equal(a.keypoints, b.keypoints)


def test_the_same_records_however_often_the_work_is_begun_and_mixing_is_refused(tmp_path, world):
    def write(folder: str, count: int = 12) -> cue_dataset.Progress:
        return cue_dataset.write(
            tmp_path / folder, cue_dataset.Plan(count, world.fingerprint(), 4), world.scenes, photo=jpeg
        )

    assert write("one").finished
    assert write("two", 8).finished
    assert write("two").finished
    files = sorted(p.name for p in (tmp_path / "one").glob("cues-train.array_record-*"))
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    changed = world.with_config(override(world.config, ["depth.scale=0.2"])).fingerprint()
    newer = {**world.fingerprint(), "world": -1}
    for source in (changed, newer):
        with pytest.raises(cue_dataset.StoreError, match="source"):
            cue_dataset.write(tmp_path / "one", cue_dataset.Plan(12, source, 4), world.scenes)


@pytest.mark.process
def test_program_writes_what_the_library_makes(tmp_path, world, scenes):
    command = [
        sys.executable,
        "-m",
        "experiments.synthesize",
        f"--output={tmp_path}/d",
        "--scenes=3",
        "--seed=3",
        "--render=picture",
    ]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(REPO / ".cache" / "jax"), "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    options = {"cwd": REPO, "capture_output": True, "text": True, "timeout": HANG_S, "env": environment}
    done = subprocess.run([*command, f"--set={SMALL[0]}"], **options)
    assert done.returncode == 0, done.stderr[-2000:]
    source = open_input(str(tmp_path / "d"), with_masks=True, with_depth_map=True)
    for index in range(3):
        loaded, made = source.load(index), scenes[index]
        np.testing.assert_array_equal(loaded.masks, made.masks)
        np.testing.assert_allclose(loaded.keypoints, made.keypoints, atol=1e-3)
        np.testing.assert_allclose(loaded.extra["gt_coco3d"], made.extra["gt_coco3d"], atol=1e-4)
        np.testing.assert_array_equal(loaded.extra["gt_posture"], made.extra["gt_posture"])
        assert loaded.depth_map is not None
        half = np.asarray(made.depth_map)[::2, ::2]
        np.testing.assert_allclose(loaded.depth_map[::2, ::2], half, rtol=1e-3)
        picture = np.asarray(Image.open(io.BytesIO(source.photo(index))))  # pyright: ignore[reportAttributeAccessIssue]
        assert np.abs(picture.astype(float) - made.image).mean() < 12


@pytest.mark.process
@pytest.mark.parametrize(
    "flags",
    [["--render=picture", "--people=1,2"], ["--difficulty=hard"]],
)
def test_flags_that_do_not_belong_together_are_refused(flags, tmp_path):
    command = [sys.executable, "-m", "experiments.synthesize", f"--output={tmp_path}/d", "--scenes=1", *flags]
    done = subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=HANG_S, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode != 0
    assert flags[-1].partition("=")[0] in done.stdout + done.stderr
    assert not (tmp_path / "d").exists()


def test_unknown_parameters_are_refused():
    with pytest.raises(ValueError, match="no field 'none'"):
        override(preset("easy"), ["keypoints.none=1"])
    with pytest.raises(ValueError, match="image_sizes"):
        override(preset("easy"), ["camera.image_sizes=((4,4),)"])
    with pytest.raises(ValueError, match="difficulty"):
        preset("impossible")
    with pytest.raises(ValueError, match=r"words\.age"):
        override(preset("easy"), ["words.age=((1.0,),)"])


def test_joint_names_cover_the_depth_table():
    assert world_cues.JOINT_DEPTH.shape == (len(COCO17),)
    assert (world_cues.JOINT_DEPTH > 0).all()


def test_whole_bodies_are_seen_in_the_picture_and_leave_the_rest(world: World, scenes) -> None:
    moving = world.with_config(override(preset("standard"), [*SMALL, "pose.whole_body=true"]))
    scene = next(iter(moving.scenes(range(1))))
    before = scenes[0]
    assert scene.extra["keypoints_133"].shape == (len(scene), 133, 3)
    np.testing.assert_array_equal(scene.extra["keypoints_133"][:, :17], scene.keypoints)
    off = np.abs(truth(scene).pose - truth(before).pose).max((0, 2))
    assert (off > 0).sum() > 40  # fingers and faces
    np.testing.assert_array_equal(truth(scene).shape, truth(before).shape)
