"""Inputs in buckets are read as those on a disk, under the bucket's names, also where the server fails."""

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from bucket_server import failing_server
from PIL import Image

from annyfit_jax.inputs import SceneSource, bucket_input, open_input
from annyfit_jax.jobs.job_driver import identity_of
from annyfit_jax.people.scene import SceneError
from annyfit_jax.store.locations import Location, place
from experiments.studies.faulty_s3 import FaultyS3

SIZE = (64, 48)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with failing_server(share=0.1) as made:
        yield made


@pytest.fixture(params=["memory", "s3"])
def bucket(request, tmp_path, monkeypatch) -> Location:
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path / "cache"))
    if request.param == "memory":
        return place(f"memory://input-{tmp_path.name}-{os.getpid()}")
    return place(f"s3://{request.getfixturevalue('server').bucket}/{tmp_path.name}")


def points(k: int) -> list[float]:
    return [value for j in range(k) for value in (10.0 + j, 12.0 + j / 2, 0.5)]


def openpose(disk: Path) -> dict[str, str]:
    """Photos in a folder of their own; one file is broken."""
    for name in ("a", "b"):
        (disk / "keypoints" / f"{name}_keypoints.json").write_text(
            json.dumps({"people": [{"pose_keypoints_2d": points(25)}]})
        )
        Image.new("RGB", SIZE).save(disk / "photos" / f"{name}.jpg")
    (disk / "keypoints" / "c_keypoints.json").write_text("{")
    return {"path": "keypoints", "images": "photos"}


def beside(disk: Path) -> dict[str, str]:
    """COCO annotations beside their photos, which alone know their size; masks, depth maps and words in files."""
    images = [{"id": i, "file_name": f"photos/{name}.jpg"} for i, name in enumerate("ab")]
    person = {
        "category_id": 1,
        "keypoints": [v for j in range(17) for v in (20 + j, 9 + j, 2)],
        "bbox": [18, 8, 20, 20],
    }
    people = [{"id": 7 + i, "image_id": i, **person} for i in range(2)]
    (disk / "coco.json").write_text(json.dumps({"images": images, "annotations": people}))
    (disk / "words.json").write_text(json.dumps({"7": {"age": "baby"}}))
    labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    labels[10:30, 15:40] = 1
    for name in "ab":
        Image.new("RGB", SIZE).save(disk / "photos" / f"{name}.jpg")
        Image.fromarray(labels).save(disk / "masks" / f"{name}.png")
        np.save(disk / "depth" / f"{name}.npy", np.full((SIZE[1], SIZE[0]), 3.0))
    return {"path": "coco.json", "masks": "masks", "depth": "depth", "words": "words.json"}


def calibrated(disk: Path) -> dict[str, str]:
    openpose(disk)
    (disk / "cameras.toml").write_text(
        "[cam]\nname = 'cam'\nsize = [64.0, 48.0]\nmatrix = [[50.0, 0.0, 32.0], [0.0, 50.0, 24.0], [0.0, 0.0, 1.0]]\n"
        "distortions = [0.1, 0.0, 0.0, 0.0]\n"
    )
    return {"path": "keypoints", "calibration": "cameras.toml"}


def scene_files(disk: Path) -> dict[str, str]:
    for name in "ab":
        np.savez(
            disk / "keypoints" / f"{name}.npz", image_size=np.array(SIZE), keypoints_2d=np.array([points(17)]).reshape(1, 17, 3)
        )  # fmt: skip
    return {"path": "keypoints"}


def official(disk: Path) -> dict[str, str]:
    (disk / "data" / "preprocessed").mkdir(parents=True)
    (disk / "data" / "images").mkdir()
    Image.new("RGB", SIZE).save(disk / "data" / "images" / "a.jpg")
    np.savez(
        disk / "data" / "preprocessed" / "a.npz", img_path="/elsewhere/a.jpg", imgname="a.jpg", img_size=np.array(SIZE),
        bboxes=np.array([[5.0, 5.0, 50.0, 40.0]]), person_ids=np.arange(1), dense_kps=np.zeros((1, 138, 3)),
        keypoints=np.array(points(17)).reshape(1, 17, 3),
    )  # fmt: skip
    return {"path": "data"}


def on_disk(tmp_path: Path, make) -> tuple[Path, dict[str, str]]:
    disk = tmp_path / "disk"
    for name in ("keypoints", "photos", "masks", "depth"):
        (disk / name).mkdir(parents=True)
    return disk, make(disk)


def upload(disk: Path, bucket: Location) -> None:
    for name in place(disk).tree():
        (bucket / name).put((disk / name).read_bytes())


