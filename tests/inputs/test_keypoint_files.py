"""Keypoint files of other programs: every family gives the same people, and what is unsure is refused."""

import json

import numpy as np
import pytest
from helpers import require_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annyfit_jax.inputs import keypoint_files, open_input
from annyfit_jax.inputs.point_sets import POINT_SETS, WHOLE_BODY
from annyfit_jax.people.scene import COCO17, SceneError

SIZE = (640, 480)
WHERE = {
    "nose": (0, -70), "left_eye": (3, -73), "right_eye": (-3, -73), "left_ear": (7, -71), "right_ear": (-7, -71),
    "left_shoulder": (18, -55), "right_shoulder": (-18, -55), "left_elbow": (26, -30), "right_elbow": (-26, -30),
    "left_wrist": (30, -8), "right_wrist": (-30, -8), "left_hip": (10, 0), "right_hip": (-10, 0), "left_knee": (11, 40),
    "right_knee": (-11, 40), "left_ankle": (12, 80), "right_ankle": (-12, 80), "neck": (0, -56), "pelvis": (0, 0),
    "head_top": (0, -85), "chin": (0, -64), "spine": (0, -28), "left_heel": (11, 84), "right_heel": (-11, 84),
    "left_big_toe": (15, 88), "right_big_toe": (-15, 88), "left_small_toe": (18, 87), "right_small_toe": (-18, 87),
}  # fmt: skip
"""A standing person who faces the camera, around the pelvis."""


def position(name: str, person: int = 0) -> np.ndarray:
    if name in WHERE:
        x, y = WHERE[name]
    else:  # somewhere that no other point is
        k = sum(map(ord, name)) % 97
        x, y = -40 + k % 10, 20 + k // 10
    return np.array([200.0 + 150 * person + x, 250.0 + y])


def rows(names, person: int = 0, confidence: float = 0.75) -> np.ndarray:
    return np.array([[*position(name, person), confidence] for name in names])


def openpose(skeleton: str, hands: bool = False) -> dict:
    people = []
    for i in range(2):
        person = {"person_id": [-1], "pose_keypoints_2d": rows(POINT_SETS[skeleton], i).ravel().tolist()}
        for side in ("left", "right"):
            hand = rows([f"{side}_hand_root", *WHOLE_BODY[92:112]]).ravel().tolist()
            person[f"hand_{side}_keypoints_2d"] = hand if hands else []
        person["face_keypoints_2d"] = rows([f"face_{k}" for k in range(70)]).ravel().tolist() if hands else []
        people.append(person)
    return {"version": 1.3, "people": people}


def mmpose(skeleton: str) -> list:
    points = [rows(POINT_SETS[skeleton], i) for i in range(2)]
    return [
        {"keypoints": p[:, :2].tolist(), "keypoint_scores": p[:, 2].tolist(), "bbox": [[10.0, 20.0, 300.0, 400.0]]}
        for p in points
    ]


def ultralytics_json() -> list:
    points = [rows(COCO17, i) for i in range(2)]
    return [
        {
            "name": "person", "class": 0, "confidence": 0.9, "box": {"x1": 10.0, "y1": 20.0, "x2": 300.0, "y2": 400.0},
            "keypoints": {"x": p[:, 0].tolist(), "y": p[:, 1].tolist(), "visible": p[:, 2].tolist()},
        }
        for p in points
    ]  # fmt: skip


def labels(each: int = 3, tail: str = "") -> str:
    lines = []
    for i in range(2):
        p = rows(COCO17, i) / (*SIZE, 1.0)
        lines.append(" ".join(["0", "0.3", "0.5", "0.2", "0.4", *map(str, p[:, :each].ravel())]) + tail)
    return "\n".join(lines)


def landmarks(person: int = 0) -> list:
    p = rows(POINT_SETS["blazepose33"], person) / (*SIZE, 1.0)
    return [{"x": x, "y": y, "z": -0.1, "visibility": v} for x, y, v in p]


def easy_vitpose() -> dict:
    p = [rows(COCO17, i) for i in range(2)]
    frames = [{str(i): q[:, [1, 0, 2]].tolist() for i, q in enumerate(p)}]
    return {"keypoints": frames, "skeleton": dict(enumerate(COCO17))}


