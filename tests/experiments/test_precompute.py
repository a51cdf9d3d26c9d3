"""From photos to cues to fits: the program, with experts made for the purpose and with cues that are there already."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from chat_server import KEY, Server, said
from fake_job import CONFIG_HASH, FakeFitter, config_of, the
from helpers import HANG_S, REPO, require_shared
from PIL import Image

from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.fit import config as configs
from annyfit_jax.inputs import open_input
from annyfit_jax.inputs.cue_dataset import StoreError, verify
from annyfit_jax.jobs import job_rows, job_status
from annyfit_jax.jobs.fit_store import plan_of
from annyfit_jax.jobs.job_driver import JobOptions, run_job
from annyfit_jax.people.scene import BodyParameters, SceneError
from annyfit_jax.records import fit_files
from annyfit_jax.store.locations import place
from experts import cue_page, photos_to_cues
from experts.interfaces import Card, DepthEstimate, Detections, ExpertError, Loaded, Words
from experts.pipeline import Collection
from experts.registry import BUILT_IN, build, create

# ------------------------------------------------------------------------------------------------ experts for the purpose

STICK = np.array(
    [
        [0.5, 0.08], [0.54, 0.06], [0.46, 0.06], [0.58, 0.08], [0.42, 0.08], [0.7, 0.22], [0.3, 0.22], [0.78, 0.38],
        [0.22, 0.38], [0.82, 0.52], [0.18, 0.52], [0.62, 0.52], [0.38, 0.52], [0.62, 0.74], [0.38, 0.74], [0.62, 0.96],
        [0.38, 0.96],
    ]
)  # fmt: skip
CALLS: list[tuple[str, tuple[str, ...]]] = []
LOADED: list[str] = []
FAILS: dict[str, Any] = {}
"""Cue -> called with the photos before every answer."""


@dataclass
class Tiny:
    """Counts, and fails when told to."""

    licence: str = "CC0-1.0"
    revision: str = "1"
    commercial: bool = True

    @property
    def card(self) -> Card:
        return Card(type(self).__name__, "planted", self.revision, self.licence, self.commercial)

    def load(self) -> None:
        assert not LOADED, "two models in memory"
        LOADED.append(type(self).__name__)

    def close(self) -> None:
        LOADED.remove(type(self).__name__)

    def called(self, photos) -> None:
        name = type(self).__name__
        assert [name] == LOADED
        CALLS.append((name, tuple(photo.name for photo in photos)))
        if name in FAILS:
            FAILS[name](photos)


@dataclass
class Detector(Tiny):
    """Two people side by side, one of them found twice, and a speck."""

    def detect(self, photos):
        self.called(photos)
        result = []
        for photo in photos:
            w, h = photo.size
            left, right = [0.05 * w, 0.1 * h, 0.45 * w, 0.95 * h], [0.4 * w, 0.2 * h, 0.8 * w, 0.97 * h]
            again, speck, noise = [0.06 * w, 0.1 * h, 0.45 * w, 0.95 * h], [1, 1, 6, 6], [0, 0, w, h]
            boxes = np.array([again, left, right, speck, noise], np.float64)
            result.append(Detections(boxes, np.array([0.7, 0.9, 0.8, 0.6, 0.05])))
        return result


@dataclass
class Segmenter(Tiny):
    def segment(self, photos, people):
        self.called(photos)
        result = []
        for photo, crowd in zip(photos, people, strict=True):
            masks = np.zeros((len(crowd), photo.size[1], photo.size[0]), bool)
            for mask, (x0, y0, x1, y1) in zip(masks, crowd.boxes.astype(int), strict=True):
                mask[y0:y1, x0:x1] = True
            result.append(masks)
        return result


@dataclass
class Keypoints(Tiny):
    whole_body: bool = False

    def keypoints(self, photos, people):
        self.called(photos)
        result = []
        for crowd in people:
            size = crowd.boxes[:, 2:] - crowd.boxes[:, :2]
            points = crowd.boxes[:, None, :2] + STICK * size[:, None]
            points = np.concatenate([points, np.full((len(crowd), 17, 1), 0.9)], axis=2)
            points[:, 16] += [1e5, 0, 0]  # an ankle outside the photo
            result.append(np.pad(points, ((0, 0), (0, 116), (0, 0))) if self.whole_body else points)
        return result


@dataclass
class Depth(Tiny):
    """2 m in the left half of the photo, 4 m in the right, with a smeared border between; nothing in the top rows."""

    def depth(self, photos):
        self.called(photos)
        result = []
        for photo in photos:
            w, h = photo.size
            depth = np.where(np.arange(w) < w // 2, 2.0, 4.0) * np.ones((h, 1))
            depth[:3] = np.inf
            k = np.array([[500.0, 0, w / 2], [0, 500, h / 2], [0, 0, 1]])
            result.append(DepthEstimate(depth, k))
        return result


@dataclass
class Speak(Tiny):
    def words(self, photos, people):
        self.called(photos)
        result = []
        for crowd in people:
            assert crowd.masks is not None
            assert crowd.keypoints is not None
            n = len(crowd)
            table = np.tile([0.0, 0, 0.7, 0.1, 0, 0], (n, 1))
            ages = {"age": np.full(n, 0.33), "gender": np.full(n, -1.0), "weight": np.full(n, 0.8)}
            result.append(Words(ages, {"age": ["child"] * n, "gender": [""] * n}, {"age": table}, ["a child"] * n))
        return result


@dataclass
class Start(Tiny):
    """Bodies for the first person only."""

    def start(self, photos, people):
        self.called(photos)
        result = []
        for crowd in people:
            assert crowd.intrinsics is not None
            n = len(crowd)
            parts = [np.full(s, np.nan) for s in ((n, 3), (n, 3), (n, 162, 3), (n, 6))]
            for part, value in zip(parts, ([np.pi / 2, 0, 0], [0.1, 0.2, 3.0], 0.0, 0.5), strict=True):
                part[0] = value
            result.append(BodyParameters(*parts))
        return result


class NotAnExpert(Loaded):
    """No card, no method."""


TINY = {
    "detector": Detector, "segmenter": Segmenter, "keypoints": Keypoints, "depth": Depth, "words": Speak,
}  # fmt: skip
ASSIGNMENTS = tuple(f"{cue}={__name__}:{kind.__name__}" for cue, kind in TINY.items())


@pytest.fixture(autouse=True)
def _fresh():
    CALLS.clear()
    LOADED.clear()
    FAILS.clear()


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Five small photos, one in a folder of its own, one broken."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i, name in enumerate(("a.jpg", "b.png", "sub/a.jpg", "schön & neu.jpg")):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (120 + i, 160, 3), np.uint8)).save(folder / name)
    (folder / "zz_broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    return folder


def options(photos, output, *more, **changes) -> photos_to_cues.PrecomputeOptions:
    settings = {"photos_per_shard": 2, "batch": 2, "assignments": (*ASSIGNMENTS, *more), "experts": "none", **changes}
    return photos_to_cues.PrecomputeOptions(str(photos), str(output), **settings)


def shards(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.array_record-*"))}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@functools.cache
def short_fitter() -> Any:
    """The real solver, two steps of the last stage."""
    from annyfit_jax.fit.fitter import Fitter
    from body_models import anny

    config = configs.load_config(REPO / "experiments" / "configs" / "annyfit.py")
    last = dataclasses.replace(config.stages[-1], steps=2)
    return Fitter(dataclasses.replace(config, stages=(last,)), anny.load(), jax.local_devices()[:1])


def short_fit(scenes) -> list:
    fitter = short_fitter()
    return fitter.collect(fitter.dispatch([fitter.prepare(scene) for scene in scenes]))


# ------------------------------------------------------------------------------------------------ the whole way


def test_photos_to_cues(photos, tmp_path):
    state = photos_to_cues.precompute(options(photos, tmp_path, f"start={__name__}:Start", "camera=depth"))
    assert state.finished
    assert (state.scenes, state.people, state.set_aside) == (4, 8, 1)
    assert verify(tmp_path) == []
    source = open_input(str(tmp_path), with_masks=True, with_depth_map=True)
    assert source.names == ("a", "b", "schön_neu", "sub_a")
    scene = source.load(0)
    assert scene.image_size == (160, 120)
    assert scene.image_path == str(photos / "a.jpg")
    assert scene.person_ids == ["0", "1"]
    assert scene.boxes is not None
    np.testing.assert_allclose(scene.boxes, [[8, 12, 72, 114], [64, 24, 128, 116.4]])  # highest score first
    assert scene.skipped == [("2", "duplicate of person 0 (box)"), ("3", "too small: box of 5 x 5 pixels")]
    np.testing.assert_allclose(scene.keypoints[0, 0], [40, 20.16, 0.9])
    assert scene.keypoints[:, 16, 2].tolist() == [0.0, 0.0]  # outside the photo
    assert scene.intrinsics[0, 0] == 500.0
    assert scene.age.tolist() == [0.33, 0.33]
    assert scene.gender.tolist() == [-1.0, -1.0]
    assert scene.extra["anchor_weight"].tolist() == [0.8, 0.8]
    np.testing.assert_allclose(scene.extra["probabilities_age"], np.tile([0, 0, 0.7, 0.1, 0, 0], (2, 1)))
    np.testing.assert_allclose(scene.extra["detection_scores"], [0.9, 0.8])
    assert "gender_words" not in scene.extra  # nothing is known
    # Person 0 reaches from the 2 m into the part that person 1 also claims; 1 is mostly at 4 m.
    assert scene.median_depth.tolist() == [2.0, 4.0]
    assert scene.start is not None
    assert scene.start.transl.tolist() == [[0.1, 0.2, 3.0], [0.0, 0.0, 0.0]]
    assert "start: none for person 1, who starts from the keypoints" in scene.notes
    assert "intrinsics: estimated by the depth expert" in scene.notes
    origin = scene.extra["provenance"]
    assert origin["cues"]["depth"] == Card("Depth", "planted", "1", "CC0-1.0", True).to_json()
    assert (origin["licences"], origin["commercial"]) == (["CC0-1.0"], True)
    assert any(note.startswith("licences of the cues: CC0-1.0 (detector, ") for note in scene.notes)
    (aside,) = lines(tmp_path / "set_aside.jsonl")
    assert aside["scene"] == "zz_broken"
    assert "truncated" in aside["reason"]
    (failure,) = lines(tmp_path / "failures.jsonl")
    assert (failure["scene"], failure["cue"]) == ("zz_broken", "photo")
    order = [name for name, _ in CALLS]
    assert list(dict.fromkeys(order)) == ["Detector", "Segmenter", "Keypoints", "Depth", "Speak", "Start"]
    assert not LOADED


@pytest.mark.slow
def test_real_photos_through_tiny_experts_to_fits(tmp_path):
    state = photos_to_cues.precompute(options(require_shared("data/real"), tmp_path, limit=2, with_images=True))
    assert state.finished
    source = open_input(str(tmp_path))
    fits = short_fit([source.load(i) for i in range(2)])
    assert [len(fit) for fit in fits] == [2, 2]
    for fit in fits:
        assert all(status == "ok" for status in fit.status)
        assert np.isfinite(fit.shape).all()
        assert any(note.startswith("licences of the cues: CC0-1.0") for note in fit.scene_notes)
    page = cue_page.write_cue_page(str(tmp_path), str(tmp_path / "page"))
    text = page.path.read_text()
    assert "child (0.33, p 0.70)" in text
    assert "Licences: CC0-1.0" in text
    kinds = {path.stem.rpartition("-")[2] for path in (tmp_path / "page" / "images").iterdir()}
    assert kinds == {"photo", "boxes", "keypoints", "masks", "depth"}


def test_the_photos_of_the_demo_to_fits_through_the_programs_own_writer(tmp_path):
    """The fit that is stored and read back still says what it depends on."""
    demo = REPO / "experiments" / "demo_data"
    state = photos_to_cues.precompute(options(demo / "photos", tmp_path / "computed", limit=2))
    assert (state.scenes, state.people) == (2, 4)
    given = photos_to_cues.PrecomputeOptions(
        str(demo / "photos"), str(tmp_path / "given"), "none", annotations=str(demo / "annotations.json"), limit=2
    )
    assert photos_to_cues.precompute(given).scenes == 2
    for name, licence in (("computed", "CC0-1.0"), ("given", "as given by the user")):
        scene = open_input(str(tmp_path / name)).load(0)
        (fit,) = short_fit([scene])
        assert (fit.status == "ok").any()
        fit_files.save(fit, tmp_path / f"{name}.npz")
        (note,) = [
            n for n in fit_files.load(tmp_path / f"{name}.npz").scene_notes if n.startswith("licences of the cues")
        ]
        assert licence in note


def test_real_annotations_to_fits(tmp_path):
    """Everything is there already: the same scenes as the COCO reader's, with the program's own rules on top."""
    real = require_shared("data/real")
    depth = tmp_path / "depth"
    depth.mkdir()
    for photo in real.glob("*.jpg"):
        with Image.open(photo) as image:
            rows, columns = np.mgrid[: image.height, : image.width]
            np.save(depth / f"{photo.stem}.npy", (1 + rows // 20 + columns // 50).astype(np.float32))
    annotations = str(real / "annotations.json")
    state = photos_to_cues.precompute(
        photos_to_cues.PrecomputeOptions(
            str(real),
            str(tmp_path / "out"),
            "none",
            ("words.hand_labels=True",),
            annotations=annotations,
            depth=str(depth),
        )
    )
    assert state.finished
    assert state.set_aside == 0
    made = open_input(str(tmp_path / "out"), with_masks=True)
    read = open_input(annotations, images=str(real), depth=str(depth), hand_labels=True, with_masks=True)
    by_name = {name: i for i, name in enumerate(read.names)}
    people = 0
    for i, name in enumerate(made.names):
        ours, theirs = made.load(i), read.load(by_name[name])
        index = [theirs.person_ids.index(person) for person in ours.person_ids]
        assert ours.masks is not None
        assert theirs.masks is not None
        assert ours.boxes is not None
        assert theirs.boxes is not None
        inside = theirs.keypoints[index]
        np.testing.assert_array_equal(ours.keypoints[..., 2] > 0, inside[..., 2] > 0)
        seen = ours.keypoints[..., 2] > 0
        np.testing.assert_allclose(ours.keypoints[seen], inside[seen], atol=1e-9)
        np.testing.assert_allclose(ours.boxes, np.clip(theirs.boxes[index], 0, [*ours.image_size * 2]), atol=1e-9)
        np.testing.assert_array_equal(ours.masks, theirs.masks[index])
        np.testing.assert_allclose(ours.median_depth, theirs.median_depth[index], rtol=1e-6)
        np.testing.assert_array_equal(ours.age, theirs.age[index])
        np.testing.assert_array_equal(ours.gender, theirs.gender[index])
        np.testing.assert_array_equal(ours.intrinsics, theirs.intrinsics)
        for person in set(theirs.person_ids) - set(ours.person_ids):
            (reason,) = [why for who, why in ours.skipped if who == person]
            assert "confident keypoints" in reason
            assert (theirs.keypoints[theirs.person_ids.index(person), :, 2] > 0).sum() < 7
        people += len(ours)
    assert people == state.people >= 35
    (fit,) = short_fit([made.load(made.names.index("000000003934"))])
    assert (fit.status == "ok").all()


def test_only_what_is_missing_is_computed(photos, tmp_path):
    """Boxes from a file; an expert for the keypoints; masks from label images."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    masks = tmp_path / "masks"
    masks.mkdir()
    for i, name in enumerate(("a.jpg", "b.png")):
        content["images"].append({"id": i, "file_name": name, "camera": {"fx": 300, "fy": 310, "cx": 80, "cy": 60}})
        content["annotations"] += [
            {
                "id": 10 * i + 1,
                "image_id": i,
                "category_id": 1,
                "bbox": [10, 10, 50, 100],
                "age": "toddler",
                "gender": 0.25,
            },
            {"id": 10 * i + 2, "image_id": i, "category_id": 1, "bbox": [70, 10, 60, 100], "iscrowd": 1},
            {"id": 10 * i + 3, "image_id": i, "category_id": 1, "bbox": [80, 10, 50, 105]},
        ]
        labels = np.zeros((120 + i, 160), np.uint8)
        labels[20:100, 15:55], labels[20:110, 85:125] = 7, 3
        Image.fromarray(labels).save(masks / f"{Path(name).stem}.png")
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(content))
    state = photos_to_cues.precompute(
        photos_to_cues.PrecomputeOptions(
            str(photos), str(tmp_path / "out"), "none", (f"keypoints={__name__}:Keypoints", "keypoints.whole_body=True"),
            annotations=str(file), masks=str(masks), limit=2,
        )
    )  # fmt: skip
    assert (state.scenes, state.people) == (2, 4)
    scene = open_input(str(tmp_path / "out"), with_masks=True).load(1)
    assert scene.person_ids == ["11", "13"]
    assert ("12", "crowd region") in scene.skipped
    assert scene.age.tolist() == [0.1, -1.0]
    assert scene.gender.tolist() == [0.25, -1.0]
    assert scene.intrinsics.tolist() == [[300, 0, 80], [0, 310, 60], [0, 0, 1]]
    assert scene.extra["keypoints_133"].shape == (2, 133, 3)
    assert scene.masks is not None
    assert scene.masks.sum((1, 2)).tolist() == [80 * 40, 90 * 40]
    assert {name for name, _ in CALLS} == {"Keypoints"}