def opened(root: Path | Location, where: dict[str, str]) -> SceneSource:
    given: dict[str, Any] = {name: str(place(str(root)) / value) for name, value in where.items()}
    return open_input(**given, with_masks=True)


def read(source: SceneSource, root: Path | Location | str) -> list[str]:
    """All that is known of the scenes, with names below the root."""
    found: list[object] = [source.kind, source.names, source.location, source.notes]
    for index in range(len(source)):
        try:
            scene = source.load(index)
            found.append({field.name: getattr(scene, field.name) for field in dataclasses.fields(scene)})
        except SceneError as error:
            found.append(str(error))
    return [repr(entry).replace(str(root), "ROOT") for entry in found]


@pytest.mark.parametrize("make", [openpose, beside, calibrated, scene_files, official])
def test_scenes_are_those_of_the_disk(bucket, tmp_path, make, caplog):
    disk, where = on_disk(tmp_path, make)
    upload(disk, bucket)
    expected = read(opened(disk, where), disk)
    shutil.move(disk, tmp_path / "elsewhere")  # nothing may still be read there
    assert read(opened(bucket, where), bucket) == expected
    assert any("ROOT" in entry for entry in expected[4:]) or make is scene_files
    if make is openpose:
        assert f"{bucket}/keypoints/c_keypoints.json: not a JSON file" in "".join(
            read(opened(bucket, where), "nowhere")
        )


def test_a_corrected_object_has_another_fingerprint_and_the_others_are_not_fetched_again(bucket, tmp_path):
    disk, where = on_disk(tmp_path, scene_files)
    upload(disk, bucket)
    first = opened(bucket, where)
    stamps = [first.stamp(i) for i in range(2)]
    local = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npz")}
    assert sorted(local) == ["a.npz", "b.npz"]
    np.savez(disk / "keypoints" / "b.npz", image_size=np.array(SIZE), keypoints_2d=np.full((1, 17, 3), 3.0))
    (bucket / "keypoints" / "b.npz").put((disk / "keypoints" / "b.npz").read_bytes())
    second = opened(bucket, where)
    assert [second.stamp(i) == stamps[i] for i in range(2)] == [True, False]
    assert second.load(1).keypoints[0, 0, 0] == 3.0
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npz")}
    assert [again[name] == local[name] for name in ("a.npz", "b.npz")] == [True, False]
    (bucket / "keypoints" / "a.npz").remove()
    assert opened(bucket, where).names == ("b",)


def test_a_worker_elsewhere_fetches_for_itself(bucket, tmp_path):
    disk, where = on_disk(tmp_path, beside)
    upload(disk, bucket)
    source = opened(bucket, where)
    expected, pickled = read(source, bucket), cloudpickle.dumps(source)
    shutil.rmtree(tmp_path / "cache")
    assert read(pickle.loads(pickled), bucket) == expected


def test_what_is_not_there_is_said(bucket, tmp_path):
    with pytest.raises(SceneError, match=rf"^{bucket}/nothing: no such file or folder"):
        open_input(str(bucket / "nothing"))
    disk, where = on_disk(tmp_path, scene_files)
    upload(disk, bucket)
    for name, what in (("images", "folder"), ("masks", "folder"), ("calibration", "file")):
        with pytest.raises(SceneError, match=f"option {name}: no {what} {bucket}/no"):
            opened(bucket, {**where, name: "no"})
    (bucket / "empty" / "a.txt").put(b"nothing of ours")
    with pytest.raises(SceneError, match=rf"^{bucket}/empty: not a known input"):
        open_input(str(bucket / "empty"))


def test_words_and_cameras_of_a_bucket_decide_a_job_by_their_content(bucket, tmp_path):
    disk, where = on_disk(tmp_path, beside)
    upload(disk, bucket)
    ours = identity_of({"words": str(bucket / where["words"])})
    assert ours == identity_of({"words": str(disk / where["words"])})


def test_local_inputs_are_opened_as_they_are(tmp_path):
    disk, where = on_disk(tmp_path, scene_files)
    source = opened(disk, where)
    assert not isinstance(source.loader, bucket_input._Loader) and source.location == str(disk / "keypoints")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hand_labels": True}, "option hand_labels: .* is of kind openpose; it is for coco"),
        ({"translation": "head"}, "option translation: .* is of kind openpose; it is for official"),
    ],
)  # fmt: skip
def test_options_that_would_change_nothing_are_refused(tmp_path, given, said):
    for name in ("keypoints", "photos"):
        (tmp_path / name).mkdir()
    openpose(tmp_path)
    path, images = str(tmp_path / "keypoints"), str(tmp_path / "photos")
    with pytest.raises(SceneError, match=said):
        open_input(path, images=images, **given)
    assert open_input(path, images=images).kind == "openpose"