CASES = {
    "openpose body_25": openpose("body_25"),
    "openpose body_25b with hands and face": openpose("body_25b", hands=True),
    "openpose coco": openpose("coco18"),
    "rtmpose halpe26 as openpose": openpose("halpe26"),
    "alphapose open": {"photo.jpg": openpose("coco18")},
    "alphapose cmu": {"photo.jpg": {"version": "AlphaPose v0.3", "bodies": [
        {"joints": rows(POINT_SETS["coco18"], i).ravel().tolist()} for i in range(2)]}},
    "alphapose results halpe26": [
        {"image_id": "photo.jpg", "category_id": 1, "keypoints": rows(POINT_SETS["halpe26"], i).ravel().tolist(),
         "score": 2.9, "box": [10, 20, 290, 380], "idx": i} for i in range(2)],
    "alphapose results halpe136": [
        {"image_id": "photo.jpg", "category_id": 1, "keypoints": rows(POINT_SETS["halpe136"], i).ravel().tolist(), "score": 2.9}
        for i in range(2)],
    "coco results of 133 points": [
        {"image_id": "photo", "category_id": 1, "keypoints": rows(WHOLE_BODY, i).ravel().tolist(), "score": 0.9}
        for i in range(2)],
    "results with a list per point": [
        {"image_id": "photo", "keypoints": rows(COCO17, i).tolist(), "score": 0.9} for i in range(2)],
    "coco categories that do not say so": {
        "images": [{"id": 1, "file_name": "photo.jpg"}], "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17)}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "keypoints": rows(WHOLE_BODY, i).ravel().tolist()}
                        for i in range(2)]},
    "mmpose coco17": mmpose("coco17"),
    "mmpose halpe26": mmpose("halpe26"),
    "mmpose whole body": mmpose("coco133"),
    "mmpose inferencer": {"predictions": [mmpose("coco17")]},
    "mmpose frames of h36m by name": {
        "meta_info": {"keypoint_id2name": dict(enumerate(POINT_SETS["h36m17"]))},
        "instance_info": [{"frame_id": 0, "instances": mmpose("h36m17")}]},
    "mmpose before version 1": {
        "preds": [rows(COCO17, i).tolist() for i in range(2)], "boxes": [], "image_paths": ["photo.jpg", "photo.jpg"]},
    "easy vitpose": easy_vitpose(),
    "ultralytics": ultralytics_json(),
    "mediapipe": {"landmarks": [landmarks(0), landmarks(1)], "worldLandmarks": []},
    "mediapipe lists": [landmarks(0), landmarks(1)],
}  # fmt: skip


def check_people(scene, has_all: bool = True) -> None:
    assert len(scene) == 2
    order = np.argsort(scene.keypoints[:, 5, 0])
    for i, person in enumerate(scene.keypoints[order]):
        seen = person[:, 2] > 0
        assert seen.all() if has_all else seen.sum() >= 12
        expected = np.array([position(name, i) for name in COCO17])
        np.testing.assert_allclose(person[seen, :2], expected[seen], atol=1e-6)
        np.testing.assert_allclose(person[seen, 2], 0.75)


@pytest.mark.parametrize("case", CASES)
def test_every_family_gives_the_same_people(tmp_path, case):
    Image.new("RGB", SIZE).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.json").write_text(json.dumps(CASES[case]))
    source = open_input(str(tmp_path / "photo.json"))
    assert source.names == ("photo",)
    scene = source.load(0)
    assert scene.image_size == SIZE
    assert scene.image_path == str(tmp_path / "photo.jpg")
    check_people(scene, has_all="h36m" not in case)


@pytest.mark.parametrize(("each", "tail"), [(3, ""), (3, " 0.91"), (3, " 0.91 7"), (2, ""), (2, " 0.91")])
def test_labels_of_ultralytics(tmp_path, each, tail):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "photo.txt").write_text(labels(each, tail))
    (tmp_path / "labels" / "classes.txt").write_text("person\ndog\n")
    source = open_input(str(tmp_path / "labels"), image_size=SIZE)
    assert source.kind == "ultralytics"
    scene = source.load(0)
    confidence = 1.0 if each == 2 else 0.75
    assert (scene.keypoints[..., 2] == confidence).all()
    scene.keypoints[..., 2] = 0.75
    check_people(scene)