# ------------------------------------------------------------------------------------------------ kill, resume, share


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.slow
@pytest.mark.process
def test_processes_that_are_killed_lose_nothing_and_do_nothing_twice(photos, tmp_path):
    """SIGKILL in the middle of three stages; the last run ends with the bytes of a run that nobody disturbed."""
    photos_to_cues.precompute(options(photos, tmp_path / "whole"))
    log = tmp_path / "calls.txt"
    (tmp_path / "mortal.py").write_text(
        "import os, signal\n"
        "from dataclasses import dataclass\n"
        f"import {__name__} as t\n"
        "def of(kind):\n"
        "    def called(self, photos):\n"
        "        with open(os.environ['CALLS'], 'a') as file:\n"
        "            file.writelines(f'{kind.__name__} {photo.name}\\n' for photo in photos)\n"
        "        if os.environ['VICTIM'] == f'{kind.__name__} {photos[0].name}':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return dataclass(type(kind.__name__, (kind,), {'called': called}))\n"
        + "".join(f"{kind.__name__} = of(t.{kind.__name__})\n" for kind in TINY.values())
    )
    command = [
        sys.executable, "-m", "experiments.precompute", f"--images={photos}", f"--output={tmp_path / 'torn'}",
        "--experts=none", "--photos_per_shard=2", "--batch=1", "--log_every_s=0",
        *(f"--set={cue}=mortal:{kind.__name__}" for cue, kind in TINY.items()),
    ]  # fmt: skip
    path = os.pathsep.join([str(tmp_path), str(REPO), str(REPO / "tests" / "support")])
    for victim in ("Detector b", "Keypoints schön_neu", "Speak sub_a", ""):
        environment = {**os.environ, "PYTHONPATH": path, "CALLS": str(log), "VICTIM": victim}
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=HANG_S, env=environment)
        assert done.returncode == (-signal.SIGKILL if victim else 0), done.stderr[-2000:]
        if victim:
            assert not (tmp_path / "torn" / "dataset_info.json").exists()
    assert verify(tmp_path / "torn") == []
    torn, whole = (open_input(str(tmp_path / name)) for name in ("torn", "whole"))
    assert torn.names == whole.names
    for i in range(len(whole)):
        ours, theirs = torn.load(i), whole.load(i)
        np.testing.assert_array_equal(ours.keypoints, theirs.keypoints)
        np.testing.assert_array_equal(ours.age, theirs.age)
    asked = collections.Counter(log.read_text().splitlines())
    assert set(asked) == {f"{kind.__name__} {name}" for kind in TINY.values() for name in whole.names}
    # Units are two photos: a, b; schön_neu, sub_a. Only those of a unit that was under way are asked about again.
    again = {line for line, count in asked.items() if count > 1}
    assert again == {"Detector a", "Detector b", "Keypoints schön_neu", "Speak schön_neu", "Speak sub_a"}
    assert max(asked.values()) == 2
    assert not list((tmp_path / "torn").rglob(".*.tmp"))


