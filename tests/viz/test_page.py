"""The page of a fit: what it refers to, what it escapes, who it lists."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from meshes import K, sphere
from PIL import Image

from annyfit_jax.viz import (
    ScenePage,
    write_page,
)

# ---------------------------------------------------------------------------------------------------------------- page


@pytest.fixture
def small_views(monkeypatch):
    monkeypatch.setattr("annyfit_jax.viz.page._VIEW_SIZE", (160, 120))


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.references, self.anchors, self.ids, self.alts, self.text = [], [], [], [], [], ""

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        for key in ("src", "href"):
            if key in attributes:
                target = attributes[key] or ""
                (self.anchors if target.startswith("#") else self.references).append(target)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "img":
            self.alts.append(attributes["alt"])

    def handle_data(self, data):
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def person_row(**changes):
    row = {"id": "a", "age": "adult", "gender": "female", "height_m": 1.7, "depth_m": 3.0, "reprojection_px": 4.26}
    return row | {"status": "ok"} | changes


def scene_page(name="scene", people=2, **changes):
    first, faces = sphere((0.0, 0.0, 2.0))
    vertices = first + np.arange(people)[:, None, None] * np.array([0.3, 0, 0.5])
    return ScenePage(
        **{
            "name": name,
            "photo": np.full((48, 64, 3), 128, np.uint8),
            "vertices": vertices,
            "faces": faces,
            "intrinsics": K,
            "keypoints": np.full((people, 17, 3), 20.0),
            "projected": np.full((people, 17, 2), 21.0),
            "people": [person_row(id=f"p{k}") for k in range(people)],
        }
        | changes
    )


def test_page_references_existing_files_only(tmp_path, small_views):
    scenes = [scene_page("a/../b c"), scene_page("A-b-c"), scene_page("ü", photo=None, keypoints=None, projected=None)]
    index = write_page(tmp_path / "out", scenes, "Two scenes", intro_html="<p>Read <b>this</b></p>")
    assert index == tmp_path / "out" / "index.html"
    page = read(index)
    files = {unquote(reference) for reference in page.references}
    assert files == {f"images/{path.name}" for path in (index.parent / "images").iterdir()}
    assert len(files) == 5 + 5 + 3
    assert len({name.lower() for name in files}) == len(files)
    assert all((index.parent / file).resolve().parent == (index.parent / "images").resolve() for file in files)
    assert {anchor[1:] for anchor in page.anchors} == set(page.ids)
    assert len(set(page.ids)) == 3
    assert all(page.alts)
    assert "script" not in page.tags
    assert "://" not in index.read_text(encoding="utf-8")
    for file in files:
        with Image.open(index.parent / file) as image:
            image.load()


def test_page_escapes_what_users_wrote(tmp_path, small_views):
    evil = '<script>alert("x")</script>'
    scene = scene_page(name=evil, people=1, notes=[evil], credit_html='<a href="index.html">Jane, CC BY</a>')
    scene.people = [person_row(id=evil, age=evil, gender=evil, status=evil)]
    index = write_page(tmp_path, [scene], title=evil)
    page = read(index)
    assert "script" not in page.tags
    assert page.text.count(evil) == 8  # title twice, heading, note, id, age, gender, status
    assert 'alt="Photo &lt;script&gt;' in index.read_text(encoding="utf-8")
    assert "Jane, CC BY" in page.text


def test_every_cell_names_its_column_for_phones(tmp_path, small_views):
    """On a narrow screen the head of the table is not shown, and each cell says what it is."""
    text = write_page(tmp_path, [scene_page(people=2)], "t").read_text(encoding="utf-8")
    head = [part.split("</th>")[0] for part in text.split("<thead>")[1].split('<th scope="col">')[1:]]
    row = text.split("<tbody>")[1].split("</tr>")[0]
    assert [part.split('"')[0] for part in row.split('data-heading="')[1:]] == head[1:]
    assert ".people td::before{content:attr(data-heading)" in text


def test_table_lists_failed_people_that_are_not_drawn(tmp_path, small_views):
    scene = scene_page(people=2)
    scene.vertices[1] = np.nan
    lost = {"height_m": np.nan, "depth_m": None, "reprojection_px": np.float32(7), "trust": 0.0, "status": "skipped"}
    scene.people[1] = person_row(id="lost", **lost)
    text = write_page(tmp_path, [scene], "t").read_text(encoding="utf-8")
    row = text[text.index("lost") : text.index("</tr>", text.index("lost"))]
    assert row.count("–") == 2
    assert "7.0" in row
    assert 'class="status attention">skipped' in row
    assert 'class="status good">ok' in text
    alone = scene_page(people=1, name="alone")
    write_page(tmp_path, [alone], "t")
    drawn, reference = (np.asarray(Image.open(tmp_path / f"images/{n}-overlay.jpg")) for n in ("scene", "alone"))
    np.testing.assert_array_equal(drawn, reference)


def test_large_photo_is_reduced_with_its_camera(tmp_path, small_views, monkeypatch):
    monkeypatch.setattr("annyfit_jax.viz.page._MAX_SIDE", 128)
    big = scene_page(people=1, photo=None, image_size=(640, 480), intrinsics=np.diag([10, 10, 1]) @ K, name="big")
    small = scene_page(people=1, photo=None, image_size=(128, 96), intrinsics=np.diag([2, 2, 1]) @ K, name="small")
    for scene in (big, small):
        scene.keypoints = scene.projected = None
    write_page(tmp_path, [big, small], "t")
    first, second = (np.asarray(Image.open(tmp_path / f"images/{n}-overlay.jpg")) for n in ("big", "small"))
    assert first.shape == (96, 128, 3)
    np.testing.assert_array_equal(first, second)


def test_page_without_people_and_bad_scenes(tmp_path, small_views):
    index = write_page(tmp_path, [scene_page(people=0)], "t")
    assert "No people" in read(index).text
    with pytest.raises(ValueError, match=r"odd: keypoints: expected shape \(2, 17, 3\)"):
        write_page(tmp_path, [scene_page("odd", keypoints=np.zeros((2, 17, 2)))], "t")
    with pytest.raises(ValueError, match="odd: vertices: expected 2 people"):
        write_page(tmp_path, [scene_page("odd", vertices=np.zeros((1, 5, 3)))], "t")
    scene = scene_page("odd", photo=np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="odd: photo: expected uint8"):
        write_page(tmp_path, [scene], "t")