def test_points_beyond_the_seventeen_are_kept_by_name(tmp_path):
    (tmp_path / "photo_keypoints.json").write_text(json.dumps(openpose("body_25", hands=True)))
    scene = open_input(str(tmp_path), image_size=SIZE).load(0)
    whole = scene.extra["keypoints_133"]
    assert whole.shape == (2, 133, 3)
    assert (whole[..., 2] > 0).all()
    np.testing.assert_allclose(whole[1, WHOLE_BODY.index("right_heel"), :2], position("right_heel", 1))
    np.testing.assert_allclose(whole[0, 91, :2], position("left_hand_root"))
    np.testing.assert_allclose(whole[0, 112, :2], position("right_hand_root"))
    names = scene.extra["other_point_names"].tolist()
    assert sorted(names) == ["left_pupil", "neck", "pelvis", "right_pupil"]
    np.testing.assert_allclose(scene.extra["other_points"][1, names.index("neck"), :2], position("neck", 1))


def test_landmarks_of_mediapipe_keep_the_feet(tmp_path):
    (tmp_path / "photo.json").write_text(json.dumps({"landmarks": [landmarks()]}))
    scene = open_input(str(tmp_path / "photo.json"), image_size=SIZE).load(0)
    np.testing.assert_allclose(
        scene.extra["keypoints_133"][0, WHOLE_BODY.index("left_heel"), :2], position("left_heel")
    )
    assert "left_foot_index" in scene.extra["other_point_names"].tolist()


def test_frames_and_folders_have_their_own_names(tmp_path):
    frames = {"instance_info": [{"frame_id": k, "instances": mmpose("coco17")} for k in (7, 8)]}
    (tmp_path / "clip.json").write_text(json.dumps(frames))
    assert open_input(str(tmp_path / "clip.json"), image_size=SIZE).names == ("clip_000007", "clip_000008")
    folder = tmp_path / "nested"
    for place in ("a", "b"):
        (folder / place).mkdir(parents=True)
        (folder / place / "0001_keypoints.json").write_text(json.dumps(openpose("body_25")))
        Image.new("RGB", SIZE).save(folder / place / "0001.png")
    source = open_input(str(folder))
    assert source.names == ("a_0001", "b_0001")
    assert source.load(1).image_path == str(folder / "b" / "0001.png")


def test_a_broken_file_is_set_aside_alone(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(openpose("body_25")))
    (tmp_path / "b.json").write_text("{")
    one_broken = {"people": [{"pose_keypoints_2d": [1, 2]}, *openpose("body_25")["people"]]}
    (tmp_path / "c.json").write_text(json.dumps(one_broken))
    (tmp_path / "d.json").write_text(json.dumps({"camera": "left"}))
    source = open_input(str(tmp_path), image_size=SIZE)
    assert source.names == ("a", "b", "c")
    assert any("1 files without keypoints" in note for note in source.notes)
    check_people(source.load(0))
    with pytest.raises(SceneError, match=r"b.json: not a JSON file"):
        source.load(1)
    check_people(source.load(2))
    (broken,) = source.load(2).skipped
    assert broken[0] == "0"
    assert "person 0: pose_keypoints_2d: expected x, y, confidence" in broken[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (openpose("h36m17"), "order of the 17 points is not that of coco17, but of h36m17"),
        (mmpose("h36m17"), "order of the 17 points is not that of coco17, but of h36m17"),
        (openpose("mpii16"), "expected 51 numbers"),
        ({"people": [{"pose_keypoints_2d": [0.0] * 75}]}, "nobody in 1 pictures"),
        (
            {"people": [{"pose_keypoints_2d": (rows(COCO17) / (*SIZE, 1) * 2 - 1).ravel().tolist()}]},
            "from -1 to 1 are not read",
        ),
        ([{**mmpose("coco17")[0], "keypoints": [[1, 2, 3]] * 17}], "expected x and y, got 3 coordinates"),
        ([{**mmpose("coco17")[0], "keypoint_scores": [1, 2]}], "scores: expected 17 numbers"),
        ({"landmarks": [landmarks()[:20]]}, "no known keypoints"),
        ({"landmarks": [[{**mark, "x": 300} for mark in landmarks()]]}, "expected landmarks as shares"),
        ({"words": "no keypoints"}, "no known keypoints; looked for COCO"),
        ([1, 2, 3], "no known keypoints"),
        (
            [{"image_id": 1, "keypoints": rows(POINT_SETS["h36m17"]).ravel().tolist(), "score": 1.0}],
            "not that of coco17",
        ),
    ],
)
def test_what_is_refused(tmp_path, content, message):
    (tmp_path / "photo.json").write_text(json.dumps(content))
    with pytest.raises(SceneError, match=message):
        open_input(str(tmp_path / "photo.json"), image_size=SIZE).load(0)