def test_a_finished_run_asks_nothing_and_loads_nothing(photos, tmp_path):
    photos_to_cues.precompute(options(photos, tmp_path))
    CALLS.clear()
    state = photos_to_cues.precompute(options(photos, tmp_path))
    assert state.finished
    assert not CALLS


def test_a_cue_of_the_annotations_can_be_left_out_or_replaced(photos, tmp_path):
    demo = REPO / "experiments" / "demo_data" / "annotations.json"
    given = options(photos, tmp_path, annotations=str(demo), assignments=("words=none", "keypoints=coco"))
    found = photos_to_cues.precomputed(given)
    assert "detector=coco" in found
    assert not [a for a in found if a.startswith(("words", "keypoints"))]
    assert build("none", [*found, "words=none"]).words is None


def test_photos_and_files_that_changed_are_noticed(photos, tmp_path):
    folder, depths = tmp_path / "photos", tmp_path / "depth"
    shutil.copytree(photos, folder, ignore=shutil.ignore_patterns("zz*", "sub", "schön*"))
    depths.mkdir()
    np.save(depths / "a.npy", np.full((120, 160), 3.0, np.float32))
    run = lambda name: photos_to_cues.precompute(  # noqa: E731
        options(folder, tmp_path / name, stages=str(tmp_path / "stages"), depth=str(depths), assignments=given)
    )
    given = tuple(a for a in ASSIGNMENTS if not a.startswith("depth"))
    run("first")
    assert "depth: none" in " ".join(open_input(str(tmp_path / "first")).load(1).notes)
    CALLS.clear()
    np.save(depths / "b.npy", np.full((121, 160), 5.0, np.float32))
    run("second")
    assert not CALLS  # only the depth maps are read anew
    assert open_input(str(tmp_path / "second")).load(1).median_depth.tolist() == [5.0, 5.0]
    (tmp_path / "elsewhere").mkdir()
    depths = depths.rename(tmp_path / "elsewhere" / "depth")
    assert run("second").finished
    assert not CALLS
    Image.fromarray(np.zeros((130, 160, 3), np.uint8)).save(folder / "a.jpg")
    run("third")
    assert {name for name, _ in CALLS} == {"Detector", "Segmenter", "Keypoints", "Speak"}


