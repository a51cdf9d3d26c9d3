"""Noise of the rendered world's cues: its statistics are the documented parameters. And the drawn mesh's reduction."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scipy.spatial.transform import Rotation

from annyfit_jax.inputs.masks import erode
from annyfit_jax.people.scene import COCO17, BodyParameters
from annyfit_jax.synthetic import floor_contact, scenery, world_cues
from annyfit_jax.synthetic.decimate import decimate
from annyfit_jax.synthetic.plain_people import ADULT_AVERAGE
from annyfit_jax.synthetic.render import NOBODY, View
from annyfit_jax.synthetic.render_mesh import load_render_mesh
from annyfit_jax.synthetic.world_config import (
    PRESETS,
    STARTS,
    DepthNoise,
    KeypointNoise,
    StartNoise,
    WordNoise,
    neighbour_confusion,
)

N, SIZE = 4000, 300.0
EXACT = KeypointNoise(
    sigma=(0.02, 0.02), missed=0.1, missed_hidden=0.4, wild=0.0, swapped=0.0, small_px=0.0, hidden=3.0, self_hidden=1.5
)


def between(first, second) -> np.ndarray:
    """Rotation vectors that lead from one rotation to another."""
    return (Rotation.from_rotvec(first).inv() * Rotation.from_rotvec(second)).as_rotvec()


def detect(noise: KeypointNoise, level: int, size: float = SIZE, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(0, size, (N, 17, 2))
    sizes = np.full(N, size)
    sigma = world_cues.person_sigma(rng, sizes, noise)
    return pixels, world_cues.detect_joints(rng, pixels, np.full((N, 17), level), sigma, sizes, noise)


# ------------------------------------------------------------------------------------------------ keypoints


@pytest.mark.parametrize(
    ("level", "factor", "missed"),
    [
        (world_cues.VISIBLE, 1.0, 0.1),
        (world_cues.SELF_HIDDEN, 1.5, 0.2),
        (world_cues.HIDDEN, 3.0, 0.4),
        (world_cues.OUTSIDE, 1.0, 1.0),
    ],
)
def test_joint_noise_and_misses(level, factor, missed):
    pixels, found = detect(EXACT, level)
    seen = found[..., 2] > 0
    assert 1 - seen.mean() == pytest.approx(missed, abs=0.006)
    assert not found[~seen].any()
    if level != world_cues.OUTSIDE:
        error = (found[..., :2] - pixels)[seen]
        assert error.std() == pytest.approx(0.02 * SIZE * factor, rel=0.01)
        assert abs(error.mean()) < 0.05 * error.std()


def test_small_people_are_harder():
    """Factor 1 + (small / size)^2, at most 4, on the noise and on the misses; and a floor in pixels."""
    noise = KeypointNoise(sigma=(0.02, 0.02), floor_px=0.0, missed=0.1, wild=0.0, swapped=0.0, small_px=60.0)
    for size, factor in ((60.0, 2.0), (120.0, 1.25), (20.0, 4.0)):
        pixels, found = detect(noise, world_cues.VISIBLE, size)
        seen = found[..., 2] > 0
        assert (found[..., :2] - pixels)[seen].std() == pytest.approx(0.02 * size * factor, rel=0.01)
        assert 1 - seen.mean() == pytest.approx(0.1 * factor, abs=0.01)
    floor = KeypointNoise(sigma=(0.001, 0.001), floor_px=1.5, small_px=0.0, wild=0.0, swapped=0.0)
    pixels, found = detect(floor, world_cues.VISIBLE)
    assert (found[..., :2] - pixels)[found[..., 2] > 0].std() == pytest.approx(1.5, rel=0.01)


def test_wild_detections():
    noise = KeypointNoise(
        sigma=(0.001, 0.001), floor_px=0.0, missed=0.0, wild=0.05, wild_size=0.3, swapped=0.0, small_px=0.0
    )
    pixels, found = detect(noise, world_cues.VISIBLE)
    error = np.linalg.norm(found[..., :2] - pixels, axis=-1)
    wild = error > 0.01 * SIZE
    assert wild.mean() == pytest.approx(0.05, abs=0.004)
    assert np.median(error[wild]) == pytest.approx(
        1.177 * 0.3 * SIZE, rel=0.05
    )  # the median of a Rayleigh distribution
    assert found[wild, 2].mean() < found[~wild, 2].mean() - 0.1


def test_left_and_right_are_swapped_together():
    noise = KeypointNoise(sigma=(0.0, 0.0), floor_px=0.0, missed=0.0, wild=0.0, swapped=0.2, small_px=0.0)
    pixels, found = detect(noise, world_cues.VISIBLE)
    left, right = (
        [COCO17.index(f"{side}_{joint}") for joint in ("hip", "knee", "ankle")] for side in ("left", "right")
    )
    swapped = (found[:, left, :2] == pixels[:, right]).all((1, 2))
    assert swapped.mean() == pytest.approx(0.2, abs=0.02)
    assert (found[~swapped][:, left, :2] == pixels[~swapped][:, left]).all()
    assert (found[:, :5, :2] == pixels[:, :5]).all()  # never the face


def test_confidences_tell_the_levels_apart():
    means = [
        detect(EXACT, level)[1][..., 2] for level in (world_cues.HIDDEN, world_cues.SELF_HIDDEN, world_cues.VISIBLE)
    ]
    hidden, own, visible = (m[m > 0].mean() for m in means)
    assert hidden < 0.4 < own < 0.6 < visible


@pytest.mark.parametrize("correlated", [0.0, 0.6])
def test_dense_noise_has_its_size_and_is_shared_by_neighbours(correlated):
    noise = KeypointNoise(sigma=(0.02, 0.02), wild=0.0, small_px=0.0, correlated=correlated, dense_sigma=0.5)
    rng = np.random.default_rng(0)
    pixels = np.repeat(rng.uniform(0, SIZE, (1, 100, 2)), 600, axis=0)
    pixels[:, 1] = pixels[:, 0] + 2.0
    far = int(np.linalg.norm(pixels[0] - pixels[0, 0], axis=1).argmax())
    sizes = np.full(600, SIZE)
    found = world_cues.detect_dense(
        rng, pixels, np.full((600, 100), world_cues.VISIBLE), np.full(600, 6.0), sizes, noise
    )
    error = found[..., :2] - pixels
    assert error.std() == pytest.approx(3.0, rel=0.03)
    near = np.corrcoef(error[:, 0].ravel(), error[:, 1].ravel())[0, 1]
    assert near == pytest.approx(correlated, abs=0.08)
    assert abs(np.corrcoef(error[:, 0].ravel(), error[:, far].ravel())[0, 1]) < 0.25


# ------------------------------------------------------------------------------------------------ visibility


def test_levels_of_visibility_on_a_hand_made_view():
    """Person 0 fills the left at 3 m, person 1 the right at 2 m, nobody below."""
    owner = np.zeros((20, 20), np.int32)
    owner[:, 10:], owner[15:] = 1, NOBODY
    depth = np.where(owner == 0, 3.0, np.where(owner == 1, 2.0, np.inf))
    view = View(owner, depth, owner, np.zeros((20, 20, 3)), owner)
    pixels = np.array([[[4, 4], [4, 5], [16, 4], [4, 18], [-1, 4], [4, 25], [16, 5], [10.5, 6]]], float).repeat(2, 0)
    z = np.array([[3.1, 3.5, 3.1, 3.1, 3.1, 3.1, 1.5, 3.1], [2.0, 2.05, 2.0, 9.0, 2.0, 2.0, 2.5, 2.0]])
    points = np.stack([np.zeros_like(z), np.zeros_like(z), z], axis=-1)
    level = world_cues.visibility(view, points, pixels, np.full(z.shape, 0.15), 1e6)
    seen, own, hidden, out = world_cues.VISIBLE, world_cues.SELF_HIDDEN, world_cues.HIDDEN, world_cues.OUTSIDE
    # Person 0: seen; behind its own body; behind person 1; beside everybody; outside; outside; in front of 1; at its own rim.
    np.testing.assert_array_equal(level[0], [seen, own, hidden, seen, out, out, seen, seen])
    # Person 1: 0 stands behind these, so nothing hides them; the last but one lies deep in its own body.
    np.testing.assert_array_equal(level[1], [seen, seen, seen, seen, out, out, own, seen])


# ------------------------------------------------------------------------------------------------ depth


def test_depth_errors_have_their_spreads():
    noise = DepthNoise(scale=0.1, shift=0.2, person_scale=0.03, person_shift=0.0, pixel=0.0)
    mask = np.zeros((2, 8, 8), bool)
    mask[0, :4, :4], mask[1, 4:, 4:] = True, True
    depth = np.full((8, 8), 5.0)
    depth[0, 7], depth[1, 7] = 10.0, np.inf
    maps = np.stack([world_cues.depth_map(np.random.default_rng(i), depth, mask, noise) for i in range(3000)])
    assert np.isnan(maps[:, 1, 7]).all()
    near, far, person = maps[:, 0, 6], maps[:, 0, 7], maps[:, 0, 0]
    scale = (far - near) / 5.0
    assert np.log(scale).std() == pytest.approx(0.1, rel=0.05)
    assert (near - 5 * scale).std() == pytest.approx(0.2, rel=0.05)
    assert np.log(person / near).std() == pytest.approx(0.03, rel=0.05)
    assert np.corrcoef(person / near, maps[:, 7, 7] / near)[0, 1] == pytest.approx(0.0, abs=0.06)
    smooth = world_cues.depth_map(
        np.random.default_rng(0), np.full((256, 256), 4.0), mask[:0], DepthNoise(0, 0, 0, 0, 0.02)
    )
    assert 0.003 < np.log(smooth / 4.0).std() < 0.03


def test_erosion_and_median():
    rng = np.random.default_rng(0)
    masks = np.asarray(ndimage.binary_dilation(rng.random((6, 40, 50)) < 0.01, iterations=5, axes=(1, 2)))
    masks[5] = False
    for mask in masks:
        for radius in (0, 1, 3):
            square = np.ones((2 * radius + 1, 2 * radius + 1), bool)
            expected = ndimage.binary_erosion(mask, square, border_value=1)
            np.testing.assert_array_equal(erode(mask, radius), expected)
    depth = rng.uniform(1, 9, (40, 50))
    depth[20] = np.nan
    found = world_cues.median_depth(depth, masks, 1)
    for mask, value in zip(masks[:5], found):
        inner = erode(mask, 1)
        assert value == np.nanmedian(depth[inner if inner.sum() >= 9 else mask])
    assert np.isnan(found[5])


# ------------------------------------------------------------------------------------------------ words, start


def test_words_follow_the_confusion_matrix():
    matrix = neighbour_confusion(0.8)
    assert matrix[0] == pytest.approx((0.8, 0.2, 0, 0, 0, 0))
    assert matrix[2] == pytest.approx((0, 0.1, 0.8, 0.1, 0, 0))
    skewed = (*matrix[:4], (0.0, 0.0, 0.05, 0.25, 0.6, 0.1), matrix[5])
    noise = WordNoise(age=skewed, unusable=0.05, neutral=(0.4, 0.1), wrong=(0.2, 0.05))
    rng = np.random.default_rng(0)
    age, gender = np.repeat(np.arange(6), 6000), np.tile([0, 2], 18000)
    years = np.array([0.5, 2, 8, 12, 40, 80.0])[age]
    said, sex = world_cues.words(rng, age, years, gender, noise)
    anchors = np.array([0.0, 0.1, 0.33, 0.5, 0.66, 0.999])
    usable = said >= 0
    assert 1 - usable.mean() == pytest.approx(0.05, abs=0.005)
    for k in range(6):
        answers = said[usable & (age == k)]
        np.testing.assert_allclose([(answers == a).mean() for a in anchors], skewed[k], atol=0.02)
    for young, neutral, wrong in ((True, 0.4, 0.2), (False, 0.1, 0.05)):
        who = (sex >= 0) & ((years < 4) == young)
        assert (sex[who] == 0.5).mean() == pytest.approx(neutral, abs=0.015)
        assert (sex[who] == 1 - gender[who] / 2).mean() == pytest.approx(wrong, abs=0.015)


def test_starts_have_their_errors():
    rng = np.random.default_rng(0)
    n = 3000
    truth = BodyParameters(
        rng.normal(0, 0.5, (n, 3)), np.zeros((n, 3)), rng.normal(0, 0.3, (n, 162, 3)), rng.uniform(0.2, 0.8, (n, 6))
    )
    hands = np.zeros(162, bool)
    hands[100:] = True
    noise = StartNoise((0.5, 0.5), 0.0, 2.0, 0.1, 0.08, 0.02, True)
    start = world_cues.start_bodies(rng, truth, np.full(162, 0.05), hands, noise)
    np.testing.assert_allclose(start.shape[:, 1:], 0.5 * ADULT_AVERAGE[1:] + 0.5 * truth.shape[:, 1:])
    assert (start.shape[:, 0] == 0.4).all()  # nothing is known of the sex
    assert not start.pose[:, hands].any()
    assert between(truth.pose, start.pose)[:, ~hands].std() == pytest.approx(0.1, rel=0.02)
    assert between(truth.root_rotvec, start.root_rotvec).std() == pytest.approx(0.1, rel=0.03)
    at = np.tile([0.5, 0.2, 5.0], (n, 1))
    moved = world_cues.start_translation(rng, at, noise)
    assert np.log(moved[:, 2] / 5).std() == pytest.approx(0.08, rel=0.05)
    assert (moved[:, 0] / moved[:, 2] - 0.1).std() == pytest.approx(0.02, rel=0.05)


def test_presets_get_harder():
    easy, standard, hard = (PRESETS[name] for name in ("easy", "standard", "hard"))
    for path in ("keypoints.missed", "keypoints.missed_hidden", "keypoints.wild", "depth.scale", "depth.person_scale",
                 "words.unusable", "layout.occluders", "layout.behind", "pose.unusual"):  # fmt: skip
        part, name = path.split(".")
        values = [getattr(getattr(config, part), name) for config in (easy, standard, hard)]
        assert values == sorted(values), path
        assert values[0] < values[2], path
    assert STARTS["multihmr"].adult_bias[0] > STARTS["camerahmr"].adult_bias[1]


# ------------------------------------------------------------------------------------------------ contact, meshes


def test_settling_levels_the_contacts():
    """Two feet of unequal length: the body leans until both are level, about the axis from back to front only."""
    vertices = np.array([[0.1, -0.1, 0.0], [0.1, 0.1, 0.0], [-0.1, -0.1, 0.03], [-0.1, 0.1, 0.03], [0.0, 0.0, 1.7]])
    parts = {"foot.L": np.array([0, 1]), "foot.R": np.array([2, 3])}
    settled = floor_contact.settle(vertices, parts, ("foot.L", "foot.R"), 0.0, 0.5)
    turned = vertices @ Rotation.from_rotvec(settled).as_matrix().T
    assert turned[:2, 2].min() == pytest.approx(turned[2:4, 2].min(), abs=1e-6)
    assert abs(turned[4, 1]) < 1e-6
    assert abs(turned[4, 0]) == pytest.approx(1.7 * np.sin(np.arctan(0.15)), rel=0.02)
    stiff = floor_contact.settle(vertices, parts, ("foot.L", "foot.R"), 0.0, 0.01)
    assert np.linalg.norm(stiff) == pytest.approx(0.01)


def test_decimation_keeps_a_sphere_closed_and_round():
    sphere = trimesh.creation.icosphere(subdivisions=4)
    points = np.asarray(sphere.vertices)
    shapes = np.stack([points, points * [1.0, 1.5, 0.7]])
    kept, faces = decimate(shapes, np.asarray(sphere.faces), 300, np.ones(len(points)))
    assert len(kept) == 300
    reduced = trimesh.Trimesh(points[kept], faces, process=False)
    assert reduced.is_watertight
    assert reduced.euler_number == 2
    assert reduced.volume == pytest.approx(sphere.volume, rel=0.03)
    assert np.bincount(faces.ravel(), minlength=300).min() >= 3


def test_the_shipped_mesh_is_closed_and_the_bodys(load_anny):
    model = load_anny()
    mesh = load_render_mesh(model)
    points = np.asarray(model.vertices.mean, np.float64).T
    whole = trimesh.Trimesh(points, np.asarray(model.faces), process=False)
    drawn = trimesh.Trimesh(points[mesh.vertices], mesh.faces, process=False)
    assert drawn.is_watertight
    assert drawn.volume == pytest.approx(whole.volume, rel=0.01)
    assert len(drawn.split()) == 3  # skin and two eyes, no tongue
    assert all(len(mesh.parts[part]) > 20 for part in floor_contact.PARTS)
    for side, sign in (("L", 1), ("R", -1)):
        assert (sign * mesh.fields[mesh.parts[f"foot.{side}"], 0] > 0).all()


def test_blur_is_a_repeated_box_filter():
    grid = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    expected = grid.astype(float)
    for _ in range(2):
        expected = ndimage.uniform_filter(expected, 5, mode="nearest")
    np.testing.assert_allclose(scenery.blur(grid, 5)[4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-5)
