"""COCO keypoints: photos, detection results, words, masks and depth maps."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annyfit_jax.inputs import open_input
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.scene import COCO17, SceneError

REAL = SHARED / "data" / "real"
needs_shared = pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is not beside the checkout")
quick = settings(max_examples=25, deadline=None)


def _survives(load) -> None:
    with contextlib.suppress(SceneError):
        load()


def person(**fields) -> dict:
    xy = [[10.0 + 5 * j, 20.0 + 7 * j, 2] for j in range(17)]
    return {"id": 7, "image_id": 1, "keypoints": [v for joint in xy for v in joint], "bbox": [5, 6, 70, 80], **fields}


def write_coco(tmp_path, annotations, image=None, **top) -> str:
    image = {"id": 1, "file_name": "photo.jpg", "width": 100, "height": 150} | (image or {})
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": [image], "annotations": annotations, **top}))
    return str(path)


def load_coco(tmp_path, annotations, image=None, top=None, **options):
    return open_input(write_coco(tmp_path, annotations, image, **(top or {})), **options).load(0)


@needs_shared
def test_the_real_photos_give_38_people_with_519_keypoints():
    source = open_input(str(REAL / "annotations.json"), images=str(REAL))
    scenes = list(source)
    assert source.kind == "coco"
    assert len(scenes) == 10
    assert sum(len(scene) for scene in scenes) == 38
    assert sum(int((scene.keypoints[..., 2] == 1).sum()) for scene in scenes) == 519
    assert sum(len(scene.skipped) for scene in scenes) == 8
    assert all(reason == "no keypoints" for scene in scenes for _, reason in scene.skipped)
    assert all(Path(scene.image_path).is_file() for scene in scenes)
    assert all((scene.depth_layer == -1).all() and scene.masks is None for scene in scenes)
    babies = scenes[source.names.index("36039")]
    assert babies.age.tolist() == [0, 0]
    assert babies.gender.tolist() == [0.5, 0.5]
    assert any("by eye" in note for note in babies.notes)
    assert sum(int((scene.age >= 0).sum()) for scene in scenes) == 2  # no other photo has words


@needs_shared
def test_labels_by_eye_are_cues_only_on_request():
    plain = open_input(str(REAL / "annotations.json"), images=str(REAL))
    asked = open_input(str(REAL / "annotations.json"), images=str(REAL), hand_labels=True, hand_depth=True)
    i = plain.names.index("000000003934")
    before, after = plain.load(i), asked.load(i)
    assert (before.age == -1).all()
    names = {0: 0.66, 1: 0.5, 2: 0.33, 3: 0.0, -1: -1}
    assert after.age.tolist() == [names[int(code)] for code in before.extra["hand_age"]]
    assert after.gender.tolist() == before.extra["hand_gender"].tolist()  # 0 male, 1 female, -1 unknown
    assert after.depth_layer.tolist() == before.extra["hand_depth_layer"].tolist() == [1, 3, 2, 2, -1, 0]


@needs_shared
def test_polygon_masks_have_the_annotated_area():
    annotations = {str(a["id"]): a for a in json.loads((REAL / "annotations.json").read_text())["annotations"]}
    ratios = []
    for scene in open_input(str(REAL / "annotations.json"), images=str(REAL), with_masks=True):
        assert scene.masks is not None
        for name, mask in zip(scene.person_ids, scene.masks, strict=True):
            assert mask.any() == bool(annotations[name]["segmentation"])
            if mask.any():
                ratios.append(mask.sum() / annotations[name]["area"])
    assert len(ratios) == 36
    assert np.abs(np.median(ratios) - 1) < 2e-3
    assert np.abs(np.array(ratios) - 1).max() < 0.03


def test_flags_and_confidences(tmp_path):
    flags = person()
    flags["keypoints"][2], flags["keypoints"][5], flags["keypoints"][3:5] = 1, 0, [0, 0]
    assert load_coco(tmp_path, [flags]).keypoints[0, :3, 2].tolist() == [1, 0, 1]
    assert load_coco(tmp_path, [flags], hidden_confidence=0.25).keypoints[0, :3, 2].tolist() == [0.25, 0, 1]
    detected = person()
    detected["keypoints"][2::3] = [0.5 + j / 100 for j in range(17)]
    np.testing.assert_allclose(load_coco(tmp_path, [detected]).keypoints[0, :, 2], 0.5 + np.arange(17) / 100)
    wrong = person()
    wrong["keypoints"][2] = 3
    with pytest.raises(SceneError, match=r"photo.jpg, annotation 7.keypoints: expected the flags"):
        load_coco(tmp_path, [wrong])
    with pytest.raises(SceneError, match=r"annotation 7.keypoints: expected 51 numbers .* got 48"):
        load_coco(tmp_path, [person(keypoints=[0] * 48)])


def test_joints_are_taken_by_the_categories_names(tmp_path):
    names = list(reversed(COCO17))
    reversed_scene = load_coco(
        tmp_path,
        [person(category_id=3)],
        top={"categories": [{"id": 3, "name": "person", "keypoints": ["extra", *names[:-1]]}]},
    )
    points = np.array(person()["keypoints"]).reshape(17, 3)
    assert reversed_scene.keypoints[0, 0].tolist() == [0, 0, 0]  # the nose is not named
    np.testing.assert_array_equal(reversed_scene.keypoints[0, 1:, :2], points[:0:-1, :2])


def test_words_come_from_the_first_place_that_has_them(tmp_path):
    everything = person(
        age="toddler", attributes={"age": "senior", "gender": "female"}, vlm_label={"gender": "male"},
        hand_label={"age": 2, "gender": 0, "depth_id": 4},
    )  # fmt: skip
    scene = load_coco(tmp_path, [everything], hand_labels=True)
    assert (scene.age[0], scene.gender[0]) == (0.1, 1.0)
    (tmp_path / "words.json").write_text(json.dumps({"7": {"age": 0.42}}))
    scene = load_coco(tmp_path, [everything], words=str(tmp_path / "words.json"))
    assert (scene.age[0], scene.gender[0]) == (0.42, 1.0)
    scene = load_coco(tmp_path, [person(age="dragon", vlm_label={"gender": "unknown"})])
    assert (scene.age[0], scene.gender[0]) == (-1, 0.5)
    scene = load_coco(tmp_path, [person(depth_layer=2, hand_label={"depth_id": 5})], hand_depth=True)
    assert scene.depth_layer.tolist() == [2]
    with pytest.raises(SceneError, match=r"annotation 7.age: expected a word"):
        load_coco(tmp_path, [person(age=7)])


def test_people_to_set_aside(tmp_path):
    annotations = [
        person(id=1, iscrowd=1), person(id=2, num_keypoints=0), person(id=3, keypoints=[0] * 51),
        person(id=4, category_id=9), person(id=5),
    ]  # fmt: skip
    scene = load_coco(tmp_path, annotations, top={"categories": [{"id": 9, "name": "dog"}]})
    assert scene.person_ids == ["5"]
    assert dict(scene.skipped) == {"1": "crowd region", "2": "no keypoints", "3": "no keypoints", "4": "category dog"}
    with pytest.raises(SceneError, match="photo: no people; 1: crowd region"):
        load_coco(tmp_path, annotations[:2])


def test_negative_confidences_are_not_seen_and_noted(tmp_path):
    keypoints = [50.0, 60.0, 0.5] * 17
    keypoints[2] = -0.25
    scene = load_coco(tmp_path, [person(keypoints=keypoints)])
    assert scene.keypoints[0, 0, 2] == 0 and (scene.keypoints[0, 1:, 2] == 0.5).all()
    assert "person 7: 1 negative confidences are taken as not seen" in scene.notes


def test_intrinsics_of_image_file_or_field_of_view(tmp_path):
    camera = {"fx": 90, "fy": 91, "cx": 50, "cy": 70}
    k = [[1, 0, 2], [0, 3, 4], [0, 0, 1]]
    assert load_coco(tmp_path, [person()], {"intrinsics": k}, {"camera": camera}).intrinsics.tolist() == k
    scene = load_coco(tmp_path, [person()], top={"camera": camera})
    assert scene.intrinsics.tolist() == [[90, 0, 50], [0, 91, 70], [0, 0, 1]]
    assert scene.notes == []
    scene = load_coco(tmp_path, [person()])
    np.testing.assert_array_equal(scene.intrinsics, intrinsics_from_fov((100, 150)))
    assert scene.notes == ["intrinsics: 60 degree field of view"]
    with pytest.raises(SceneError, match="camera: expected the numbers fx, fy, cx, cy"):
        load_coco(tmp_path, [person()], {"camera": {"fx": 1}})


def test_the_size_of_a_turned_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg", exif=exif)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "photo.jpg"}], "annotations": [person()]}))
    scene = open_input(str(path)).load(0)
    assert scene.image_size == (20, 30)
    assert scene.image_path == str(tmp_path / "photo.jpg")


def test_detection_results(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "000000000012.png")
    results = [
        {"image_id": 12, "category_id": 1, "keypoints": [3, 4, 0.5] * 17, "score": 0.9},
        {"image_id": 99, "category_id": 1, "keypoints": [3, 4, 1] * 17, "score": 0.9},
        {"image_id": 12, "category_id": 1, "keypoints": [5, 6, 1] * 17, "score": 0.8},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    source = open_input(str(path), images=str(tmp_path))
    scene = source.load(0)
    assert source.names == ("12", "99")
    assert scene.image_size == (64, 48)
    assert scene.person_ids == ["0", "2"]
    assert scene.keypoints[:, 0].tolist() == [[3, 4, 0.5], [5, 6, 1]]
    assert scene.boxes is not None
    assert scene.boxes[0].tolist() == [3, 4, 3, 4]
    with pytest.raises(SceneError, match="image 99: no `width` and `height`"):
        source.load(1)


def test_median_depth_through_masks(tmp_path):
    square = lambda x0, y0, x1, y1: [[x0, y0, x1, y0, x1, y1, x0, y1]]  # noqa: E731
    annotations = [
        person(id=1, segmentation=square(10, 10, 50, 50)),
        person(id=2, segmentation=square(60, 100, 63, 103)),  # nothing remains after the erosion
        person(id=3, segmentation=square(30, 10, 60, 50), num_keypoints=0),  # in front of person 1
        person(id=4),
    ]
    depth = np.full((150, 100), 9.0)
    depth[10:50, 10:50] = 3.0
    depth[10:50, 10:12] = 50.0  # blurred border
    depth[10:50, 30:60] = 1.0
    depth[100:103, 60:63] = 5.0
    depth[0, 0] = -1
    np.save(tmp_path / "photo.npy", depth)
    scene = load_coco(tmp_path, annotations, depth=str(tmp_path), with_masks=True)
    assert scene.median_depth[:2].tolist() == [3.0, 5.0]
    assert np.isnan(scene.median_depth[2])
    assert scene.depth_map is not None
    assert np.isnan(scene.depth_map[0, 0])
    assert scene.masks is not None
    assert scene.masks.sum(axis=(1, 2)).tolist() == [1600, 9, 0]
    (tmp_path / "photo.npy").unlink()
    half = (depth[::2, ::2] * 1000).clip(0).astype(np.uint16)
    Image.fromarray(half).save(tmp_path / "photo.png")
    labels = np.zeros((150, 100), np.uint8)
    labels[20:40, 15:25] = 4  # the fourth annotation, the third person
    (tmp_path / "masks").mkdir()
    Image.fromarray(labels).save(tmp_path / "masks" / "photo.png")
    scene = load_coco(tmp_path, annotations, depth=str(tmp_path), masks=str(tmp_path / "masks"))
    assert scene.median_depth[2] == 3.0
    assert np.isnan(scene.median_depth[:2]).all()
    assert scene.masks is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=8,
)


@quick
@given(
    field=st.sampled_from(
        ["id", "image_id", "keypoints", "bbox", "segmentation", "age", "attributes", "hand_label", "depth_layer"]
    ),
    value=json_values,
)
def test_strange_annotation_fields_raise_only_scene_errors(tmp_path, field, value):
    path = write_coco(tmp_path, [person(**{field: value}), person(id=8)])
    _survives(lambda: open_input(path, with_masks=True, hand_labels=True, hand_depth=True).load(0))


@quick
@given(field=st.sampled_from(["id", "file_name", "width", "intrinsics", "camera"]), value=json_values)
def test_strange_image_fields_raise_only_scene_errors(tmp_path, field, value):
    path = write_coco(tmp_path, [person()], {field: value}, categories=[value], info=value)
    _survives(lambda: open_input(path).load(0))