def test_a_damaged_answer_file_is_computed_again(photos, tmp_path):
    photos_to_cues.precompute(options(photos, tmp_path))
    expected = shards(tmp_path)
    unit = Collection.of_folder(photos).checksum([2, 3])
    (file,) = (tmp_path / "stages").glob(f"keypoints-*/{unit}.npz")
    file.write_bytes(file.read_bytes()[:100])
    for path in tmp_path.glob("done/*.json"):
        path.unlink()
    CALLS.clear()
    photos_to_cues.precompute(options(photos, tmp_path))
    assert [name for name, _ in CALLS] == ["Keypoints"]
    assert shards(tmp_path) == expected


def test_photos_that_are_added_are_all_that_is_asked_about(photos, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder, ignore=shutil.ignore_patterns("a.jpg"))
    photos_to_cues.precompute(options(folder, tmp_path / "out"))
    before = open_input(str(tmp_path / "out")).names
    CALLS.clear()
    shutil.copy(photos / "b.png", folder / "aa.png")  # before all others
    state = photos_to_cues.precompute(options(folder, tmp_path / "out"))
    assert state.finished and {photo for _, names in CALLS for photo in names} == {"aa"}
    assert open_input(str(tmp_path / "out")).names == (*before, "aa")
    (folder / "aa.png").unlink()
    with pytest.raises(StoreError, match="1 scenes of the job are not in the input any more, the first is aa"):
        photos_to_cues.precompute(options(folder, tmp_path / "out"))


