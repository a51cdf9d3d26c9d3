"""The report of fits: everybody's numbers arrive in the page's data, the right scenes get pictures, a browser opens it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_cases import FITTED, NAMES
from helpers import HANG_S, REPO
from PIL import Image

from annyfit_jax.jobs.fit_source import FitSource, Outcome
from annyfit_jax.metrics import age_years
from annyfit_jax.people.body_meshes import BodyMeshes
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import Scene, SceneError
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.report import ReportOptions, write_report
from annyfit_jax.report.choice import badness, choose, worst_column
from annyfit_jax.report.people_table import Table, numbers, to_json
from annyfit_jax.report.report_columns import error_columns, fit_columns
from annyfit_jax.store.locations import place
from annyfit_jax.synthetic.render_mesh import load_render_mesh

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def page(fits, tmp_path_factory) -> Path:
    """A report with pictures of every fitted scene."""
    return write_report(fits, tmp_path_factory.mktemp("report") / "r", ReportOptions("A <b>title</b>", -1)).path.parent


def called(path: Path) -> list:
    """The arguments of the one call in a data script."""
    found = re.fullmatch(r"Report\.\w+\((.*)\);\n", path.read_text(), flags=re.DOTALL)
    assert found, path
    return json.loads(f"[{found[1]}]")


class Made(FitSource):
    """Copies of a fit whose numbers are set by position: enough of them to fill several files."""

    location = "made"

    def __init__(self, fit: SceneFit, total: int) -> None:
        self.fit, self.total = fit, total

    fingerprint = property(lambda self: "0")  # pyright: ignore[reportAssignmentType]
    names = property(lambda self: tuple(f"scene{i}" for i in range(self.total)))  # pyright: ignore[reportAssignmentType]

    def where(self, name: str) -> str:
        return name

    def outcome(self, name: str) -> Outcome:
        index = int(name.removeprefix("scene"))
        depth = np.linspace(index, index + 1, len(self.fit)).astype(np.float32)
        return Outcome(replace(self.fit, name=name, depth_m=depth))

    def part(self, span: range):
        return (self.outcome(self.names[i]) for i in span)


# ------------------------------------------------------------------------------------------------ columns


def test_columns_are_those_of_the_fit(fits):
    fit = fits.load("trio")
    columns = fit_columns(fit)
    np.testing.assert_allclose(columns["age_years"], age_years(fit.shape[:, 1]))
    np.testing.assert_allclose(columns["x_m"], fit.transl[:, 0])
    seen = fit.keypoints_2d[..., 2] > 0
    for i in range(len(fit)):
        side = np.ptp(fit.keypoints_2d[i, seen[i], :2], axis=0).max()
        assert columns["reprojection_share"][i] == pytest.approx(100 * fit.reprojection_px[i] / side, rel=1e-5)
    np.testing.assert_allclose(columns["trust"], fit.trust)
    with_start = replace(fit, start_transl=fit.transl + np.array([0.0, 0.3, 0.4], np.float32))
    np.testing.assert_allclose(fit_columns(with_start)["moved_m"], 0.5, rtol=1e-4)


def test_trust_and_deviations_are_shown_where_a_fit_has_them(fits):
    fit = fits.load("trio")
    trust = np.array([0.9, 0.5, 0.1], np.float32)
    joints = np.zeros((3, 17), np.float32)
    joints[:, :] = [[0.1], [0.2], [0.3]]
    some = {"depth_cue_m": [2.0, 2.0, np.nan], "depth_scale": [1.5, 1.5, 1.5], "visible_depth_m": [3.0, 3.3, 3.0]}
    known = replace(fit, trust=trust, sd_joints_m=joints, **{k: np.array(v, np.float32) for k, v in some.items()})
    columns = fit_columns(known)
    np.testing.assert_allclose(columns["trust"], trust)
    np.testing.assert_allclose(columns["sd_joints_m"], [0.1, 0.2, 0.3], rtol=1e-5)
    np.testing.assert_allclose(columns["cue_gap"], [0.0, 10.0, np.nan], atol=1e-4)


def truth_scene(fit: SceneFit, shift: np.ndarray) -> Scene:
    """A scene whose truth is the fit moved by `shift` metres, with bodies 5 cm taller."""
    joints = fit.fitted_keypoints_3d.astype(np.float64) + shift
    n = len(fit)
    extra = {
        "gt_coco3d": joints, "gt_coco2d": project(joints, fit.K.astype(np.float64)), "gt_visible": np.ones((n, 17), bool),
        "gt_head_px": np.full(n, 30.0), "gt_body_height": fit.height_m + 0.05, "gt_age_cat": np.zeros(n, int),
        "gt_gender_cat": np.zeros(n, int),
    }  # fmt: skip
    truth = replace(fit.parameters, transl=fit.transl + shift)
    nothing = np.full(n, np.nan)
    return Scene(
        fit.name, (640, 480), fit.K, fit.keypoints_2d, np.zeros((n, 138, 3)), nothing, nothing, nothing, nothing,
        truth=truth, person_ids=[str(i) for i in fit.person_ids], extra=extra,
    )  # fmt: skip


def test_errors_are_signed_and_in_the_rows_that_are_fitted(fits):
    fit = fits.load("mixed")  # its second person is skipped
    scene = truth_scene(replace(fit, **{k: np.nan_to_num(getattr(fit, k)) for k in ("fitted_keypoints_3d", "transl", "shape")}),
                        np.array([0.0, 0.0, -0.25]))  # fmt: skip
    errors = error_columns(fit, scene)
    ok = fit.ok
    np.testing.assert_allclose(errors["depth_err"][ok], 0.25, atol=1e-5)
    np.testing.assert_allclose(errors["height_err"][ok], -0.05, atol=1e-6)
    np.testing.assert_allclose(errors["mpjpe_abs"][ok], 250, rtol=1e-4)
    np.testing.assert_allclose(errors["mpjpe_root"][ok], 0, atol=1e-3)
    np.testing.assert_allclose(errors["age_err"][ok], 0, atol=1e-5)
    assert not ok.all()
    assert all(np.isnan(values[~ok]).all() for values in errors.values())
    with pytest.raises(SceneError, match="person_ids"):
        error_columns(fit, replace(scene, person_ids=["x", "y", "z"]))


# ------------------------------------------------------------------------------------------------ data files


def test_every_person_is_in_the_data(fits, page):
    (summary,), (index, data) = called(page / "data" / "summary.js"), called(page / "data" / "scenes-00000.js")
    assert index == 0
    assert summary["files"] == 1
    outcomes = list(fits.outcomes())
    assert data["name"] == [o.fit.name for o in outcomes] == list(NAMES)
    assert data["people"] == [len(o.fit) for o in outcomes]
    assert [summary["statuses"][code] for code in data["status"]] == [o.status for o in outcomes]
    ids = [str(i) for o in outcomes for i in o.fit.person_ids]
    assert data["id"] == ids
    assert [summary["statuses"][code] for code in data["person_status"]] == [
        str(s) for o in outcomes for s in o.fit.status
    ]
    depth = np.concatenate([o.fit.depth_m for o in outcomes])
    shown = np.array([np.nan if x is None else x for x in data["columns"]["depth_m"]])
    np.testing.assert_allclose(shown, depth, atol=6e-4)
    assert set(data["columns"]) == {column["key"] for column in summary["columns"]}
    assert data["aside"] == {str(NAMES.index("mixed")): [["crowd7", "crowd annotation: 12 people"]]}
    assert summary["ok_people"] == sum(FITTED.values())
    assert (page / "index.html").read_text().count("A &lt;b&gt;title&lt;/b&gt;") == 2


def test_many_scenes_are_cut_into_files(fits, tmp_path):
    """Nothing is lost or doubled at the borders of files; only what was chosen is drawn."""
    source = Made(fits.load("trio"), 2350)
    page = write_report(source, tmp_path / "r", ReportOptions(pictures=0, scenes_per_file=1000)).path
    (summary,) = called(page.parent / "data" / "summary.js")
    assert (summary["files"], summary["scenes"], summary["people"]) == (3, 2350, 3 * 2350)
    assert summary["pictures"] == {} and summary["worst"] == []
    names, depth = [], []
    for i in range(3):
        index, data = called(page.parent / "data" / f"scenes-{i:05d}.js")
        assert index == i
        assert len(data["id"]) == sum(data["people"])
        names += data["name"]
        depth += data["columns"]["depth_m"]
    assert names == list(source.names)
    np.testing.assert_allclose(np.reshape(depth, (-1, 3))[:, 0], np.arange(2350))
    chart = next(chart for chart in summary["charts"] if chart["key"] == "depth_m")
    assert sum(chart["counts"]) == chart["known"] == 3 * 2350
    assert not (page.parent / "scenes").exists()


def test_texts_cannot_leave_their_script():
    text = to_json({"name": "</script><script>alert(1)</script>", "odd": "\u2028"})
    assert "</" not in text
    assert text.isascii()
    assert json.loads(text)["name"].startswith("</script>")
    assert numbers(np.array([1.23456, np.nan, np.inf]), 2) == [1.23, None, None]


def test_an_older_report_is_replaced_and_nothing_else(fits, tmp_path):
    folder = tmp_path / "r"
    one = Made(fits.load("trio"), 3)
    write_report(one, folder, ReportOptions(pictures=1))
    assert len(list((folder / "scenes").iterdir())) == 1
    write_report(one, folder, ReportOptions(pictures=0))
    assert not (folder / "scenes").exists()
    other = tmp_path / "precious"
    other.mkdir()
    (other / "index.html").write_text("mine")
    with pytest.raises(ValueError, match="precious"):
        write_report(one, other)
    assert (other / "index.html").read_text() == "mine"


def test_a_report_in_a_bucket_is_that_of_a_disk(fits, tmp_path):
    one, bucket = Made(fits.load("trio"), 3), place(f"memory://report-{tmp_path.name}")
    write_report(one, tmp_path / "r", ReportOptions(pictures=1))
    for _ in range(2):
        write_report(one, bucket, ReportOptions(pictures=1))
        there = {name: (bucket / name).read_bytes() for name in bucket.tree()}
        assert there == {
            p.relative_to(tmp_path / "r").as_posix(): p.read_bytes() for p in (tmp_path / "r").rglob("*.*")
        }


def test_worst_scenes_are_those_with_the_worst_person(fits):
    table = Table()
    fit = fits.load("trio")
    for name, values in (("a", [1, 9, 2]), ("b", [5, 5, np.nan]), ("c", [np.nan] * 3), ("d", [7, 1, 1])):
        share = np.array(values, float)
        table.add(Outcome(replace(fit, name=name)), {"reprojection_share": share, "trust": 10 - share})
    columns = table.columns()
    np.testing.assert_allclose(badness(table, columns, "reprojection_share"), [9, 5, -np.inf, 7])
    np.testing.assert_allclose(badness(table, columns, "trust"), [-1, -5, -np.inf, -3])
    assert worst_column(columns) == "trust"
    assert worst_column(columns, "reprojection_share") == "reprojection_share"
    with pytest.raises(ValueError, match="mpjpe_abs"):
        worst_column(columns, "mpjpe_abs")
    fitted = np.array([True, True, False, True])
    worst, random = choose(badness(table, columns, "trust"), fitted, 3, seed=0)
    assert worst.tolist() == [0, 3]
    assert random.tolist() == [1]
    every = np.concatenate(choose(badness(table, columns, ""), fitted, -1, seed=0))
    assert sorted(every.tolist()) == [0, 1, 3]


# ------------------------------------------------------------------------------------------------ pictures and models


def test_models_hold_the_fitted_bodies(fits, page, load_anny):
    """Vertices of the embedded binary glTF are vertices of the full body, y and z turned round."""
    index = NAMES.index("mixed")
    name, content = called(page / "scenes" / f"{index:07d}" / "model.js")
    assert name == "mixed"
    data = base64.b64decode(content)
    assert data[:4] == b"glTF"
    length = struct.unpack_from("<I", data, 12)[0]
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    fit = fits.load("mixed")
    bodies = BodyMeshes(load_anny()).vertices(fit.parameters.select(np.flatnonzero(fit.ok)))
    mesh_vertices = load_render_mesh(load_anny()).vertices
    meshes = [node["mesh"] for node in tree["nodes"] if "mesh" in node]
    assert len(meshes) == 2
    for mesh, body in zip(meshes, bodies):
        accessor = tree["accessors"][tree["meshes"][mesh]["primitives"][0]["attributes"]["POSITION"]]
        offset = tree["bufferViews"][accessor["bufferView"]].get("byteOffset", 0) + accessor.get("byteOffset", 0)
        points = np.frombuffer(binary, "<f4", 3 * accessor["count"], offset).reshape(-1, 3)
        np.testing.assert_allclose(points * [1, -1, -1], body[mesh_vertices], atol=1e-4)
    extras = tree["scenes"][0]["extras"]
    np.testing.assert_allclose(extras["K"], fit.K)


def test_pictures_are_there_for_scenes_with_somebody_fitted(page):
    (summary,) = called(page / "data" / "summary.js")
    assert {NAMES[int(i)] for i in summary["pictures"]} == set(FITTED)
    assert sorted(summary["worst"] + summary["random"]) == sorted(map(int, summary["pictures"]))
    for index, names in summary["pictures"].items():
        assert {"overlay.jpg", "keypoints.jpg", "top.png", "side.png", "thumb.jpg", "model.js"} == set(names)
        assert all((page / "scenes" / f"{int(index):07d}" / name).stat().st_size > 500 for name in names)


def test_photos_come_from_the_input_where_the_fits_path_leads_nowhere(fits, tmp_path):
    stream = io.BytesIO()
    width, height = map(int, fits.load("trio").image_size)
    Image.new("RGB", (width, height), (200, 30, 30)).save(stream, "PNG")
    page = write_report(Made(fits.load("trio"), 1), tmp_path / "r", photo=lambda name: stream.getvalue()).path
    photo = np.asarray(Image.open(page.parent / "scenes" / "0000000" / "photo.jpg"))
    assert np.abs(photo.reshape(-1, 3).mean(0) - [200, 30, 30]).max() < 3


# ------------------------------------------------------------------------------------------------ the page


def test_nothing_is_asked_of_a_network(page):
    for file in page.glob("*.*"):
        assert not re.findall(
            r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.-]+\.\w+",
            re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.M),
        ), file
        assert "fetch(" not in file.read_text()


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("#/", ["Scenes at random", "People per scene", "skipped:no_keypoints"]),
        ("#/scenes?sort=-depth_m", ["6 scenes", "mixed", "unreadable"]),
        ("#/scenes?status=failed:not_finite", ["1 scene;", "failed"]),
        ("#/scene/1", ["crowd annotation: 12 people", "canvas", "overlay.jpg"]),
        ("#/scene/2", ["From above, metres", "unreadable.npz: not a readable"]),
    ],
)
def test_a_browser_shows_every_view_without_an_error(page, view, expected, tmp_path):
    shown = browse(page / "index.html", view, tmp_path)
    for text in expected:
        assert text in shown, text


def browse(page: Path, view: str, folder: Path) -> str:
    """The elements that a browser makes of a view; nothing may stand in its console."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=8000", "--enable-logging=stderr", "--dump-dom",
        page.as_uri() + view,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    return done.stdout


