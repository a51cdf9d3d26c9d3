"""Rasteriser against independent per-pixel loops and known geometry."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import QUAD, SIZE, K, quad, sphere

from annyfit_jax.viz import (
    rasterise,
    rasterise_orthographic,
)


def brute_force(bodies, faces, intrinsics, size):
    """Every pixel against every triangle by solving for barycentric coordinates; triangles wholly in front only.

    Also returns where a centre is so close to a border that rounding may decide.
    """
    width, height = size
    depth, person = np.full((height, width), np.inf), np.full((height, width), -1)
    doubtful = np.zeros((height, width), dtype=bool)
    for index, body in enumerate(bodies):
        for triangle in body[faces]:
            image = triangle @ intrinsics.T
            uv1 = np.stack([image[:, 0] / image[:, 2], image[:, 1] / image[:, 2], np.ones(3)])
            if abs(np.linalg.det(uv1)) < 1e-9:
                continue
            inverse = np.linalg.inv(uv1)
            for row in range(height):
                for column in range(width):
                    weights = inverse @ [column + 0.5, row + 0.5, 1.0]
                    doubtful[row, column] |= abs(weights.min()) < 1e-9
                    if weights.min() >= 0:
                        z = 1 / (weights @ (1 / triangle[:, 2]))
                        doubtful[row, column] |= abs(z - depth[row, column]) < 1e-9
                        if z < depth[row, column]:
                            depth[row, column], person[row, column] = z, index
    return depth, person, doubtful


# ---------------------------------------------------------------------------------------------------------- rasteriser


def test_pixel_centres_are_at_half_integers():
    # At depth 8 and f = 80 one metre is 10 px: u spans [29.5, 34.5] and v [21.5, 26.5], borders included.
    raster = rasterise([quad(8.0, half=0.25)], QUAD, K, SIZE)
    rows, columns = np.nonzero(raster.person == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (21, 26, 29, 34)
    smaller = rasterise([quad(8.0, half=0.249)], QUAD, K, SIZE)
    rows, columns = np.nonzero(smaller.person == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (22, 25, 30, 33)


def test_slanted_plane_depth_is_perspective_correct():
    normal, offset = np.array([0.4, -0.3, 1.0]), 3.0  # n.X = offset
    corners = np.array([[-2, -2], [2, -2], [2, 2], [-2, 2.0]])
    body = np.column_stack([corners, offset - corners @ normal[:2]])
    raster = rasterise([body], QUAD, K, SIZE)
    v, u = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    rays = np.stack([(u - 32) / 80, (v - 24) / 80, np.ones_like(u)], axis=-1)
    expected = offset / (rays @ normal)
    seen = raster.person == 0
    assert seen.sum() > 2000
    assert np.abs(raster.depth - expected)[seen].max() < 1e-5
    # The barycentric weights give back the very point that the ray meets.
    points = (body[QUAD[raster.face[seen]]] * raster.barycentric[seen][..., None]).sum(axis=1)
    assert np.abs(points - rays[seen] * expected[seen][:, None]).max() < 1e-5


def test_cube_front_face_hides_the_rest():
    cube = trimesh.creation.box((1, 1, 1))
    raster = rasterise([np.asarray(cube.vertices) + np.array([0, 0, 3.0])], np.asarray(cube.faces), K, SIZE)
    seen = raster.person == 0
    assert seen.sum() == 32 * 32
    assert np.abs(raster.depth[seen] - 2.5).max() < 1e-4


def test_sphere_depth_and_silhouette():
    vertices, faces = sphere((0.0, 0.0, 3.0), radius=0.5)
    raster = rasterise([vertices], faces, K * [[10], [10], [1]], (640, 480))
    assert abs(raster.depth.min() - 2.5) < 2e-3
    # The silhouette is the tangent cone: tan = r / sqrt(d^2 - r^2), a little less for the inscribed polyhedron.
    expected = np.pi * (800 * 0.5 / np.sqrt(9 - 0.25)) ** 2
    assert 0.985 * expected < (raster.person == 0).sum() < expected


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_nearer_quad_hides_the_farther(order):
    quads = [quad(2.0, half=0.1), quad(4.0, half=0.6)]
    raster = rasterise([quads[k] for k in order], QUAD, K, SIZE)
    near, far = order.index(0), order.index(1)
    assert raster.person[24, 32] == near
    assert raster.depth[24, 32] == pytest.approx(2.0, abs=1e-6)
    assert raster.person[24, 42] == far
    assert (raster.person == near).sum() == 8 * 8  # half = 4 px
    assert (raster.person == far).sum() == 24 * 24 - 8 * 8  # half = 12 px, minus what is hidden


def test_intersecting_quads_and_face_order():
    rng = np.random.default_rng(0)
    body = rng.uniform([-1, -1, 2], [1, 1, 4], size=(60, 3))
    faces = np.arange(60).reshape(-1, 3)
    reference = rasterise([body], faces, K, SIZE)
    order = rng.permutation(len(faces))
    shuffled = rasterise([body], faces[order][:, [1, 0, 2]], K, SIZE)  # other order, other orientation
    np.testing.assert_allclose(shuffled.depth, reference.depth, rtol=1e-6)
    seen = reference.face >= 0
    assert seen.any()
    np.testing.assert_array_equal(order[shuffled.face[seen]], reference.face[seen])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.6, 3.0]))
def test_random_triangle_soup_equals_brute_force(seed, spread):
    rng = np.random.default_rng(seed)
    size, intrinsics = (19, 15), np.array([[14.0, 0.7, 9.1], [0, 13.0, 7.4], [0, 0, 1]])
    centres = rng.uniform([-1, -1, 1.5], [1, 1, 3], size=(2, 5, 1, 3))
    bodies = (centres + spread * rng.uniform(-0.4, 0.4, size=(2, 5, 3, 3))).reshape(2, 15, 3)
    faces = np.arange(15).reshape(-1, 3)
    depth, person, doubtful = brute_force(bodies, faces, intrinsics, size)
    raster = rasterise(bodies, faces, intrinsics, size)
    sure = ~doubtful
    np.testing.assert_array_equal(raster.person[sure], person[sure])
    np.testing.assert_allclose(raster.depth[sure], depth[sure], rtol=1e-6)


def test_blocks_of_work_do_not_change_the_result(monkeypatch):
    vertices, faces = sphere((0.1, 0.0, 2.0))
    whole = rasterise([vertices, vertices + 0.2], faces, K, SIZE)
    monkeypatch.setattr("annyfit_jax.viz.raster._BLOCK", 37)
    pieces = rasterise([vertices, vertices + 0.2], faces, K, SIZE)
    for name in ("depth", "person", "face", "barycentric"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_fan_over_the_picture_has_no_hole(seed):
    rng = np.random.default_rng(seed)
    # Rim points along the border of a rectangle a little larger than the picture; the hub often on a pixel centre.
    t = np.sort(np.concatenate([np.arange(4), rng.uniform(0, 4, size=40)]))
    side, s = t.astype(int) % 4, t % 1
    corners = np.array([[-1.0, -1], [SIZE[0] + 1, -1], [SIZE[0] + 1, SIZE[1] + 1], [-1, SIZE[1] + 1]])
    rim = corners[side] + s[:, None] * (corners[(side + 1) % 4] - corners[side])
    hub = rng.integers(5, 40, size=2) + (0.5 if seed % 2 else rng.uniform(size=2))
    pixels = np.vstack([hub, rim])
    z = rng.uniform(1, 3, size=len(pixels))
    body = np.column_stack([(pixels - [32, 24]) / 80 * z[:, None], z])
    rim_index = np.arange(1, len(pixels))
    faces = np.column_stack([np.zeros_like(rim_index), rim_index, np.roll(rim_index, -1)])
    assert (rasterise([body], faces, K, SIZE).person == 0).all()


def test_dense_grid_on_pixel_centres_has_no_hole():
    # Vertices and edges exactly on pixel centres, the worst case for the border rule.
    columns, rows = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    points = np.stack([(columns - 32) / 80 * 2, (rows - 24) / 80 * 2, np.full_like(rows, 2.0)], axis=-1).reshape(-1, 3)
    index = np.arange(len(points)).reshape(SIZE[1], SIZE[0])
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    faces = np.concatenate([np.column_stack([a, b, c]), np.column_stack([a, c, d])])
    raster = rasterise([points], faces, K, SIZE)
    assert (raster.person[1:-1, 1:-1] == 0).all()
    assert np.abs(raster.depth[1:-1, 1:-1] - 2.0).max() < 1e-6


def test_behind_the_camera_is_not_drawn_and_crossing_is_clipped():
    assert (rasterise([quad(-2.0)], QUAD, K, SIZE).person == -1).all()
    assert (rasterise([quad(0.03, half=5.0)], QUAD, K, SIZE).person == -1).all()
    # A floor 1 m below the camera from 5 m behind it to 20 m ahead: it fills the picture from the horizon's side down.
    floor = np.array([[-500, 1, -5], [500, 1, -5], [500, 1, 20], [-500, 1, 20.0]])
    raster = rasterise([floor], QUAD, K, SIZE)
    rows = np.arange(SIZE[1]) + 0.5
    expected = np.where(rows >= 24 + 80 / 20, 80 / np.maximum(rows - 24, 1e-9), np.inf)
    np.testing.assert_allclose(raster.depth, np.repeat(expected[:, None], SIZE[0], axis=1), rtol=1e-5)
    # A ball round the camera's own position is cut open, not smeared: all that is seen lies on the ball.
    vertices, faces = sphere((0.0, 0.0, 0.0), radius=0.5)
    ball = rasterise([vertices], faces, K, SIZE)
    assert (ball.person == 0).all()
    assert ball.depth.min() > 0.4
    assert ball.depth.max() < 0.501


def test_person_with_nan_is_left_out():
    broken = quad(1.0, half=2.0)
    broken[3, 1] = np.nan  # the triangle of the other three corners is not drawn either
    raster = rasterise([broken, quad(4.0)], QUAD, K, SIZE)
    assert set(np.unique(raster.person)) == {-1, 1}


def test_orthographic_view_from_above():
    # A table at y = -0.5 (above) over a larger floor at y = 1; picture 40 x 40 px for 4 m x 4 m, z upwards.
    def level(y, half, centre):
        corners = np.array(centre) + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        return np.column_stack([corners[:, 0], np.full(4, y), corners[:, 1]])

    bodies = [level(1.0, 1.0, (0, 2)), level(-0.5, 0.25, (0.5, 3.0))]
    raster = rasterise_orthographic(bodies, QUAD, ("x", "z"), (-2, 2, 0, 4), (40, 40))
    assert raster.depth[10, 25] == pytest.approx(-0.5)
    assert raster.person[10, 25] == 1  # x = 0.55, z = 2.95
    assert raster.person[29, 12] == 0  # x = -0.75, z = 1.05
    assert (raster.person == 1).sum() in (25, 30, 36)
    assert raster.person[9, 5] == -1
    points = (bodies[1][QUAD[raster.face[10, 25]]] * raster.barycentric[10, 25][:, None]).sum(axis=0)
    np.testing.assert_allclose(points, [0.55, -0.5, 2.95], atol=1e-6)


def test_side_view_looks_from_the_right():
    # The person on the right (x = 1) hides the one on the left.
    a, faces = sphere((1.0, 0.0, 2.0))
    b, _ = sphere((-1.0, 0.0, 2.0))
    raster = rasterise_orthographic([b, a], faces, ("z", "-y"), (0, 4, -2, 2), (40, 40))
    assert set(np.unique(raster.person)) == {-1, 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": np.zeros((4, 3))}, r"vertices\[0\].*\(V, 3\)"),
        ({"faces": np.array([[0, 1, 4]])}, "faces.*out of range"),
        ({"faces": np.zeros((2, 4), int)}, r"faces.*\(F, 3\)"),
        ({"intrinsics": np.zeros((3, 3))}, r"intrinsics.*\(3, 3\)"),
        ({"size": (0, 4)}, "size"),
        ({"near": 0.0}, "near"),
    ],
)
def test_bad_input_names_the_field(change, message):
    arguments = {"vertices": [quad(2.0)], "faces": QUAD, "intrinsics": K, "size": SIZE} | change
    with pytest.raises(ValueError, match=message):
        rasterise(**arguments)
    with pytest.raises(ValueError, match="axes"):
        rasterise_orthographic([quad(2.0)], QUAD, ("x", "-x"), (0, 1, 0, 1), SIZE)