def test_photos_are_fitted_while_others_are_looked_at(photos, tmp_path):
    """A scene per photo, with the cues of the dataset; units are fitted again where an expert has answered anew."""
    FAILS["Detector"] = lambda seen: (_ for _ in ()).throw(RuntimeError("dark")) if seen[0].name == "sub_a" else None

    def fit(retry_failed: bool = False) -> list[job_rows.SceneRow]:
        found = photos_to_cues.scenes_of_photos(options(photos, tmp_path, retry_failed=retry_failed, batch=1))
        plan = plan_of(
            found.source.kind, found.source.names, {CONFIG_HASH: {}}, asset_version="a", package_version="0",
            options=found.identity, scenes_per_shard=2, stamp=found.source.stamp,
        )  # fmt: skip
        run_job(
            place(tmp_path / "fits"), plan, found.source, config_of, functools.partial(the, FakeFitter()), JobOptions(),
            before=found.before,
        )  # fmt: skip
        assert found.finish().finished
        cues = open_input(found.source.location)
        rows = list(job_status.finished_rows(tmp_path / "fits"))
        assert [row.name for row in rows] == list(found.source.names)
        assert [row.name for row in rows if row.scene_status == "ok"] == list(cues.names)
        for row in rows:
            if row.scene_status == "ok":
                scene = cues.load(cues.names.index(row.name))
                assert row.content_hash == job_rows.scene_info(0, row.name, scene, "").content_hash
        return rows

    rows = {row.name: row for row in fit()}
    assert rows["sub_a"].scene_status == "skipped:no_people" and "dark" in rows["sub_a"].scene_reason
    assert sum(row.scene_status == "ok" for row in rows.values()) == 3
    FAILS.clear()
    CALLS.clear()
    assert {row.name: row.scene_status for row in fit()}["sub_a"] == "skipped:no_people" and not CALLS
    assert {row.name: row.scene_status for row in fit(retry_failed=True)}["sub_a"] == "ok"


def test_another_expert_computes_its_cue_and_what_depends_on_it(photos, tmp_path):
    photos_to_cues.precompute(options(photos, tmp_path / "a"))
    CALLS.clear()
    with pytest.raises(StoreError, match=r"another source\.experts\.depth \(.*choose another --output"):
        photos_to_cues.precompute(options(photos, tmp_path / "a", "depth.revision=2"))
    assert not CALLS
    stages = str(tmp_path / "a" / "stages")
    photos_to_cues.precompute(options(photos, tmp_path / "b", "segmenter.revision=2", stages=stages))
    assert {name for name, _ in CALLS} == {"Segmenter", "Speak"}
    CALLS.clear()
    # A rule about keypoints acts after all experts.
    state = photos_to_cues.precompute(options(photos, tmp_path / "c", "people.min_keypoints=17", stages=stages))
    assert not CALLS
    assert state.scenes == 0
    assert all(
        "nobody to fit; 0: 16 confident keypoints" in row["reason"] for row in lines(tmp_path / "c/set_aside.jsonl")[:4]
    )