HOSTILE = [
    "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(2)>",
    "",
    "x" * 300,
    "\u202egpj.exe",
    "__proto__",
    "../../a",
]


class Hostile(Made):
    """The same fit under names that are none of a photo."""

    names = property(lambda self: tuple(HOSTILE))  # pyright: ignore[reportAssignmentType]

    def outcome(self, name: str) -> Outcome:
        return Outcome(replace(self.fit, name=name, person_ids=np.array(["<b onclick=alert(3)>", "", "constructor"])))


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_hostile_names_as_text(fits, tmp_path):
    """Names become no elements, do not turn the text around them, and leave room for the other columns."""
    page = write_report(Hostile(fits.load("trio"), len(HOSTILE)), tmp_path / "r", ReportOptions(pictures=0)).path
    for view, expected in (
        (
            "#/scenes?sort=trust",
            ["&lt;script&gt;alert(1)&lt;/script&gt;", "(no name)", "\ufffdgpj.exe", "xxx…", "__proto__"],
        ),
        ("#/scene/0", ["&lt;b onclick=alert(3)&gt;", "(no name)", "constructor"]),
    ):
        shown = browse(page, view, tmp_path)
        for text in expected:
            assert text in shown, text
        for text in ("<script>alert", "<img src=x", "<b onclick", "\u202e", "x" * 100):
            assert text not in shown, text


def run_program(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.report", *flags]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=HANG_S, env=environment)


@pytest.mark.process
def test_program_writes_a_report_and_names_what_is_wrong(fits, tmp_path):
    done = run_program(f"--fits={fits.location}", f"--output={tmp_path}/r", "--pictures=0", "--title=T")
    assert done.returncode == 0, done.stderr[-2000:]
    (summary,) = called(tmp_path / "r" / "data" / "summary.js")
    assert (summary["title"], summary["scenes"]) == ("T", len(NAMES))
    wrong = run_program(f"--fits={fits.location}", f"--output={tmp_path}/r", "--pictures=0", "--worst_by=mpjpe_abs")
    assert wrong.returncode == 2
    assert "reprojection_share" in wrong.stderr