def test_two_families_in_one_folder_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(openpose("body_25")))
    (tmp_path / "b.json").write_text(json.dumps(mmpose("coco17")))
    with pytest.raises(SceneError, match=r"keypoints of openpose \(a.json\) and mmpose \(b.json\): give one kind"):
        open_input(str(tmp_path))


def test_a_declared_skeleton_decides(tmp_path):
    for name in ("h36m17", "mpii16"):
        (tmp_path / "photo.json").write_text(json.dumps(openpose(name)))
        scene = open_input(str(tmp_path / "photo.json"), image_size=SIZE, skeleton=name).load(0)
        check_people(scene, has_all=False)
    with pytest.raises(SceneError, match="16 points, but body_25 has 25"):
        open_input(str(tmp_path / "photo.json"), image_size=SIZE, skeleton="body_25")


def test_arrays_need_a_declaration(tmp_path):
    points = np.stack([rows(COCO17, i) for i in range(2)])
    path = tmp_path / "photo.npy"
    np.save(path, points)
    with pytest.raises(SceneError, match="arrays do not say which points they are: store `skeleton`"):
        open_input(str(path), image_size=SIZE)
    check_people(open_input(str(path), image_size=SIZE, skeleton="coco17").load(0))
    frames = np.stack([points, points])
    frames[1, 1] = np.nan
    npz = tmp_path / "clip.npz"
    np.savez(npz, keypoints=frames, skeleton="coco17", image_size=SIZE, file_names=["a.png", "b.png"])
    source = open_input(str(npz))
    assert source.kind == "arrays"
    assert source.names == ("a", "b")
    check_people(source.load(0))
    assert source.load(1).person_ids == ["0"]
    np.savez(npz, keypoints=rows(POINT_SETS["body_25"])[None], point_names=POINT_SETS["body_25"])
    assert len(open_input(str(npz), image_size=SIZE).load(0)) == 1
    np.savez(npz, keypoints=points, point_names=["nose"])
    with pytest.raises(SceneError, match=r"as many names of points as points \(17\), got 1"):
        open_input(str(npz), image_size=SIZE)
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(SceneError, match="not a NumPy file of numbers"):
        open_input(str(path), skeleton="coco17")


def test_real_files_of_openpose_give_the_points_that_others_undistorted():
    folder = require_shared("data/pose2sim/openpose")
    content = json.loads(require_shared("data/pose2sim/pose2sim.json").read_text())
    images = {image["file_name"]: image["id"] for image in content["images"]}
    truth = {a["image_id"]: np.array(a["keypoints"]).reshape(17, 3) for a in content["annotations"]}
    source = open_input(str(folder), calibration=str(folder.parent / "Calib.qca.txt"))
    assert (source.kind, len(source)) == ("openpose", 16)
    compared = 0
    for name, scene in zip(source.names, source, strict=True):
        assert scene.image_size == (1088, 1920)
        assert scene.lens.startswith("brown -0.04")
        assert not scene.focal_guessed
        camera, frame = name.split("_json_")[1].split(".")
        expected = truth.get(images.get(f"multi_f{int(frame):03d}_c{int(camera[3:])}.jpg", -1))
        if "S00_P01" in name and expected is not None:
            seen = expected[:, 2] > 0
            errors = [np.abs(person[seen, :2] - expected[seen, :2]).max() for person in scene.keypoints]
            assert min(errors) < 1e-3
            compared += 1
    assert compared == 8


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(sorted(CASES)), data=st.data())
def test_any_change_of_a_value_raises_only_scene_errors(tmp_path_factory, case, data):
    """A number, text, list or object anywhere in a file takes another kind of value."""
    content = json.loads(json.dumps(CASES[case]))
    node, depth = content, data.draw(st.integers(1, 6))
    for _ in range(depth):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or _ == depth - 1:
            node[key] = data.draw(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats()
                | st.text(max_size=3)
                | st.just([])
                | st.just({})
            )
            break
        node = node[key]
    path = tmp_path_factory.mktemp("k") / "photo.json"
    path.write_text(json.dumps(content))
    try:
        for scene in open_input(str(path), image_size=SIZE):
            assert np.isfinite(scene.keypoints).all()
    except SceneError:
        return


def test_the_family_of_nothing():
    for content in (None, {}, [], 3, "text", [[]], [{}], {"a": {}}, keypoint_files.ultralytics_keypoints.Lines()):
        assert keypoint_files.family_of(content) is None
