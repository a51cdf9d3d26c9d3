"""Predictions in units: what is done stays, what has changed is done again, on a disk and in a bucket."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_job import fake_fit, make_scene
from PIL import Image

from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.fit_files import SceneFit
from annyfit_jax.regressors.photo_predictions import Predicted, Predicting, predict_photos
from annyfit_jax.store.locations import Location, place


class Greys:
    """Predicts as many people as the grey of the photo says; the calls are counted in a file."""

    def __init__(self, calls: Path) -> None:
        self.calls = calls

    def __call__(self) -> Greys:
        return self

    def fit(self, name: str, image: np.ndarray, image_path: str = "") -> SceneFit:
        with self.calls.open("a") as file:
            file.write(f"{name}\n")
        people = int(image[0, 0, 0]) // 10
        fit = fake_fit(make_scene(people, people, name))
        return replace(fit, image_path=image_path, notes=np.full(people, "score=0.5;box=1,2,3,4"))

    def names(self) -> list[str]:
        """Since the last question."""
        names = self.calls.read_text().split() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return names


def write_photos(folder: Location, greys: dict[str, int]) -> None:
    for name, grey in greys.items():
        scratch = Path(os.environ["PYTEST_TMP"]) / "photo.png"
        Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(scratch)
        (folder / f"{name}.png").put(scratch.read_bytes())


@pytest.fixture(params=["disk", "memory"])
def place_of(request, tmp_path, monkeypatch) -> Location:
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))
    return place(tmp_path / "place" if request.param == "disk" else f"memory://{tmp_path.name}-{os.getpid()}")


def test_photos_are_predicted_once(place_of, tmp_path):
    network, how = Greys(tmp_path / "calls"), Predicting(per_unit=2)
    photos, output = place_of / "photos", place_of / "out"
    write_photos(photos, {"a": 10, "b": 20, "c": 0, "d": 30})
    (photos / "broken.png").put(b"nothing")

    def predict(identity: int = 1) -> Predicted:
        return predict_photos(network, str(photos), output, how, identity)

    assert predict() == Predicted(4, 6, 1) and network.names() == ["a", "b", "c", "d"]
    fits = open_fits(str(output))
    assert {fit.name: len(fit) for fit in fits} == {"a": 1, "b": 2, "c": 0, "d": 3}
    assert fits.load("a").image_path == f"{photos}/a.png"
    rows = [json.loads(line) for line in (output / "people.jsonl").read_bytes().splitlines()]
    assert [row["scene"] for row in rows] == ["a", "b", "b", "d", "d", "d"] and rows[0]["box"] == [1, 2, 3, 4]
    (aside,) = [json.loads(line) for line in (output / "set_aside.jsonl").read_bytes().splitlines()]
    assert aside["name"] == "broken" and "broken.png" in aside["reason"]
    # The same again, then with a photo that has changed, with a fit that is lost, and of another network.
    assert predict() == Predicted(4, 6, 1) and network.names() == []
    write_photos(photos, {"b": 50})
    assert predict() == Predicted(4, 9, 1) and network.names() == ["a", "b"]
    (output / "fits" / "d.npz").remove()
    assert predict() == Predicted(4, 9, 1) and network.names() == ["d"]
    assert predict(identity=2) == Predicted(4, 9, 1) and len(network.names()) == 4


def test_predictions_of_other_photos_stay(place_of, tmp_path):
    for name in ("a", "b"):
        write_photos(place_of / name, {name: 10})
        predict_photos(Greys(tmp_path / "calls"), str(place_of / name), place_of / "out")
    assert open_fits(str(place_of / "out")).names == ("a", "b")


def test_a_limit_counts_from_the_first_photo_and_may_grow(place_of, tmp_path):
    network, photos, output = Greys(tmp_path / "calls"), place_of / "photos", place_of / "out"
    write_photos(photos, {"a": 10, "b": 20, "c": 30})
    assert predict_photos(network, str(photos), output, Predicting(per_unit=1, limit=2)) == Predicted(2, 3, 0)
    assert network.names() == ["a", "b"]
    assert predict_photos(network, str(photos), output, Predicting(per_unit=1)) == Predicted(3, 6, 0)
    assert network.names() == ["c"]


def test_nothing_that_can_be_read(place_of, tmp_path):
    (place_of / "photos" / "broken.png").put(b"nothing")
    with pytest.raises(SceneError, match=r"none of the 1 photos can be read; the reasons are in .*set_aside"):
        predict_photos(Greys(tmp_path / "calls"), str(place_of / "photos"), place_of / "out")
