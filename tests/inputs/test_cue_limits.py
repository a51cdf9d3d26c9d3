"""Whatever one scene or person holds, it alone is set aside, with its reason; what is odd is said in words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import fake_job as fj
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annyfit_jax.inputs import masks, open_input
from annyfit_jax.inputs.cue_limits import without_impossible_cues
from annyfit_jax.inputs.pack_scenes import pack_scenes
from annyfit_jax.inputs.validate import checked_array, validate_scene
from annyfit_jax.people.scene import BodyParameters, Scene, SceneError

K17 = [v for j in range(17) for v in (5.0 + 3 * j, 4.0 + 2 * j, 2)]
HUGE = 10**400
Coco = Callable[..., str]


@pytest.fixture
def coco(tmp_path) -> Coco:
    """Writes a COCO file: of an image with a good person and one with the given annotation, and of a good image."""

    def write(annotation: dict | None = None, image: dict | None = None, **content: Any) -> str:
        images = [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}]
        images.append({"id": 2, "file_name": "b.jpg", "width": 64, "height": 48, **(image or {})})
        good = [{"id": 10 + i, "image_id": 1 + i, "keypoints": K17} for i in range(2)]
        odd = [{"id": 20, "image_id": 2, "keypoints": K17, **annotation}] if annotation is not None else []
        (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": good + odd, **content}))
        return str(tmp_path / "c.json")

    return write


# ------------------------------------------------------------------------------------------------ one person

BAD_PEOPLE: dict[str, dict] = {
    "layer of 2^64": {"depth_layer": 2**64},
    "layer of 10^400": {"depth_layer": HUGE},
    "fractional layer": {"depth_layer": 1.5},
    "age of 10^400": {"age": HUGE},
    "age in years": {"age": 34},
    "keypoint of 10^400": {"keypoints": [HUGE, *K17[1:]]},
    "keypoints of text": {"keypoints": ["a"] * 51},
    "flags": {"keypoints": [7 if i % 3 == 2 else v for i, v in enumerate(K17)]},
    "too few": {"keypoints": K17[:48]},
    "keypoint of NaN": {"keypoints": [float("nan"), *K17[1:]]},
    "keypoint at infinity": {"keypoints": [5.0, float("-inf"), *K17[2:]]},
    "box of text": {"bbox": ["a", 1, 2, 3]},
    "box of 10^400": {"bbox": [HUGE, 1, 2, 3]},
    "polygon at 1e308": {"segmentation": [[-1e308, -1e308, 1e308, 1e308, 1e308, -1e308]]},
    "polygon of text": {"segmentation": [["a"] * 6]},
    "runs of another size": {"segmentation": {"size": [1, 1], "counts": [1]}},
    "runs of 10^400": {"segmentation": {"size": [48, 64], "counts": [HUGE]}},
    "many polygons": {"segmentation": [[0, 0, 1, 0, 1, 1]] * 5000},
}


@pytest.mark.parametrize("kind", BAD_PEOPLE)
def test_a_person_who_cannot_be_read_is_set_aside_alone(coco, kind):
    source = open_input(coco(BAD_PEOPLE[kind]), with_masks=True)
    scene = source.load(1)
    assert scene.person_ids == ["11"]
    ((person, reason),) = scene.skipped
    assert person == "20"
    assert reason.startswith("unreadable annotation: ")
    assert len(reason) < 600
    assert source.load(0).person_ids == ["10"]


def test_a_person_with_an_id_that_is_taken_is_set_aside(coco):
    scene = open_input(coco({"id": 11})).load(1)
    assert scene.person_ids == ["11"]
    assert scene.skipped[0][0] == "11" and "the id is that of an earlier person" in scene.skipped[0][1]


@pytest.mark.parametrize("label", [2**64, HUGE, -HUGE, 1.5, "x", None, [], True])
def test_a_label_by_eye_of_another_kind_is_none(coco, label):
    scene = open_input(coco({"hand_label": {"age": label, "gender": label, "depth_id": label}})).load(1)
    assert scene.person_ids == ["11", "20"]
    assert scene.extra["hand_age"].tolist() == [-1, -1]
    noted = "hand_label beyond any label, taken as unknown: " in " ".join(scene.notes)
    assert noted == (label is not None)  # null is a usual way to say nothing


BAD_IMAGES: dict[str, dict] = {
    "camera of 10^400": {"camera": {"fx": HUGE, "fy": 1, "cx": 1, "cy": 1}},
    "focal length of 1e7": {"camera": {"fx": 1e7, "fy": 1e7, "cx": 32, "cy": 24}},
    "tiny focal length": {"camera": {"fx": 1e-9, "fy": 1e-9, "cx": 32, "cy": 24}},
    "centre elsewhere": {"camera": {"fx": 60, "fy": 60, "cx": 1e9, "cy": 24}},
    "width of 10^400": {"width": HUGE},
    "intrinsics of text": {"intrinsics": [["a"] * 3] * 3},
    "intrinsics of 10^400": {"intrinsics": [[HUGE] * 3] * 3},
    "fractional width": {"width": 64.5},
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_scene_that_cannot_be_read_is_set_aside_alone(coco, tmp_path, kind):
    source = open_input(coco(None, BAD_IMAGES[kind]))
    with pytest.raises(SceneError, match=r"b\.jpg|scene b"):
        source.load(1)
    state = pack_scenes(source, tmp_path / "out")
    assert (state.finished, state.scenes, state.set_aside) == (True, 1, 1)
    (line,) = (tmp_path / "out" / "set_aside.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"]


def test_what_no_check_foresaw_is_an_error_of_that_scene():
    from annyfit_jax.inputs.scene_source import SceneSource

    def load(index: int) -> Scene:
        raise [ZeroDivisionError, OverflowError, KeyError, RecursionError, MemoryError][index]("oh")

    source = SceneSource("made", tuple("abcde"), load, "here")
    for index, name in enumerate("abcde"):
        with pytest.raises(SceneError, match=f"here: scene {name}: cannot be read"):
            source.load(index)


# ------------------------------------------------------------------------------------------------ impossible cues


def scene(n: int = 3) -> Scene:
    made = fj.make_scene(1, n)
    made.start = BodyParameters(
        np.zeros((n, 3)), np.tile([0, 0, 4.0], (n, 1)), np.zeros((n, 162, 3)), np.full((n, 6), 0.5)
    )
    return made


def test_a_possible_scene_is_left_as_it_is():
    before = scene()
    after, notes = without_impossible_cues(before)
    assert after is before
    assert notes == [[], [], []]


def test_impossible_cues_are_set_aside_one_by_one():
    before = scene()
    before.keypoints[0, 3] = [1e30, 5, 1]
    before.keypoints[1, 2] = [5, 5, 2.0]
    before.median_depth[2] = 1e308
    before.depth_layer[0] = 2**62
    assert before.start is not None
    before.start.transl[1] = 1e30
    after, notes = without_impossible_cues(before)
    assert notes == [
        ["keypoint_far_outside", "depth_layer_beyond_any_place"],
        ["keypoint_confidence_above_1", "start_beyond_any_body"],
        ["depth_beyond_any_place"],
    ]
    assert after.keypoints[0, 3].tolist() == [0, 0, 0]
    assert after.keypoints[1, 2].tolist() == [5, 5, 1]
    assert np.isnan(after.median_depth).tolist() == [False, False, True]
    assert after.depth_layer.tolist() == [-1, -1, -1]
    assert after.start is not None
    assert np.isnan(after.start.pose).any((1, 2)).tolist() == [False, True, False]
    assert before.keypoints[0, 3, 0] == 1e30  # the scene that was given stays
    np.testing.assert_array_equal(after.keypoints[2], before.keypoints[2])
    validate_scene(after.__class__(**{**after.__dict__, "start": None}), "here")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=6, max_size=6), st.integers(0, 16))
def test_what_is_left_fits_single_precision(values, joint):
    """Squares of all that a fit reads are finite in float32, whatever the reader let through."""
    odd = scene()
    x, y, confidence, depth, transl, pose = values
    odd.keypoints[1, joint] = [x, y, confidence]
    odd.median_depth[1] = abs(depth) or 1.0
    assert odd.start is not None
    odd.start.transl[1, 0], odd.start.pose[1, joint, 0] = transl, pose
    after, _ = without_impossible_cues(odd)
    counted = after.keypoints[..., 2:] > 0
    assert after.start is not None
    for array in (np.where(counted, after.keypoints, 0), after.median_depth, after.start.transl, after.start.pose):
        known = array[~np.isnan(array)]
        assert np.isfinite(np.float32(known) ** 2).all()


# ------------------------------------------------------------------------------------------------ silence


@pytest.mark.parametrize("value", [[1.5], [2.0**63], [np.nan], [np.inf], np.array([2**64 - 1], np.uint64)])
def test_nothing_is_cut_to_a_whole_number(value):
    with pytest.raises(SceneError, match="here: expected whole numbers"):
        checked_array(np.asarray(value), "here", ("n",), np.int64)
    assert checked_array([3.0], "here", ("n",), np.int64).tolist() == [3]


def test_a_score_beside_flags_makes_no_confidence_of_2(coco, tmp_path):
    scores = {"score": 0.9}
    assert open_input(coco(scores)).load(1).keypoints[..., 2].tolist() == [[1.0] * 17] * 2
    fractions = {"score": 0.9, "keypoints": [0.25 if i % 3 == 2 else v for i, v in enumerate(K17)]}
    assert open_input(coco(fractions)).load(1).keypoints[1, 0].tolist() == [5.0, 4.0, 0.25]
    results = [{"image_id": "b", "keypoints": K17, "score": 0.9}]
    (tmp_path / "r.json").write_text(json.dumps(results))
    Image.new("RGB", (64, 48)).save(tmp_path / "b.jpg")
    assert open_input(str(tmp_path / "r.json")).load(0).keypoints[0, 0].tolist() == [5.0, 4.0, 1.0]


def test_fields_that_are_nearly_right_are_named_once(coco, tmp_path, caplog):
    source = open_input(coco({"depth_layr": 1, "keypoints_by_eyes": 1, "my_own_field": 3}, {"intrinsic": 1}))
    said = " ".join(source.notes)
    for wrong, right in (
        ("depth_layr", "depth_layer"),
        ("keypoints_by_eyes", "keypoints_by_eye"),
        ("intrinsic", "intrinsics"),
    ):
        assert f"the field `{wrong}` is not read; did you mean `{right}`?" in said
        assert caplog.text.count(f"`{wrong}`") == 1
    assert "my_own_field" not in said
    (tmp_path / "w.json").write_text(json.dumps({"11": {"aeg": "child"}, "99": {"age": "child", "gender": "male"}}))
    said = " ".join(open_input(coco(), words=str(tmp_path / "w.json")).notes)
    assert "1 of 2 entries name nobody, e.g. '99'" in said
    np.savez(
        tmp_path / "s.npz", image_size=[64, 48], keypoints_2d=np.reshape(K17, (1, 17, 3)), median_dept=[3.0], other=1
    )
    assert (
        open_input(str(tmp_path / "s.npz")).load(0).notes[0]
        == "not read: the entry `median_dept`: did you mean `median_depth`?"
    )


def test_a_folder_without_the_photos_is_refused_and_missing_ones_are_counted(coco, tmp_path, caplog):
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(
        SceneError, match=r"option images: none of the 2 photos of .*c\.json is in .*photos; the first is 'a.jpg'"
    ):
        open_input(coco(), images=str(photos))
    Image.new("RGB", (64, 48)).save(photos / "a.jpg")
    source = open_input(coco(), images=str(photos))
    assert source.notes == (f"option images: 1 of 2 photos are not in {photos}, e.g. 'b.jpg'",)
    pack_scenes(source, tmp_path / "out", with_images=True)
    assert (
        caplog.text.count("1 of 2 scenes were packed without a photo, because there is no such file; the first is b")
        == 1
    )


def test_a_file_name_chooses_nothing_outside_the_folder_of_photos(coco, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "secret.jpg")
    Image.new("RGB", (64, 48)).save(tmp_path / "photos" / "a.jpg")
    for name in (
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "photos/../../secret.jpg",
        "/etc/hostname",
        "x" * 300,
        "a\0b",
    ):
        assert open_input(coco(None, {"file_name": name}), images=str(tmp_path / "photos")).load(1).image_path is None


def test_named_pipes_are_not_waited_for(tmp_path):
    for name in ("a.npz", "a.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(SceneError, match="not a regular file"):
            open_input(str(tmp_path / name)).load(0)


def test_maps_of_millimetres_are_not_taken_for_metres(coco, tmp_path):
    folder = tmp_path / "depth"
    folder.mkdir()
    np.save(folder / "a.npy", np.full((48, 64), 3.0))
    np.save(folder / "b.npy", np.full((48, 64), 3000, np.uint16))
    source = open_input(coco({"segmentation": [[0, 0, 40, 0, 40, 40]]}), depth=str(folder))
    with pytest.raises(SceneError, match=r"b\.npy: expected metres, got a map whose nearest tenth lies beyond 3000"):
        source.load(1)
    far = np.full((48, 64), 1000.0)  # much sky behind somebody near
    far[20:, :30] = 5.0
    np.save(folder / "b.npy", far)
    assert np.nanmax(source.load(1).median_depth) == 5.0 or source.load(1).depth_map is not None
    np.savez(folder / "b.npz", depth=far * 1000)
    (folder / "b.npy").unlink()
    with pytest.raises(SceneError, match="millimetres"):
        source.load(1)


def test_a_giant_declared_picture_asks_for_no_memory(coco, tmp_path):
    folder = tmp_path / "depth"
    folder.mkdir()
    np.save(folder / "b.npy", np.full((48, 64), 3.0))
    giant = {"width": 65536, "height": 65536}
    with pytest.raises(SceneError, match="at most 80000000 pixels, got 65536 x 65536"):
        open_input(coco(None, giant), depth=str(folder)).load(1)
    scene = open_input(coco({"segmentation": [[0, 0, 40, 0, 40, 40]]}, giant)).load(1)  # without maps it is only large
    assert scene.image_size == (65536, 65536)
    whole = open_input(coco({"segmentation": [[0, 0, 40, 0, 40, 40]]}, giant), with_masks=True)
    with pytest.raises(SceneError, match="at most 80000000 pixels"):
        whole.load(1)


def test_polygons_of_many_corners_are_filled_or_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(SceneError, match="100000 corners that crosses"):
        masks.decode_segmentation([(480 * rng.random(200_000)).tolist()], (640, 480), "here")
    circle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    corners = 240 + 200 * np.stack([np.cos(circle), np.sin(circle)], 1)
    disc = masks.fill_polygon(corners, (480, 480))
    assert disc.sum() == pytest.approx(np.pi * 200**2, rel=1e-3)
