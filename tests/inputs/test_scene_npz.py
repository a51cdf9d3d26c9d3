"""The front door and scene files: what is read, what is refused."""

import contextlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from annyfit_jax.inputs import open_input, read_scene_npz
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.scene import BodyParameters, SceneError

SCENES = SHARED / "data" / "annyfit_scenes"
needs_shared = pytest.mark.skipif(not SCENES.is_dir(), reason="shared/data is not beside the checkout")
quick = settings(max_examples=25, deadline=None)


BODY_SHAPES = {"root_rotvec": (3,), "transl": (3,), "pose": (162, 3), "shape": (6,)}


def scene_arrays(seed: int, n: int) -> dict[str, np.ndarray]:
    """A valid scene file with random content."""
    rng = np.random.default_rng(seed)
    arrays = {
        "image_size": np.array([640, 480], np.int32),
        "K": np.array([[500, 0.5, 320], [0, 510, 240], [0, 0, 1]], np.float32),
        "keypoints_2d": rng.normal(300, 99, (n, 17, 3)).astype(np.float32),
        "dense_kp": rng.normal(300, 99, (n, 138, 3)).astype(np.float32),
        "median_depth": np.where(rng.random(n) < 0.3, np.nan, rng.uniform(1, 9, n)).astype(np.float32),
        "vlm_age": np.where(rng.random(n) < 0.3, -1, rng.random(n)),
        "vlm_gender": np.where(rng.random(n) < 0.3, -1, rng.random(n)),
        "depth_layer": rng.integers(-1, 4, n),
        "boxes": rng.uniform(0, 400, (n, 4)),
        "person_ids": np.array([f"p{seed}_{i}" for i in range(n)]),
        "gt_coco3d": rng.normal(size=(n, 17, 3)),
        "gt_visible": rng.random((n, 17)) < 0.5,
    }
    for prefix in ("init_", "gt_"):
        arrays |= {prefix + field: rng.normal(size=(n, *shape)) for field, shape in BODY_SHAPES.items()}
    return arrays


def assert_bodies(bodies: BodyParameters | None, arrays: dict, prefix: str) -> None:
    assert bodies is not None
    for field in BODY_SHAPES:
        np.testing.assert_array_equal(getattr(bodies, field), arrays[prefix + field])


def save(path: Path, arrays: dict, compressed: bool = False) -> None:
    (np.savez_compressed if compressed else np.savez)(path, allow_pickle=True, **arrays)


# --- scene .npz ---


@quick
@given(seed=st.integers(0, 2**31), n=st.integers(1, 5), compressed=st.booleans())
def test_a_written_scene_is_read_back(tmp_path, seed, n, compressed):
    arrays = scene_arrays(seed, n)
    save(tmp_path / "scene.npz", arrays, compressed)
    scene = open_input(str(tmp_path / "scene.npz")).load(0)
    assert (scene.name, scene.image_size, len(scene)) == ("scene", (640, 480), n)
    pairs = {"intrinsics": "K", "keypoints": "keypoints_2d", "dense_keypoints": "dense_kp", "age": "vlm_age",
             "gender": "vlm_gender", "median_depth": "median_depth", "depth_layer": "depth_layer",
             "boxes": "boxes"}  # fmt: skip
    for field, key in pairs.items():
        np.testing.assert_array_equal(getattr(scene, field), arrays[key])
    assert scene.person_ids == arrays["person_ids"].tolist()
    assert_bodies(scene.start, arrays, "init_")
    assert_bodies(scene.truth, arrays, "gt_")
    np.testing.assert_array_equal(scene.extra["gt_visible"], arrays["gt_visible"])
    assert set(scene.extra) == {"gt_coco3d", "gt_visible"}
    assert scene.notes == []


