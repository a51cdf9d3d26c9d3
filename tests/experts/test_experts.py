"""Words and their probabilities, person pictures, rules for people, stored answers, start files, licensed regressors."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from annyfit_jax.inputs import licensed_regressors
from annyfit_jax.inputs.licensed_regressors import LicensedFileError
from annyfit_jax.inputs.official import bone_order
from annyfit_jax.people.boxes import pairwise_iou
from annyfit_jax.people.camera import intrinsics_from_fov
from annyfit_jax.people.dense_points import SurfacePoints, anny_dense_points, dense_vertex_indices
from annyfit_jax.people.scene import SceneError
from experts import attributes, crops, expert_store
from experts.adapters import cameras, start_files
from experts.attributes import AGE, ALL_ATTRIBUTES, GENDER, HEIGHT, UNKNOWN, Attribute, Token
from experts.interfaces import Detections, ExpertError, People, Photo
from experts.people_rules import Rules, confident, match_boxes, reasons_to_skip, select_detections

# ------------------------------------------------------------------------------------------------ reading answers


@pytest.mark.parametrize(
    ("text", "age", "gender"),
    [
        ('{"age": "child", "gender": "female"}', "child", "female"),
        ('{"AGE": "Toddler.", "Gender": "MALE"}', "toddler", "male"),
        ('Sure!\n```json\n{"age": "kid", "gender": "boy"}\n```\nAnything else?', "child", "male"),
        ('{"age": "unknown", "gender": "neutral"}', UNKNOWN, "neutral"),
        ('{"age": 34, "gender": null}', UNKNOWN, UNKNOWN),
        ('{"gender": "lady"}', UNKNOWN, "female"),
        ('{broken {"age": "teen", "gender": "man"} tail}', "teenager", "male"),
        ("The person is an elderly woman.", "senior", "female"),
        ("A young adult man, not a child.", "adult", "male"),
        ("She is no longer a teenager but an adult woman", "adult", "female"),
        ("It isn't a baby; it is a toddler, a girl.", "toddler", "female"),
        ("either a child or a teenager, male", UNKNOWN, "male"),
        ("I'm sorry, but I can't determine the age of this adult male.", UNKNOWN, UNKNOWN),
        ("I am unable to tell whether this is a man or a woman", UNKNOWN, UNKNOWN),
        ("Not sure. Perhaps an adult?", UNKNOWN, UNKNOWN),
        ("There is no person in the picture.", UNKNOWN, UNKNOWN),
        ("adulthood, manly, females", UNKNOWN, UNKNOWN),
        ("old man", "senior", "male"),
        ("", UNKNOWN, UNKNOWN),
        ("{" * 2000, UNKNOWN, UNKNOWN),
        ("[" * 100000, UNKNOWN, UNKNOWN),
    ],
)
def test_answers_as_models_give_them(text, age, gender):
    assert attributes.read_answer(text, [AGE, GENDER]) == {"age": age, "gender": gender}


@given(st.text(max_size=200))
def test_any_text_is_a_class_or_unknown(text):
    answers = attributes.read_answer(text, ALL_ATTRIBUTES)
    for attribute in ALL_ATTRIBUTES:
        assert answers[attribute.name] in (*attribute.classes, UNKNOWN)


@pytest.mark.parametrize("attribute", ALL_ATTRIBUTES, ids=lambda a: a.name)
def test_every_class_and_synonym_is_read_back(attribute: Attribute):
    for word in (*attribute.classes, *attribute.synonyms):
        name = attributes.classify(word.upper(), attribute)
        assert name in attribute.classes
        anchors = {**attribute.synonyms, **attribute.anchors}
        assert attribute.anchors[name] == anchors[word]
    for name in attribute.classes:
        text = json.dumps({a.name: name if a is attribute else UNKNOWN for a in ALL_ATTRIBUTES})
        assert attributes.read_answer(text, ALL_ATTRIBUTES)[attribute.name] == name


def test_the_anchor_table_is_config():
    from experts.registry import build

    experts = build("server", ["words.attributes.age.anchors.child=0.3", "words.attributes.age.anchors.newborn=0.0"])
    assert experts.words.attributes[0].anchors["child"] == 0.3
    assert experts.words.attributes[0].classes[-1] == "newborn"
    assert AGE.anchors["child"] == 0.33
    assert "newborn" in attributes.instructions(experts.words.attributes, "This is somebody.")
    assert experts.words.attributes[1] == GENDER
    # A commit that looks like a number stays text.
    assert build("default", ["detector.revision=12345678"]).detector.revision == "12345678"


# ------------------------------------------------------------------------------------------------ probabilities


def tokens(*parts: tuple[str, dict[str, float]]) -> list[Token]:
    return [Token(text, tuple((t, float(np.log(p))) for t, p in others.items())) for text, others in parts]


def test_token_probabilities_go_to_the_classes_they_can_begin():
    said = tokens(
        ('{"', {'{"': 1}), ("age", {"age": 1}), ('":', {'":': 1}), (' "', {' "': 1}),
        ("t", {"t": 0.5, "s": 0.2, "adult": 0.15, "old": 0.1, "unknown": 0.05}), ("oddler", {"oddler": 0.9}), ('"}', {'"}': 1}),
    )  # fmt: skip
    values = attributes.probabilities_from_tokens(said, AGE)
    assert values is not None
    # What was chosen counts for the answer; "old" begins old man, old woman, older adult: senior.
    np.testing.assert_allclose(values, [0, 0.5, 0, 0, 0.15, 0.3], atol=1e-9)
    glued = tokens(('{"age": "adult', {'{"age": "adult': 1.0}), ('"}', {'"}': 1.0}))
    assert attributes.probabilities_from_tokens(glued, AGE).tolist() == [0, 0, 0, 0, 1, 0]  # pyright: ignore
    merged = tokens(('{"age":', {'{"age":': 1.0}), (' "ba', {' "ba': 0.8, ' "to': 0.2}), ('by"}', {'by"}': 1}))
    values = attributes.probabilities_from_tokens(merged, AGE)
    assert values is not None
    np.testing.assert_allclose(values, [0.8, 0.2, 0, 0, 0, 0])
    ambiguous = tokens(('{"age": "', {'{"age": "': 1}), ("child", {"child": 0.6, "t": 0.4}), ('"}', {'"}': 1}))
    values = attributes.probabilities_from_tokens(ambiguous, AGE)
    assert values is not None
    np.testing.assert_allclose(values, [0, 0.2, 0.6, 0.2, 0, 0])
    assert attributes.probabilities_from_tokens(tokens(("adult", {"adult": 1.0})), AGE) is None
    assert attributes.probabilities_from_tokens(tokens(('{"age": "', {'{"age": "': 1.0})), AGE) is None
    assert attributes.probabilities_from_tokens([], AGE) is None


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(-20, 3)), min_size=1, max_size=8))
def test_token_probabilities_are_probabilities(others):
    said = [Token('{"age": "', (('{"age": "', 0.0),)), Token(others[0][0] or "x", tuple(others)), Token('"}', ())]
    values = attributes.probabilities_from_tokens(said, AGE)
    if values is not None:
        assert (values >= 0).all()
        assert values.sum() <= 1 + 1e-9


def test_votes_and_decisions():
    votes = ["child", "child", UNKNOWN, "adult"]
    values = attributes.probabilities_from_votes(votes, AGE)
    assert values.tolist() == [0, 0, 0.5, 0, 0.25, 0]
    table = np.array([values, [0, 0, 0.3, 0, 0.2, 0], np.zeros(6), [0, 0, 0, 0, 0, 1.0]])
    anchors, words = attributes.decide(table, AGE)
    assert words == ["child", "", "", "senior"]  # second: unknown (0.5) is likelier than any class
    assert anchors.tolist() == [0.33, -1, -1, 0.999]
    assert attributes.decide(table, AGE, minimum=0.6)[1] == ["", "", "", "senior"]
    mean, _ = attributes.decide(table, AGE, reduce="expected")
    np.testing.assert_allclose(mean, [(0.5 * 0.33 + 0.25 * 0.66) / 0.75, -1, -1, 0.999])
    assert attributes.decide(np.zeros((0, 3)), GENDER)[0].shape == (0,)
    assert attributes.probabilities_from_votes([], HEIGHT).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="expected `best` or `expected`"):
        attributes.decide(table, AGE, reduce="mode")


# ------------------------------------------------------------------------------------------------ pictures of people


def photo(width: int = 200, height: int = 100) -> Photo:
    return Photo("p", "p.jpg", np.random.default_rng(0).integers(1, 120, (height, width, 3), np.uint8))


def test_prompt_variants_show_what_they_say():
    shown = photo()
    masks = np.zeros((1, 100, 200), bool)
    masks[0, 30:60, 70:90] = True
    people = People(np.array([[60.0, 20, 110, 80]]), ["0"], masks)
    crop = crops.person_picture(shown, people, 0, "person")
    np.testing.assert_array_equal(crop, shown.pixels[14:86, 55:115])
    masked = crops.person_picture(shown, people, 0, "masked")
    inside = masks[0, 14:86, 55:115]
    np.testing.assert_array_equal(masked[inside], crop[inside])
    assert (masked[~inside] == 127).all()
    marked = crops.person_picture(shown, people, 0, "box")
    assert marked.shape == shown.pixels.shape
    np.testing.assert_array_equal(marked[20:80, 60:110], shown.pixels[20:80, 60:110])
    assert marked[19, 80].tolist() == [255, 0, 0]
    assert marked[0, 0].tolist() == shown.pixels[0, 0].tolist()
    assert max(crops.person_picture(shown, people, 0, "box", max_side=50).shape) == 50
    with pytest.raises(ValueError, match="head, person, masked, box"):
        crops.person_picture(shown, people, 0, "portrait")
    assert set(crops.SUBJECTS) == set(crops.VARIANTS)


def test_the_head_is_found_by_keypoints():
    shown = photo()
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, :7] = [[90, 30, 1], [92, 28, 1], [88, 28, 1], [94, 30, 1], [86, 30, 1], [100, 45, 1], [80, 45, 1]]
    people = People(np.array([[60.0, 20, 110, 90]]), ["0"], keypoints=keypoints)
    head = crops.person_picture(shown, people, 0, "head")
    rows, columns = head.shape[:2]
    assert 40 <= columns <= 50  # 2.2 shoulder widths
    assert rows == columns or abs(rows - columns) <= 1
    top, left = (int(v) for v in np.argwhere((shown.pixels == head[0, 0]).all(-1))[0])
    assert top <= 20 < 45 < top + rows
    assert left <= 80 < 100 < left + columns
    bare = crops.person_picture(shown, People(people.boxes, ["0"]), 0, "head")
    assert bare.shape[:2] == (28, 28)  # 0.4 of the box's longer side, from its top


@given(st.tuples(*[st.floats(-50, 250)] * 4), st.sampled_from(crops.VARIANTS), st.integers(1, 60), st.integers(1, 60))
def test_any_box_gives_a_picture(box, variant, width, height):
    people = People(np.array([box]), ["0"], np.zeros((1, height, width), bool), np.zeros((1, 17, 3)))
    shown = Photo("p", "p", np.zeros((height, width, 3), np.uint8))
    picture = crops.person_picture(shown, people, 0, variant, max_side=32)
    assert picture.size
    assert max(picture.shape[:2]) <= 60


# ------------------------------------------------------------------------------------------------ people


def test_overlaps_and_matches():
    a = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [5, 5, 5, 5]], float)
    b = np.array([[21, 0, 31, 10], [0, 0, 10, 5], [0, 0, 10, 9]], float)
    np.testing.assert_allclose(pairwise_iou(a, b), [[0, 0.5, 0.9], [9 / 11, 0, 0], [0, 0, 0]], atol=1e-9)
    assert match_boxes(a, b) == [2, 0, None]
    assert match_boxes(a[:2], b[:2], 0.6) == [None, 0]
    assert match_boxes(a, np.zeros((0, 4))) == [None, None, None]


def test_named_detections_keep_their_names():
    found = Detections(
        np.array([[0, 0, 50, 50], [0, 0, 50, 49], [-20, 10, 30, 500], [60, 60, 64, 64], [np.nan, 0, 5, 5.0]]),
        np.array([0.5, 0.9, 0.6, 0.8, 0.7]),
        ["7", "8", "9", "10", "11"],
        [("12", "crowd region")],
    )
    kept = select_detections(found, (100, 80), Rules())
    assert kept.ids == ["8", "9"]
    assert kept.boxes.tolist() == [[0, 0, 50, 49], [0, 10, 30, 80]]
    assert kept.skipped[0] == ("12", "crowd region")
    assert dict(kept.skipped)["7"] == "duplicate of person 8 (box)"
    assert dict(kept.skipped)["10"].startswith("too small")
    assert len(select_detections(found, (100, 80), Rules(min_score=0.85)).boxes) == 1


def test_people_without_enough_keypoints_and_twins_are_named():
    rng = np.random.default_rng(0)
    points = np.dstack([rng.uniform(0, 100, (4, 17)), rng.uniform(0, 100, (4, 17)), np.full((4, 17), 0.8)])
    points[1, 6:, 2] = 0.1
    points[2] = points[0] + [1.0, 0, -0.1]
    boxes = np.tile([0.0, 0, 100, 100], (4, 1))
    reasons = reasons_to_skip(points, boxes, ["a", "b", "c", "d"], Rules())
    assert reasons == {1: "6 confident keypoints, expected at least 7", 2: "duplicate of person a (keypoints)"}
    assert reasons_to_skip(points, boxes, ["a", "b", "c", "d"], Rules(min_keypoints=6, duplicate_keypoints=0.0)) == {}
    assert reasons_to_skip(np.zeros((0, 17, 3)), np.zeros((0, 4)), [], Rules()) == {}


def test_keypoints_outside_or_not_finite_do_not_count():
    points = np.array([[[5, 5, 0.9], [-0.1, 5, 0.9], [5, 20.5, 0.9], [np.nan, 5, 0.9], [5, 5, np.nan], [20, 20, 2.0]]])
    made = confident(points, (20, 20))
    assert (made[0, :, 2] > 0).tolist() == [True, False, False, False, False, True]
    assert np.isfinite(made).all()
    assert np.isnan(points).any()  # the input is left alone


# ------------------------------------------------------------------------------------------------ stored answers


def test_answers_are_stored_and_read_back_photo_by_photo(tmp_path):
    rng = np.random.default_rng(0)
    entries = [
        expert_store.Entry(
            "a", {"x": rng.normal(size=(2, 3)), "y/z": np.array([True, False])}, {"words": {"age": ["é", ""]}}
        ),
        expert_store.Entry("schön", error="no luck", blocked=True),
        expert_store.Entry("c"),
    ]
    path = tmp_path / "u" / "0.npz"
    expert_store.write_unit(path, entries)
    first = path.read_bytes()
    with expert_store.open_unit(path) as unit:
        assert len(unit) == 3
        read = unit.entry(0)
        np.testing.assert_array_equal(read.arrays["x"], entries[0].arrays["x"])
        np.testing.assert_array_equal(read.arrays["y/z"], [True, False])
        assert read.texts == entries[0].texts
        assert unit.entry(1) == entries[1]
    expert_store.write_unit(path, entries)
    assert path.read_bytes() == first
    assert [entry.error for entry in expert_store.read_index(path) or []] == ["", "no luck", ""]
    for damage in (b"", first[:50], first[:-30], b"x" + first[1:]):
        path.write_bytes(damage)
        assert expert_store.read_index(path) is None
    assert expert_store.read_index(tmp_path / "none.npz") is None


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


# ------------------------------------------------------------------------------------------------ start files


def test_multihmr_predictions_go_to_the_person_they_cover(tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(163)
    labels = np.array(bone_order())[order]

    def prediction(centre, depth):
        rotvec = rng.normal(size=(163, 3)).astype(np.float32)
        return {
            "rotvec": rotvec[order], "shape": np.array([0.9, 0.2], np.float32), "transl": np.array([0, 0, depth], np.float32),
            "transl_pelvis": np.array([[0, 1, depth]], np.float32), "bone_labels": labels.astype(str),
            "shape_keys": np.array(["age", "gender"]),
            "j2d": (np.array(centre) + rng.uniform([-10, -35], [10, 35], (163, 2))).astype(np.float16),
        }, rotvec  # fmt: skip

    (far, far_rotvec), (near, _) = prediction((150, 50), 7.0), prediction((50, 50), 3.0)
    np.savez(tmp_path / "p.npz", multihmr_pred=np.array([near, far], object))
    people = People(np.array([[135.0, 10, 165, 90], [90, 0, 110, 20], [38, 12, 62, 88]]), ["0", "1", "2"])
    expert = start_files.MultiHmrFiles(str(tmp_path))
    expert.load()
    (bodies,) = expert.start([photo()], [people])
    assert bodies.transl[[0, 2]].tolist() == [[0, 1, 7], [0, 1, 3]]
    assert np.isnan(bodies.pose[1]).all()
    np.testing.assert_array_equal(bodies.root_rotvec[0], far_rotvec[0])
    np.testing.assert_array_equal(bodies.pose[0], far_rotvec[1:])
    np.testing.assert_allclose(bodies.shape[0], [0.2, 0.9, 0.5, 0.5, 0.5, 0.5])
    assert not expert.card.commercial
    head = start_files.MultiHmrFiles(str(tmp_path), translation="head").start([photo()], [people])[0]
    assert head.transl[0].tolist() == [0, 0, 7]
    with pytest.raises(SceneError, match="no such file"):
        expert.start([Photo("q", "q.jpg", photo().pixels)], [people])
    with pytest.raises(ExpertError, match=r"--set=start\.path=FOLDER"):
        start_files.MultiHmrFiles().load()


# ------------------------------------------------------------------------------------------------ dense points


def test_the_default_dense_set_is_its_vertices():
    points = anny_dense_points()
    matrix = points.regressor(13718)
    assert matrix.shape == (138, 13718)
    np.testing.assert_array_equal(matrix.argmax(1), dense_vertex_indices())
    np.testing.assert_array_equal(matrix.sum(1), 1.0)
    middle = SurfacePoints(np.array([[0, 1, 2]]), np.array([[0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(middle.regressor(4) @ np.eye(4)[:, :3], [[0.5, 0.25, 0.25]])
    with pytest.raises(ValueError, match="the mesh has 2"):
        middle.regressor(2)
    for weights in ([[0.5, 0.5, 0.5]], [[1.5, -0.5, 0.0]]):
        with pytest.raises(ValueError, match="barycentric"):
            SurfacePoints(np.array([[0, 1, 2]]), np.array(weights))


DENSE, SMPL, SMPLX = 138, 40, 60


@pytest.fixture
def licensed(tmp_path):
    """Files of the official layout, with small meshes of random numbers in place of the licensed ones."""
    rng = np.random.default_rng(0)
    to_smpl = np.where(rng.uniform(size=(SMPL, SMPLX)) < 0.1, rng.uniform(size=(SMPL, SMPLX)), 0.0).astype(np.float32)
    dense = np.zeros((DENSE, SMPL))
    dense[np.arange(DENSE), rng.integers(0, SMPL, DENSE)] = 1.0
    coco = rng.uniform(size=(17, SMPL))
    (tmp_path / licensed_regressors.SMPLX_TO_SMPL).write_bytes(pickle.dumps({"matrix": to_smpl, "note": "x"}, 2))
    (tmp_path / licensed_regressors.DOWNSAMPLE).write_bytes(pickle.dumps(sparse.csr_matrix(dense), 4))
    np.save(tmp_path / licensed_regressors.COCO, coco)
    return tmp_path, to_smpl, dense, coco


def test_licensed_regressors_are_chained(licensed):
    folder, to_smpl, dense, coco = licensed
    made = licensed_regressors.load(folder)
    assert made.matrix.shape == (17 + DENSE, SMPLX)
    np.testing.assert_allclose(made.keypoints, coco @ to_smpl, rtol=1e-6)
    np.testing.assert_allclose(made.dense_points, dense @ to_smpl, rtol=1e-6)
    assert made.matrix.nnz == np.count_nonzero(np.concatenate([coco, dense]) @ to_smpl)
    assert "non-commercial" in made.licence


def test_licensed_regressors_of_another_shape_or_absent_are_named(licensed):
    folder, *_ = licensed
    np.save(folder / licensed_regressors.COCO, np.zeros((19, SMPL)))
    with pytest.raises(
        LicensedFileError, match=rf"J_regressor_coco_hip_smpl\.npy: expected shape \(17, {SMPL}\), got \(19, {SMPL}\)"
    ):
        licensed_regressors.load(folder)
    (folder / licensed_regressors.DOWNSAMPLE).unlink()
    with pytest.raises(LicensedFileError, match="after registration"):
        licensed_regressors.load(folder)
    (folder / licensed_regressors.SMPLX_TO_SMPL).write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(LicensedFileError, match="expected the entry `matrix`, it holds other"):
        licensed_regressors.load(folder)


MATRIX = np.array([[0, 1.5, 0, 0], [2, 0, 0, 0.25]])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.coo_matrix, sparse.csr_array, np.asarray, np.asfortranarray]
)
def test_matrices_of_every_pickle_protocol(tmp_path, kind, protocol):
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(kind(MATRIX), protocol))
    np.testing.assert_array_equal(licensed_regressors.read_matrix(path).toarray(), MATRIX)


class NumpyArrayWrapper:
    """As joblib writes it: the wrapper's attributes in the pickle, the array's bytes after it, in the same stream."""


NumpyArrayWrapper.__module__ = "joblib.numpy_pickle"


def joblib_bytes(matrix: np.ndarray, order: Any) -> bytes:
    base: Any = vars(pickle)["_Pickler"]  # in Python, so that its methods can be replaced

    class Pickler(base):
        def save(self, obj, save_persistent_id=True):
            if not isinstance(obj, np.ndarray):
                return super().save(obj, save_persistent_id)
            wrapper = {
                "subclass": np.ndarray, "shape": obj.shape, "order": order, "dtype": obj.dtype, "allow_mmap": True,
                "numpy_array_alignment_bytes": 16,
            }  # fmt: skip
            self.write(b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81")
            super().save(wrapper)
            self.write(b"b")
            self.framer.commit_frame(force=True)
            padding = 16 - (self.stream.tell() + 1) % 16
            self.stream.write(bytes([padding]) + b"\xff" * padding + obj.tobytes(order))
            return None

    stream = io.BytesIO()
    pickler: Any = Pickler(stream, 3)
    pickler.stream = stream
    pickler.dump({"matrix": matrix})
    return stream.getvalue()


@pytest.mark.parametrize("order", ["C", "F"])
def test_joblib_files(tmp_path, order):
    path = tmp_path / "m.pkl"
    whole = joblib_bytes(MATRIX, order)
    path.write_bytes(whole)
    np.testing.assert_array_equal(licensed_regressors.read_matrix(path, "matrix").toarray(), MATRIX)
    path.write_bytes(whole[:-40])
    with pytest.raises(LicensedFileError, match=r"m\.pkl"):
        licensed_regressors.read_matrix(path, "matrix")


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def _broken_csr(**changes):
    matrix = sparse.csr_matrix(MATRIX)
    vars(matrix).update(changes)
    return matrix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "refused: the pickle asks for the global posix.system"),
        ({"matrix": Evil()}, "refused"),
        (_broken_csr(indices=np.array([1, 0, 9], np.int32)), "index outside"),
        (_broken_csr(indptr=np.array([0, 5, 3], np.int32)), "row starts"),
        (_broken_csr(data=np.array([1.0])), "different lengths"),
        (_broken_csr(_shape=(2, 1 << 40)), "a sparse matrix of shape"),
        (np.zeros(3), "expected a matrix of finite numbers"),
        (np.array([[np.nan]]), "expected a matrix of finite numbers"),
        ("text", "expected a matrix"),
        (np.array([["a"]]), "expected a matrix"),
    ],
)
def test_hostile_pickles_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(LicensedFileError, match=message):
        licensed_regressors.read_matrix(path, "matrix" if isinstance(content, dict) else None)
    assert not (tmp_path / "evil").exists()


def test_a_pickle_cannot_fill_the_memory(tmp_path):
    """A far place in the memo: the C unpickler would take 32 GB for it."""
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    tracemalloc.start()
    with pytest.raises(LicensedFileError, match="place 2147483647 of the memo"):
        licensed_regressors.read_matrix(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@given(st.binary(max_size=60), st.integers(0, 400))
def test_any_bytes_are_a_matrix_or_one_error(tmp_path_factory, noise, position):
    data = bytearray(pickle.dumps(sparse.csr_matrix(MATRIX), 2))
    position %= len(data)
    data[position : position + len(noise)] = noise
    path = tmp_path_factory.getbasetemp() / "noise.pkl"
    path.write_bytes(bytes(data))
    try:
        matrix = licensed_regressors.read_matrix(path)
    except LicensedFileError:
        return
    assert len(matrix.shape) == 2


# ------------------------------------------------------------------------------------------------ SMPL's pose on Anny


def test_smpl_limbs_point_the_same_way_on_anny(load_anny, tmp_path):
    """Through files and Anny's own forward pass: limbs point to where SMPL's joints turn them."""
    from body_models import anny
    from experts.retarget import SMPL_PARENTS

    rng = np.random.default_rng(0)
    root = Rotation.from_rotvec([[np.pi, 0, 0], [2.5, 0.4, -0.3]]).as_matrix()  # facing the camera, and turned
    joints = Rotation.from_rotvec(rng.normal(scale=0.5, size=(2, 23, 3))).as_matrix()
    joints[0] = np.eye(3)
    pelvis = np.array([[0.3, 0.2, 3.0], [-0.5, 0.1, 5.0]])
    boxes = np.array([[0.0, 0, 50, 90], [60, 0, 110, 90]])
    np.savez(tmp_path / "p.npz", global_orient=root, body_pose=joints, pelvis=pelvis, boxes=boxes)
    expert = start_files.CameraHmrFiles(str(tmp_path))
    expert.load()
    (bodies,) = expert.start([photo()], [People(boxes, ["0", "1"])])
    assert not expert.card.commercial
    parts: Any = (
        np.asarray(part, np.float32) for part in (bodies.shape, bodies.root_rotvec, bodies.pose, bodies.transl)
    )
    model = load_anny()
    heads = np.asarray(anny.forward(model, anny.Params(*parts)).bone_poses)[..., :3, 3]
    at = {name: heads[:, k] for k, name in enumerate(model.labels.bones)}
    for person in range(2):
        space = [root[person]]
        for joint in range(1, 24):
            space.append(space[SMPL_PARENTS[joint]] @ joints[person, joint - 1])
        for start, end, joint, rest in (
            ("upperleg01.L", "lowerleg01.L", 1, [0, -1, 0]), ("lowerleg01.R", "foot.R", 5, [0, -1, 0]),
            ("upperarm01.L", "lowerarm01.L", 16, [1, 0, 0]), ("lowerarm01.R", "wrist.R", 19, [-1, 0, 0]),
        ):  # fmt: skip
            limb = at[end][person] - at[start][person]
            assert limb / np.linalg.norm(limb) @ space[joint] @ rest > np.cos(np.radians(0.2)), (person, start)
        middle = (at["upperleg01.L"][person] + at["upperleg01.R"][person]) / 2
        np.testing.assert_allclose(middle, pelvis[person], atol=1e-3)
    # Upright and facing the camera: head up (y down), left hand to the right of the picture.
    assert at["head"][0, 1] < pelvis[0, 1] - 0.3
    assert at["wrist.L"][0, 0] > pelvis[0, 0] + 0.4
    np.savez(tmp_path / "p.npz", global_orient=root, body_pose=joints[:, :21], pelvis=pelvis, boxes=boxes)
    with pytest.raises(
        SceneError, match=r"body_pose.*expected shape \(2, 23, 3\) or \(2, 23, 3, 3\), got \(2, 21, 3, 3\)"
    ):
        expert.start([photo()], [People(boxes, ["0", "1"])])
