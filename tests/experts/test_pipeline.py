"""Stages of experts: what a key depends on, failures that are halved down to a photo, answers that are kept."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annyfit_jax.engine.running import run
from annyfit_jax.engine.stopping import Interrupted
from annyfit_jax.store.locations import place
from experts import expert_store
from experts.interfaces import Card, DepthEstimate, Detections, ExpertError
from experts.people_rules import Rules
from experts.pipeline import Collection, Stages, failures, stage_keys, upstream
from experts.registry import ExpertSet


@dataclass
class Detector:
    """One person per photo; refuses calls with a photo in `bad` and calls of more than `most`."""

    revision: str = "1"
    bad: frozenset[str] = field(default=frozenset(), metadata={"decides": False})
    most: int = field(default=100, metadata={"decides": False})
    calls: list[list[str]] = field(default_factory=list, metadata={"decides": False})

    @property
    def card(self) -> Card:
        return Card("detector", "planted", self.revision, "CC0-1.0", True)

    def load(self) -> None: ...
    def close(self) -> None: ...

    def detect(self, photos):
        self.calls.append([photo.name for photo in photos])
        if len(photos) > self.most:
            raise MemoryError("out of memory")
        if self.bad & set(self.calls[-1]):
            raise RuntimeError("cannot see")
        return [Detections(np.array([[2.0, 2.0, 50.0, 60.0]]), np.array([0.9])) for _ in photos]


@dataclass
class Depth(Detector):
    @property
    def card(self) -> Card:
        return Card("depth", "planted", self.revision, "CC0-1.0", True)

    def depth(self, photos):
        self.calls.append([photo.name for photo in photos])
        return [DepthEstimate(np.ones(photo.size[::-1]), None) for photo in photos]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        Image.fromarray(np.full((64, 80, 3), 40 * index, np.uint8)).save(folder / f"p{index}.png")
    return folder


UNITS = [(0, 1, 2), (3, 4)]


def test_photos_that_are_given_are_not_read_again(photos, tmp_path, monkeypatch):
    """The stage that reads for all experts hands on what each would read itself, broken photos among them."""
    (photos / "p1.png").write_bytes(b"no photo")
    detector = Detector()
    stages = Stages(
        place(tmp_path / "stages"), Collection.of_folder(str(photos)), ExpertSet(detector=detector, depth=Depth())
    )
    reading, *asked = stages.stages(len(UNITS), UNITS.__getitem__)
    assert reading.hands_on and [stage.given for stage in asked] == [reading.name, reading.name]
    assert [unit for unit in reading.units if reading.needed(unit)] == [0, 1]
    stop = threading.Event()
    read = dict(reading.make(stop).stream(iter(map(reading.task, reading.units))))
    assert [type(photo).__name__ for photo in read[0]] == ["Photo", "Entry", "Photo"]

    def refuse(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("experts.pipeline.read_photo", refuse)
    for stage in asked:
        tasks = [(*stage.task(unit), read[unit]) for unit in stage.units]
        for unit, result in stage.make(stop).stream(iter(tasks)):
            stage.commit(unit, result)
    assert [unit for unit in reading.units if reading.needed(unit)] == []
    assert [call for call in detector.calls if call] == [["p0", "p2"], ["p3", "p4"]]
    (row,) = failures(stages, UNITS)
    assert row["scene"] == "p1" and row["cue"] == "photo"


@dataclass
class Run:
    """Stages with units of three photos."""

    stages: Stages
    stop: threading.Event

    def run(self) -> None:
        run(self.stages.stages(len(UNITS), UNITS.__getitem__), stop=self.stop)

    def path(self, cue: str, unit: int) -> Path:
        return self.stages.path(cue, UNITS[unit]).path

    def failures(self) -> list[dict[str, str]]:
        return failures(self.stages, UNITS)


def stages(tmp_path, photos, experts: ExpertSet, stop: threading.Event | None = None, **options) -> Run:
    made = Stages(place(tmp_path / "stages"), Collection.of_folder(photos), experts, **options)
    return Run(made, stop or threading.Event())


# ------------------------------------------------------------------------------------------------ keys


def test_a_key_changes_with_what_decides_the_answers(photos):
    keys = stage_keys(ExpertSet(detector=Detector(), depth=Depth()))
    assert stage_keys(ExpertSet(detector=Detector(), depth=Depth())) == keys
    other_detector = stage_keys(ExpertSet(detector=Detector("2"), depth=Depth()))
    assert (other_detector["detector"] != keys["detector"], other_detector["depth"] == keys["depth"]) == (True, True)
    other_rules = stage_keys(ExpertSet(detector=Detector(), depth=Depth(), people=Rules(min_score=0.5)))
    assert (other_rules["detector"] != keys["detector"], other_rules["depth"] == keys["depth"]) == (True, True)


def test_the_file_of_a_unit_follows_its_photos(photos):
    before = Collection.of_folder(photos)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)).save(photos / "p0.png")
    after = Collection.of_folder(photos)
    first, second = ([collection.checksum(unit) for unit in UNITS] for collection in (before, after))
    assert (first[0] != second[0], first[1] == second[1]) == (True, True)


def test_a_key_depends_on_experts_whose_answers_are_given(photos):
    @dataclass
    class Later(Depth):
        uses = ("detector",)

    first, second = (stage_keys(ExpertSet(detector=Detector(r), depth=Later())) for r in "12")
    assert first["depth"] != second["depth"]
    assert upstream("depth", Later()) == ("detector",)


def test_an_expert_cannot_use_what_comes_later():
    @dataclass
    class Early(Detector):
        uses = ("depth",)

    with pytest.raises(ExpertError, match="detector: detector uses depth, which are found later"):
        upstream("detector", Early())


# ------------------------------------------------------------------------------------------------ runs


def test_answers_are_stored_by_unit_and_asked_for_once(tmp_path, photos):
    detector = Detector()
    made = stages(tmp_path, photos, ExpertSet(detector=detector))
    made.run()
    assert detector.calls == [["p0", "p1", "p2"], ["p3", "p4"]]
    with expert_store.open_unit(place(made.path("detector", 1))) as unit:
        assert [unit.entry(k).name for k in range(2)] == ["p3", "p4"]
    stages(tmp_path, photos, ExpertSet(detector=detector)).run()
    assert len(detector.calls) == 2
    made.path("detector", 0).unlink()
    stages(tmp_path, photos, ExpertSet(detector=detector)).run()
    assert detector.calls[2:] == [["p0", "p1", "p2"]]


def test_a_failure_is_halved_down_to_its_photo(tmp_path, photos):
    detector = Detector(bad=frozenset({"p1"}))
    made = stages(tmp_path, photos, ExpertSet(detector=detector, depth=Depth()))
    made.run()
    assert detector.calls[:4] == [["p0", "p1", "p2"], ["p0"], ["p1", "p2"], ["p1"]]
    assert made.failures() == [{"scene": "p1", "cue": "detector", "reason": "RuntimeError: cannot see"}]


def test_memory_that_runs_out_halves_the_calls_of_this_expert_only(tmp_path, photos):
    detector, depth = Detector(most=1), Depth()
    made = stages(tmp_path, photos, ExpertSet(detector=detector, depth=depth), batch=3)
    made.run()
    assert not made.failures()
    assert [len(call) for call in depth.calls] == [3, 2]
    assert max(len(call) for call in detector.calls[-2:]) == 1


def test_what_failed_is_tried_again_and_the_rest_is_kept(tmp_path, photos):
    stages(tmp_path, photos, ExpertSet(detector=Detector(bad=frozenset({"p1"})))).run()
    detector = Detector()
    stages(tmp_path, photos, ExpertSet(detector=detector)).run()
    assert not detector.calls
    again = stages(tmp_path, photos, ExpertSet(detector=detector), retry_failed=True)
    again.run()
    assert detector.calls == [["p1"]]
    assert again.stages.redone == {0}
    assert not again.failures()


def test_a_stop_leaves_whole_units(tmp_path, photos):
    stop = threading.Event()

    @dataclass
    class Stopping(Detector):
        def detect(self, photos):
            stop.set()
            return super().detect(photos)

    made = stages(tmp_path, photos, ExpertSet(detector=Stopping()), stop=stop, batch=1)
    with pytest.raises(Interrupted):
        made.run()
    assert not made.path("detector", 0).exists()