def test_a_minimal_scene_has_absent_cues_and_says_what_it_assumed(tmp_path):
    arrays = scene_arrays(0, 2)
    np.savez(tmp_path / "a.npz", image_size=arrays["image_size"], keypoints_2d=arrays["keypoints_2d"])
    scene = open_input(str(tmp_path), fov_degrees=75.0).load(0)
    assert scene.start is None
    assert scene.truth is None
    assert not scene.dense_keypoints.any()
    assert np.isnan(scene.median_depth).all()
    assert scene.age.tolist() == scene.gender.tolist() == scene.depth_layer.tolist() == [-1, -1]
    np.testing.assert_array_equal(scene.intrinsics, intrinsics_from_fov((640, 480), 75.0))
    assert scene.notes == ["intrinsics: 75 degree field of view"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints_2d": None}, "`keypoints_2d`: missing"),
        ({"keypoints_2d": np.zeros((2, 16, 3))}, r"`keypoints_2d`: expected shape \(n, 17, 3\), got \(2, 16, 3\)"),
        ({"keypoints_2d": np.zeros((0, 17, 3))}, None),
        ({"dense_kp": np.zeros((3, 138, 3))}, r"`dense_kp`: expected shape \(2, 138, 3\)"),
        ({"K": np.zeros((3, 3))}, "intrinsics: expected positive focal lengths"),
        ({"K": np.array([[5, 0, 1], [0, 5, 1], [0, 0.1, 1]])}, "intrinsics: expected the last row 0 0 1"),
        ({"K": np.array([[5, 5, 1], [5, 5, 1], [0, 0, 1.0]])}, "intrinsics: expected an invertible"),
        ({"image_size": np.array([640, 0])}, "`image_size`: expected a width and height"),
        ({"median_depth": np.array([1.0, -2.0])}, r"median_depth: expected positive metres or NaN, shape \(2,\)"),
        ({"vlm_age": np.array([0.5, 1.5])}, "age: expected anchors"),
        ({"init_pose": None}, r"init_\*: expected all of .* no \['init_pose'\]"),
        ({"init_pose": np.full((2, 162, 3), np.inf)}, "start.pose: expected finite numbers"),
        ({"keypoints_2d": np.array([["a"] * 51] * 2).reshape(2, 17, 3)}, "`keypoints_2d`: expected numbers"),
        ({"person_ids": np.array(["x", "x"])}, "person_ids: expected 2 different names"),
        ({"median_depth": np.array([{}, 1], object)}, "`median_depth`: .*pickled"),
        ({"image_path": np.array(["a", "b"])}, "`image_path`: expected one text"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    arrays = {k: v for k, v in (scene_arrays(1, 2) | change).items() if v is not None}
    if message is None:
        message = "no people"
        arrays = {k: v[:0] if len(v) == 2 and k != "image_size" else v for k, v in arrays.items()}
    save(tmp_path / "wrong.npz", arrays)
    with pytest.raises(SceneError, match=message) as caught:
        open_input(str(tmp_path / "wrong.npz")).load(0)
    assert "wrong" in str(caught.value)


def test_a_missing_coordinate_matters_only_with_confidence(tmp_path):
    arrays = scene_arrays(2, 2)
    arrays["keypoints_2d"][1, 4] = [np.nan, 5, 0]
    save(tmp_path / "a.npz", arrays)
    assert len(open_input(str(tmp_path / "a.npz")).load(0)) == 2
    arrays["keypoints_2d"][1, 4, 2] = 0.1
    save(tmp_path / "a.npz", arrays)
    with pytest.raises(SceneError, match=r"keypoints: expected finite x, y .* person 1, point 4"):
        open_input(str(tmp_path / "a.npz")).load(0)


@quick
@given(data=st.binary(max_size=300))
def test_garbage_is_only_ever_a_scene_error(tmp_path, data):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(SceneError, match=r"x\.npz"):
        open_input(str(tmp_path / "x.npz")).load(0)


def _survives(load) -> None:
    with contextlib.suppress(SceneError):
        load()


@quick
@given(cut=st.floats(0, 1), position=st.floats(0, 1), byte=st.integers(0, 255), compressed=st.booleans())
def test_damaged_files_raise_only_scene_errors(tmp_path, cut, position, byte, compressed):
    path = tmp_path / "x.npz"
    save(path, scene_arrays(3, 1), compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * (len(whole) - 1))])
    with pytest.raises(SceneError):
        read_scene_npz(str(path))
    changed = bytearray(whole)
    changed[int(position * (len(whole) - 1))] = byte
    path.write_bytes(changed)
    _survives(lambda: open_input(str(path)).load(0))


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 17, 3)}
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("image_size.npy", header.getvalue())
    with pytest.raises(SceneError, match=r"`image_size`: an array of shape .* does not fit"):
        read_scene_npz(str(tmp_path / "x.npz"))


@needs_shared
@pytest.mark.parametrize("folder", ["adult_bias", "mild_bias"])
def test_the_public_scenes_load(folder):
    source = open_input(str(SCENES / folder))
    scenes = list(source)
    assert source.kind == "scene_npz"
    assert len(source) == 20
    assert sum(len(scene) for scene in scenes) == 70
    assert all(scene.start and scene.truth and not scene.notes for scene in scenes)
    with np.load(SCENES / folder / f"{source.names[7]}.npz") as raw:
        assert_bodies(scenes[7].truth, dict(raw), "gt_")


# --- the front door ---


def test_unknown_input_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        SceneError, match=r"looked for a folder with `preprocessed/`.*scene .npz.*COCO.*for photos: .*no photo; looked"
    ):
        open_input(str(tmp_path))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(SceneError, match="photos alone are for annyfit fit and annyfit precompute"):
        open_input(str(tmp_path / "photos"))
    with pytest.raises(SceneError, match="no such file or folder"):
        open_input(str(tmp_path / "none"))
    (tmp_path / "a.json").write_text('{"images": 3}')
    with pytest.raises(SceneError, match=r"a.json: expected COCO keypoints"):
        open_input(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"images"')
    with pytest.raises(SceneError, match=r"a.json: not a JSON file"):
        open_input(str(tmp_path / "a.json"))
    save(tmp_path / "b.npz", scene_arrays(0, 1))
    with pytest.raises(SceneError, match="unknown input option tranlation"):
        open_input(str(tmp_path), tranlation="head")
    with pytest.raises(SceneError, match="option translation: expected"):
        open_input(str(tmp_path), translation="foot")
    with pytest.raises(SceneError, match="option images: no folder"):
        open_input(str(tmp_path), images=str(tmp_path / "none"))
    with pytest.raises(IndexError):
        open_input(str(tmp_path)).load(1)


def test_scene_names_are_unique_and_safe(tmp_path):
    images = [{"id": i, "file_name": name, "width": 9, "height": 9} for i, name in enumerate(
        ["a/1.jpg", "b/1.jpg", "1_1.png", "so me:thing.jpg", "..", "b/1.jpg"])]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": []}))
    names = open_input(str(tmp_path / "a.json")).names
    assert len(set(names)) == len(images)
    assert names[:4] == ("1", "1_1", "1_1_2", "so_me_thing")
    assert all("/" not in name and name.strip(".") for name in names)
