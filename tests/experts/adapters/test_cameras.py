"""Cameras from depth maps and without a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_photos import photo

from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.lens import Lens
from annyfit_jax.people.scene import SceneError
from experts import expert_store
from experts.adapters import cameras
from experts.interfaces import ExpertError, Photo

# ------------------------------------------------------------------------------------------------ cameras


@given(st.integers(0, 2**32 - 1))
def test_median_depths_look_only_around_each_person(seed):
    """As over whole masks, although each person is cut out of them."""
    from annyfit_jax.inputs.masks import median_depths
    from experts.assemble import _medians

    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 40, 50), bool)
    for mask in masks[: rng.integers(0, 5)]:
        x, y = rng.integers(0, 45, 2)
        mask[y : y + rng.integers(1, 25), x : x + rng.integers(1, 25)] = True
    depth = np.where(rng.random((40, 50)) < 0.1, np.nan, rng.uniform(1, 9, (40, 50))).astype(np.float32)
    kept = np.flatnonzero(rng.random(4) < 0.6)
    wanted = median_depths(depth.astype(np.float64), masks[kept], np.delete(masks, kept, axis=0))
    np.testing.assert_array_equal(_medians(depth, masks, kept), wanted)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1536, 1536), (1537, 1536), (4000, 3001), (9000, 700)])
def test_large_depth_maps_are_thinned_and_come_back_at_full_size(width, height):
    from experts import expert_cues

    plane = (np.arange(width, dtype=np.float32)[None] + 10 * np.arange(height, dtype=np.float32)[:, None]) + 1
    entry = expert_store.Entry("a", {"depth": expert_cues.thinned(plane)})
    assert entry.arrays["depth"].size <= expert_cues.MAX_DEPTH_PIXELS * 1.01
    back = expert_cues.depth_of(entry, (width, height))
    assert back.shape == plane.shape
    step = -(-height // len(entry.arrays["depth"]))
    assert (back is entry.arrays["depth"]) == (step == 1)
    assert np.abs(back - plane).max() <= 11 * (step - 1)  # the value of a pixel less than a step away


def test_cameras_without_a_model(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 27
    Image.fromarray(photo().pixels).save(tmp_path / "a.jpg", exif=exif)
    known = Photo("a", str(tmp_path / "a.jpg"), photo().pixels)
    estimated = np.diag([300.0, 300, 1])
    np.testing.assert_array_equal(
        cameras.FieldOfView(50).intrinsics([known], [None])[0], intrinsics_from_fov((200, 100), 50)
    )
    with_exif, without = cameras.ExifFocal(50).intrinsics([known, photo()], [None, None])
    assert with_exif[0, 0] == with_exif[1, 1] == 200 * 27 / 36
    np.testing.assert_array_equal(without, intrinsics_from_fov((200, 100), 50))
    a, b = cameras.FromDepth().intrinsics([known, known], [estimated, None])
    np.testing.assert_array_equal(a, estimated)
    np.testing.assert_array_equal(b, intrinsics_from_fov((200, 100)))


def test_a_calibration_file_gives_the_camera_of_each_photo_and_its_lens(tmp_path):
    table = {"cam1": {"K": [[90, 0, 100], [0, 90, 50], [0, 0, 1]], "size": [200, 100], "dist": [0.1, 0, 0, 0, 0]}}
    table["cam2"] = {"K": [[80, 0, 100], [0, 80, 50], [0, 0, 1]], "size": [400, 200]}
    (tmp_path / "cameras.json").write_text(json.dumps(table))
    expert = cameras.CalibrationFile(str(tmp_path / "cameras.json"))
    photos = [Photo(name, f"/photos/{name}", photo().pixels, name) for name in ("cam1/a.jpg", "cam2/a.jpg")]
    first, second = expert.intrinsics(photos, [None, None])
    assert (first[0, 0], second[0, 0]) == (90, 40)
    assert expert.lens_of("cam1/a.jpg") == Lens("brown", (0.1, 0.0, 0.0, 0.0, 0.0))
    assert expert.lens_of("cam2/a.jpg") is None
    assert len(expert.fingerprint()) == 64
    with pytest.raises(SceneError, match=r"no camera belongs to 'b.jpg'"):
        expert.lens_of("b.jpg")
    with pytest.raises(ExpertError, match="cannot be read"):
        cameras.CalibrationFile(str(tmp_path / "none.json")).load()
    with pytest.raises(ExpertError, match=r"no file; give --set=camera.path=FILE"):
        cameras.CalibrationFile().load()