def test_a_checkpoint_that_moved_between_runs_is_noticed(photos, tmp_path, monkeypatch):
    """The version that was loaded is known only after loading; answers of two versions must not be mixed."""
    FAILS["Keypoints"] = lambda seen: (_ for _ in ()).throw(Killed) if seen[0].name == "sub_a" else None
    with pytest.raises(Killed):
        photos_to_cues.precompute(options(photos, tmp_path, batch=1))
    FAILS.clear()

    def load(self):
        Tiny.load(self)
        self.revision = "3"

    monkeypatch.setattr(Keypoints, "load", load)
    with pytest.raises(
        ExpertError, match=r"earlier answers .* of version 1.*now 3: pin it with --set=keypoints\.revision=1"
    ):
        photos_to_cues.precompute(options(photos, tmp_path))


def test_a_signal_stops_between_photos(photos, tmp_path):
    stop = threading.Event()
    FAILS["Keypoints"] = lambda _: stop.set()
    with pytest.raises(Interrupted):
        photos_to_cues.precompute(options(photos, tmp_path, batch=1), stop)
    assert not LOADED
    FAILS.clear()
    assert photos_to_cues.precompute(options(photos, tmp_path)).finished


# ------------------------------------------------------------------------------------------------ failures


def test_a_photo_that_an_expert_fails_on_is_recorded_and_may_be_tried_again(photos, tmp_path):
    def fail(seen):
        if any(photo.name == "b" for photo in seen):
            raise RuntimeError("no\n  luck")

    FAILS.update({"Speak": fail})
    state = photos_to_cues.precompute(options(photos, tmp_path))
    assert state.scenes == 4
    failed = [row for row in lines(tmp_path / "failures.jsonl") if row["cue"] != "photo"]
    assert failed == [{"scene": "b", "cue": "words", "reason": "RuntimeError: no luck"}]
    scene = open_input(str(tmp_path)).load(1)
    assert scene.age.tolist() == [-1.0, -1.0]
    assert "words: none (RuntimeError: no luck)" in scene.notes
    FAILS.clear()
    CALLS.clear()
    photos_to_cues.precompute(options(photos, tmp_path))
    assert not CALLS
    photos_to_cues.precompute(options(photos, tmp_path, retry_failed=True))
    assert CALLS == [("Speak", ("b",))]
    assert open_input(str(tmp_path)).load(1).age.tolist() == [0.33, 0.33]
    whole = tmp_path / "whole"
    photos_to_cues.precompute(options(photos, whole))
    assert shards(tmp_path) == shards(whole)


def test_without_boxes_or_keypoints_a_photo_is_set_aside(photos, tmp_path):
    def fail(seen):
        if any(photo.name in ("a", "b") for photo in seen):
            raise ValueError("lost")

    FAILS.update({"Detector": fail, "Keypoints": lambda seen: fail([p for p in seen if p.name == "sub_a"])})
    state = photos_to_cues.precompute(options(photos, tmp_path))
    assert (state.scenes, state.set_aside) == (2, 3)
    reasons = {row["scene"]: row["reason"] for row in lines(tmp_path / "set_aside.jsonl")}
    assert reasons["a"] == "detector: ValueError: lost"
    assert len([r for r in lines(tmp_path / "failures.jsonl") if r["scene"] == "a"]) == 1  # not once per later expert


@pytest.mark.parametrize("error", ["memory", "torch"])
def test_where_memory_runs_out_fewer_photos_are_shown_at_once(photos, tmp_path, error):
    class OutOfMemoryError(RuntimeError):
        pass

    def fail(seen):
        if len(seen) > 1:
            raise MemoryError if error == "memory" else OutOfMemoryError("CUDA out of memory")

    FAILS["Depth"] = fail
    state = photos_to_cues.precompute(options(photos, tmp_path, batch=4, photos_per_shard=5))
    assert state.scenes == 4
    assert [len(names) for name, names in CALLS if name == "Depth"] == [4, 2, 1, 1, 2, 1, 1]
    assert max(len(names) for name, names in CALLS if name == "Speak") == 4


@pytest.mark.parametrize(
    ("cue", "answer", "reason"),
    [
        (
            "detect",
            Detections(np.zeros((2, 5)), np.zeros(2)),
            r"detector: boxes: expected shape \(n, 4\), got \(2, 5\)",
        ),
        ("detect", Detections(np.ones((2, 4)), np.zeros(2), ["x", "x"]), "detector: ids: expected 2 different names"),
        ("detect", "people", "detector: the answer is not what the interface says"),
        ("keypoints", np.zeros((2, 18, 3)), r"keypoints: expected shape \(2, 17 or 133, 3\), got \(2, 18, 3\)"),
        ("keypoints", np.zeros((1, 17, 3)), r"keypoints: expected shape \(2, 17 or 133, 3\), got \(1, 17, 3\)"),
    ],
)
def test_an_answer_of_another_form_is_named(photos, tmp_path, monkeypatch, cue, answer, reason):
    kind = Detector if cue == "detect" else Keypoints
    monkeypatch.setattr(kind, cue, lambda self, photos, *_: [answer] * len(photos))
    photos_to_cues.precompute(options(photos, tmp_path, limit=1))
    (row,) = lines(tmp_path / "set_aside.jsonl")
    assert re.search(reason, row["reason"]), row["reason"]


