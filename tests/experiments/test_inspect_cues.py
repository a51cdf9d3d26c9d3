"""The page of cues: every cue is drawn where it is, and said in the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annyfit_jax.inputs import cue_dataset
from annyfit_jax.people.scene import BodyParameters, Scene, SceneError
from experts import cue_page
from experts.cue_pictures import cue_pictures, depth_colours, depth_range, draw_dense, draw_masks
from experts.interfaces import Card

SIZE = (160, 120)
K = np.array([[140.0, 0, 80], [0, 140, 60], [0, 0, 1]])


def scene(name: str = "s", people: int = 2, **changes) -> Scene:
    """People side by side, with every cue."""
    n = people
    rng = np.random.default_rng(0)
    boxes = np.array([[10.0 + 70 * i, 10, 70 + 70 * i, 110] for i in range(n)])
    place = lambda k: boxes[:, None, :2] + rng.random((n, k, 2)) * (boxes[:, 2:] - boxes[:, :2])[:, None]  # noqa: E731
    points = lambda k: np.concatenate([place(k), np.full((n, k, 1), 0.9)], axis=2)  # noqa: E731
    masks = np.zeros((n, SIZE[1], SIZE[0]), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    transl = np.array([[-0.6 + 1.2 * i, 0.1, 3.0] for i in range(n)])
    whole = points(133)
    fields = {
        "name": name,
        "image_size": SIZE,
        "intrinsics": K,
        "keypoints": whole[:, :17],
        "dense_keypoints": points(138),
        "median_depth": np.linspace(2.0, 4.0, n),
        "depth_layer": np.full(n, -1),
        "age": np.full(n, 0.33),
        "gender": np.full(n, -1.0),
        "start": BodyParameters(
            np.tile([np.pi / 2, 0, 0], (n, 1)), transl, np.zeros((n, 162, 3)), np.full((n, 6), 0.5)
        ),
        "person_ids": [f"p{i}" for i in range(n)],
        "boxes": boxes,
        "masks": masks,
        "depth_map": np.tile(np.linspace(1.0, 9.0, SIZE[0], dtype=np.float32), (SIZE[1], 1)),
        "skipped": [("7", "crowd <region>")],
        "extra": {
            "keypoints_133": whole,
            "detection_scores": np.linspace(0.9, 0.5, n),
            "anchor_weight": np.full(n, 0.8),
            "weight_words": np.array(["heavy"] * n),
            "probabilities_age": np.tile([0.0, 0, 0.7, 0.1, 0, 0], (n, 1)),
            "answers": np.array(['{"age": "child"} <b>'] * n),
        },
        **changes,
    }
    return Scene(**fields)


def packed(folder: Path, *scenes: Scene) -> str:
    card = Card("mine", "weights", "3", "mit", True)
    origin = {"cues": {"keypoints": card.to_json()}, "licences": ["mit"]}
    plan = cue_dataset.Plan(len(scenes), {"of": "a test"}, 8)
    cue_dataset.write(folder, plan, lambda indices: iter([scenes[i] for i in indices]), provenance=origin)
    return str(folder)


def test_every_cue_is_on_the_page(tmp_path):
    cues = packed(tmp_path / "cues", scene())
    page = cue_page.write_cue_page(cues, str(tmp_path / "page"))
    text = page.path.read_text()
    kinds = {path.stem.rpartition("-")[2] for path in (tmp_path / "page" / "images").iterdir()}
    assert kinds == {"photo", "boxes", "keypoints", "wholebody", "start", "dense", "masks", "depth"}
    for said in (
        "133 of 133", "child (0.33, p 0.70)", "heavy (0.80)", "2.00", "given", "0.90", "Depth: bright 1.",
        "person 7 set aside: crowd &lt;region&gt;", "keypoints: mine, weights, 3, mit", "Licences: mit", "&lt;b&gt;",
    ):  # fmt: skip
        assert said in text, said
    assert "<b>" not in text


def test_a_scene_with_the_least_there_can_be(tmp_path):
    bare = scene(
        "ünï cöde", 1, boxes=None, masks=None, depth_map=None, start=None, extra={}, skipped=[],
        dense_keypoints=np.zeros((1, 138, 3)), median_depth=np.array([np.nan]), age=np.array([-1.0]),
    )  # fmt: skip
    page = cue_page.write_cue_page(packed(tmp_path / "cues", bare), str(tmp_path / "page"))
    kinds = {path.stem.rpartition("-")[2] for path in (tmp_path / "page" / "images").iterdir()}
    assert kinds == {"photo", "keypoints"}
    assert "17 of 17" in page.path.read_text()


def test_initial_bodies_are_where_they_are_in_the_photo():
    made = scene()
    assert made.start is not None
    made.start.transl[1] = 0.0  # nobody
    pixels = cue_page.StartPictures()(made)
    assert pixels is not None
    assert np.isnan(pixels[1]).all()
    hips = pixels[0, 11:13].mean(0)  # the root is between the hips, at (-0.6, 0.1, 3) m
    np.testing.assert_allclose(hips, [80 - 140 * 0.6 / 3, 60 + 140 * 0.1 / 3], atol=5)
    assert pixels[0, 0, 1] < hips[1] < pixels[0, 15:, 1].min()  # head above, feet below: y points down
    assert cue_page.StartPictures()(scene(start=None)) is None


def test_marks_lie_on_their_pixels():
    paper = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
    dots = draw_dense(paper, np.array([[[30.0, 40, 1.0], [100, 90, 0.0]]]))
    changed = (dots != 255).any(-1)
    assert changed[40, 30]
    assert not changed[90, 100]
    assert changed.sum() < 60
    masks = np.zeros((1, SIZE[1], SIZE[0]), bool)
    masks[0, 20:30, 50:60] = True
    tinted = (draw_masks(paper, masks) != 255).any(-1)
    np.testing.assert_array_equal(tinted, masks[0])
    depth = np.array([[1.0, 2.0, np.nan, 4.0]])
    colours = depth_colours(depth, (1.0, 4.0)).astype(int)
    brightness = colours.sum(-1)[0]
    assert brightness[0] > brightness[1] > brightness[3]
    assert np.ptp(colours[0, 2]) < 20  # grey: not known
    assert all(np.isnan(depth_range(np.full((2, 2), np.nan))))


@pytest.mark.parametrize("people", [1, 13])
def test_pictures_have_the_size_of_the_photo(people):
    made = scene(people=people)
    paper = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    start = np.full((people, 17, 2), np.nan)
    for kind, caption, picture in cue_pictures(made, paper, start):
        assert picture.shape == paper.shape, kind
        assert picture.dtype == np.uint8
        assert caption


def test_a_photo_that_is_gone_or_of_another_size_leaves_the_cues(tmp_path):
    Image.new("RGB", (50, 40)).save(tmp_path / "small.png")
    made = scene(image_path=str(tmp_path / "small.png"))
    page = cue_page.write_cue_page(
        packed(tmp_path / "cues", made, scene("t", image_path="gone.jpg")), str(tmp_path / "page")
    )
    assert page.path.read_text().count("<section") == 2
    with pytest.raises(SceneError):
        cue_page.write_cue_page(str(tmp_path / "nothing"), str(tmp_path / "page"))