def test_a_folder_of_hostile_files(tmp_path):
    """Each is a scene of the right size, or set aside with a reason; none stops the run."""
    folder = tmp_path / "in"
    folder.mkdir()
    plain = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    plain.save(folder / "rotated.jpg", exif=exif)
    plain.convert("L").save(folder / "grey.jpg")
    plain.convert("CMYK").save(folder / "cmyk.jpg")
    plain.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(np.full((120, 160), 40000, np.uint16)).save(folder / "deep.png")
    plain.save(folder / "moving.gif", save_all=True, append_images=[plain.convert("L")] * 2)
    plain.save(folder / "名前 with space & ünï.webp")
    whole = (folder / "grey.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "text.jpg").write_text("<html>")
    (folder / "empty.png").touch()
    os.symlink(folder / "nowhere", folder / "link.jpg")
    (folder / "folder.jpg").mkdir()
    state = photos_to_cues.precompute(options(folder, tmp_path / "out"))
    source = open_input(str(tmp_path / "out"))
    sizes = {name: source.load(i).image_size for i, name in enumerate(source.names)}
    names = ("alpha", "cmyk", "deep", "grey", "moving", "名前_with_space_ünï")
    assert sizes == {"rotated": (120, 160), **dict.fromkeys(names, (160, 120))}
    reasons = {row["scene"]: row["reason"] for row in lines(tmp_path / "out" / "set_aside.jsonl")}
    assert state.set_aside == 5
    for name, told in {
        "bomb": "BombError", "cut": "truncated", "empty": "cannot be read", "link": "no such file", "text": "cannot be read",
    }.items():  # fmt: skip
        assert told in reasons[name], reasons[name]


def test_crowds_and_empty_photos_are_set_aside(photos, tmp_path, monkeypatch):
    photos_to_cues.precompute(options(photos, tmp_path / "crowd", "people.max_people=1"))
    reasons = [row["reason"] for row in lines(tmp_path / "crowd" / "set_aside.jsonl")]
    assert reasons[0] == "detector: crowd: 2 people, expected at most 1"
    nobody = Detections(np.zeros((0, 4)), np.zeros(0))
    monkeypatch.setattr(Detector, "detect", lambda self, photos: [nobody] * len(photos))
    CALLS.clear()
    photos_to_cues.precompute(options(photos, tmp_path / "empty"))
    reasons = [row["reason"] for row in lines(tmp_path / "empty" / "set_aside.jsonl")]
    assert reasons[0] == "no people"
    assert {name for name, _ in CALLS} == {"Depth"}  # there is nobody to ask the others about


def test_words_of_a_server_through_the_program(photos, tmp_path, monkeypatch, caplog):
    """The budget ends the run; the same command goes on; no question is sent twice; the key is nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Server()
    try:
        server.answer = lambda *_: (200, {}, said('{"age": "teen", "gender": "unknown"}'))
        words = ("words=http", f"words.url={server.url}", f"words.cache={tmp_path / 'cache'}", "words.concurrency=1")
        with pytest.raises(ExpertError, match="3 requests is spent"):
            photos_to_cues.precompute(options(photos, tmp_path / "out", *words, "words.max_requests=3"))
        assert not LOADED
        state = photos_to_cues.precompute(options(photos, tmp_path / "out", *words))
        assert (state.scenes, len(server.requests)) == (4, 8)  # two people in each of four photos
        assert state.finished
        photos_to_cues.precompute(options(photos, tmp_path / "again", *words))
        assert len(server.requests) == 8  # from the cache
    finally:
        server.close()
    scene = open_input(str(tmp_path / "out")).load(0)
    assert (scene.age.tolist(), scene.gender.tolist()) == ([0.5, 0.5], [-1.0, -1.0])
    assert scene.extra["answers"][0] == '{"age": "teen", "gender": "unknown"}'
    card = scene.extra["provenance"]["cues"]["words"]
    assert (card["expert"], card["checkpoint"], card["licence"]) == ("http", "Qwen/Qwen3-VL-8B-Instruct", "apache-2.0")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


# ------------------------------------------------------------------------------------------------ choices


def test_licences_that_do_not_allow_commercial_use_need_a_flag(photos, tmp_path):
    closed = ("depth.licence=CC-BY-NC-4.0", "depth.commercial=False")
    with pytest.raises(ExpertError, match=r"depth Depth \(planted\): CC-BY-NC-4\.0.*--allow_noncommercial"):
        photos_to_cues.precompute(options(photos, tmp_path, *closed))
    assert not CALLS
    photos_to_cues.precompute(options(photos, tmp_path, *closed, allow_noncommercial=True, limit=1))
    origin = open_input(str(tmp_path)).load(0).extra["provenance"]
    assert origin["licences"] == ["CC-BY-NC-4.0", "CC0-1.0"]
    assert origin["commercial"] is False


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"experts": "best"}, (), "expected one of default, whole_body, large, server, none"),
        ({}, ("depth=deepest",), "no expert 'deepest'; there are depth_anything"),
        ({}, ("depth=nowhere:Depth",), "no module nowhere"),
        ({}, (f"depth={__name__}:Nothing",), "has no Nothing"),
        ({}, (f"depth={__name__}:NotAnExpert",), "lacks card, depth"),
        ({}, ("depth",), "expected cue=expert"),
        ({}, ("sound=loud",), "no cue 'sound'"),
        ({}, ("dense.path=x",), "no expert for dense"),
        ({}, ("depth.speed=3",), r"Depth has no option 'speed'; there are licence, revision, commercial"),
        ({"experts": "default"}, ("depth._model=3",), "has no option '_model'"),
        ({}, ("people.min_keypoints=many",), "expected int"),
        ({}, ("keypoints=none",), "no expert for keypoints"),
        ({"words": "words.json"}, (), "give --annotations"),
    ],
)
def test_a_choice_that_cannot_be_says_what_there_is(photos, tmp_path, changes, more, message):
    with pytest.raises((ExpertError, ValueError), match=message):
        photos_to_cues.precompute(options(photos, tmp_path, *more, **changes))
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.process
def test_the_default_set_is_permissive_and_imports_nothing_heavy():
    code = (
        "import sys; from experts import registry; s = registry.build('default'); registry.check_licences(s, False); "
        "large = registry.build('large'); registry.check_licences(large, False); "
        "registry.check_licences(registry.build('server'), False); "
        "print([c for c, _ in s.items()], [c for c, _ in large.items()], "
        "[m for m in ('torch', 'transformers', 'tensorflow', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, timeout=HANG_S)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(
        "['detector', 'segmenter', 'keypoints', 'camera'] "
        "['detector', 'segmenter', 'keypoints', 'depth', 'camera', 'words'] "
    )
    assert "'torch'" not in done.stdout
    assert "'transformers'" not in done.stdout


def test_a_missing_extra_is_named_with_the_command():
    try:
        import torch  # noqa: F401  # pyright: ignore[reportMissingImports]

        pytest.skip("torch is installed")
    except ImportError:
        pass
    for cue in ("detector", "segmenter", "keypoints", "depth", "words"):
        with pytest.raises(ExpertError, match=r"pip install -e '\.\[experts\]'"):
            getattr(build("large"), cue).load()


def test_the_expert_of_the_documentation_works(photos, tmp_path, monkeypatch):
    text = (REPO / "docs" / "experts.md").read_text()
    ((name, code),) = re.findall(r"```python\n# my_package/(\w+)\.py\n(.*?)```", text, re.DOTALL)
    package = tmp_path / "my_package"
    package.mkdir()
    (package / f"{name}.py").write_text(code)
    (tmp_path / "my_model.py").write_text(
        "import numpy as np\n"
        "def load():\n"
        "    return lambda pixels, threshold: (np.array([[10.0, 10, 60, 100]]), np.array([threshold + 0.1]))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    more = ("detector=my_package.detect:MyDetector", "detector.threshold=0.6")
    photos_to_cues.precompute(options(photos, tmp_path / "out", *more, limit=1))
    scene = open_input(str(tmp_path / "out")).load(0)
    np.testing.assert_allclose(scene.extra["detection_scores"], [0.7])
    assert scene.extra["provenance"]["cues"]["detector"]["checkpoint"] == "weights-v3"


def test_every_expert_and_option_of_the_documentation_exists():
    """The table of experts names what the registry has, with the checkpoint and licence of the code."""
    text = (REPO / "docs" / "experts.md").read_text()
    for cue, named in BUILT_IN.items():
        for name in named:
            card = create(cue, name).card
            row = next((line for line in text.splitlines() if line.startswith(f"| `{cue}` | `{name}` |")), None)
            assert row is not None, f"{cue} {name} has no row in docs/experts.md"
            assert not card.checkpoint or f"`{card.checkpoint}`" in row, row
            assert not card.version or f"`{card.version}`" in row, row
            assert not card.licence or card.licence.lower() in row.lower(), row
            assert ("needs `--allow_noncommercial`" in row) == (not card.commercial), row
    assignments = re.findall(r"--set=([a-z]+\.[a-z_.]+=[^\s`]+)", text)
    assert len(assignments) >= 5
    for assignment in assignments:
        cue = assignment.partition(".")[0]
        if cue == "start":
            build("default", ["start=multihmr_files", assignment])
        elif assignment != "detector.threshold=0.4":  # of the reader's own expert
            known = {f.name for f in dataclasses.fields(build("large").words)}
            option = assignment.partition("=")[0].split(".")[1]
            build("server" if cue == "words" and option not in known else "large", [assignment])


@pytest.mark.process
def test_the_program_runs_from_the_command_line(photos, tmp_path):
    command = [sys.executable, "-m", "experiments.precompute", f"--images={photos}", f"--output={tmp_path / 'out'}"]
    done = subprocess.run([*command, "--experts=nothing"], capture_output=True, text=True, cwd=REPO, timeout=HANG_S)
    assert done.returncode == 2
    assert "expected one of default, whole_body, large, server, none" in done.stderr
    real = Image.open(photos / "a.jpg")
    file = tmp_path / "people.json"
    points = [v for x, y in STICK * [60, 100] + [40, 10] for v in (float(x), float(y), 2)]
    person = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [40, 10, 60, 100], "keypoints": points}
    file.write_text(
        json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [person], "categories": []})
    )
    real.close()
    done = subprocess.run(
        [*command, "--experts=none", f"--annotations={file}", "--set=people.max_people=9"],
        capture_output=True, text=True, cwd=REPO, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1 scene, 1 person, 4 photos set aside" in done.stdout
    page = subprocess.run(
        [sys.executable, "-m", "experiments.inspect_cues", f"--cues={tmp_path / 'out'}", f"--output={tmp_path / 'page'}"],
        capture_output=True, text=True, cwd=REPO, timeout=HANG_S,
    )  # fmt: skip
    assert page.returncode == 0, page.stderr[-2000:]
    assert (tmp_path / "page" / "index.html").is_file()


def test_no_photos_is_said(tmp_path):
    with pytest.raises(SceneError, match="no such file or folder"):
        photos_to_cues.precompute(options(tmp_path / "none", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match="no photo"):
        photos_to_cues.precompute(options(tmp_path / "empty", tmp_path / "out"))
