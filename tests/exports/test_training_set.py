"""The training set: an example per image for TFDS and Grain, photos from a folder or a cue dataset, stopped and resumed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from export_cases import FITTED, NAMES, PEOPLE, load, make_job
from fitted_people import make_fit
from helpers import HANG_S, REPO
from PIL import Image

from annyfit_jax.exports import exported_people, training_set
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.inputs import cue_dataset
from annyfit_jax.jobs.fit_source import Outcome, open_fits
from annyfit_jax.people.scene import SceneError
from annyfit_jax.records import fit_files
from annyfit_jax.records.fit_files import FitFileError
from annyfit_jax.store.plan import StoreError


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "out")


@pytest.fixture(scope="module")
def folder(job, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "train"
    files, _ = export_fits(str(job), str(folder), "tfds", scenes_per_shard=2)
    assert [file.name[-14:] for file in files] == [f"0000{i}-of-00003" for i in range(3)]
    return folder


def examples(folder: Path) -> list[dict]:
    return list(tfds.builder_from_directory(str(folder)).as_data_source("train"))  # pyright: ignore[reportCallIssue]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything but what says when and where a shard was written (records, progress), and the card of an export."""
    files = (
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.parent.name != "done" and p.name != "data_card.json" and not p.name.startswith("progress-")
    )
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def photo(colour: int) -> Image.Image:
    return Image.fromarray(np.full((480, 640, 3), colour, np.uint8))


def jpeg(colour: int) -> bytes:
    stream = io.BytesIO()
    photo(colour).save(stream, "JPEG")
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------ what is in it


def test_tfds_reads_an_example_per_fitted_image(folder, job):
    source = open_fits(job)
    records = examples(folder)
    assert [record["name"].decode() for record in records] == list(FITTED)
    for record in records:
        name = record["name"].decode()
        fit = source.load(name)
        for field in (
            "root_rotvec", "transl", "pose", "shape", "height_m", "depth_m", "reprojection_px", "keypoints_2d", "image_size",
            "start_reprojection_px",
        ):  # fmt: skip
            np.testing.assert_array_equal(record[field], getattr(fit, field), err_msg=field)
        np.testing.assert_array_equal(record["keypoints_3d"], fit.fitted_keypoints_3d)
        np.testing.assert_array_equal(record["intrinsics"], fit.K)
        np.testing.assert_array_equal(record["fitted"], fit.ok)
        np.testing.assert_array_equal(record["boxes"], exported_people.boxes(fit).astype(np.float32))
        np.testing.assert_array_equal(record["seen_keypoints"], exported_people.seen(fit).sum(1))
        np.testing.assert_array_equal(record["age_cue"], fit.age_word)
        assert [text.decode() for text in record["status"]] == fit.status.tolist()
        assert [text.decode() for text in record["person_ids"]] == fit.person_ids.tolist()
        assert [len(key) for key in record["person_keys"]] == [32] * len(fit)
        assert record["scene_index"] == NAMES.index(name) and record["image_jpeg"] == b""
        assert len(fit) == PEOPLE[name] and record["fitted"].sum() == FITTED[name]


def test_scenes_without_a_fit_say_why(folder):
    lines = [json.loads(line) for line in (folder / "set_aside.jsonl").read_text().splitlines()]
    assert [line["scene"] for line in lines] == ["unreadable", "invalid", "failed"]
    assert "not a readable" in lines[0]["reason"] and lines[2]["reason"] == "nobody was fitted"
    labels = json.loads((folder / "labels.json").read_text())
    assert (len(labels["bone_labels"]), labels["phenotype_labels"][1]) == (162, "age")


def test_features_are_those_documented(folder):
    assert all(field.meaning for field in training_set.fields().values())
    assert sorted(training_set.fields()) == sorted(examples(folder)[0])


@pytest.mark.process
def test_grain_reads_the_training_set_and_the_job_without_tensorflow(folder, job):
    """Both are datasets: Grain shuffles, maps and batches them, and TensorFlow is never imported."""
    code = f"""
import sys, grain, numpy as np
from absl import flags
flags.FLAGS.mark_as_parsed()
import tensorflow_datasets as tfds
def pipeline(folder):
    records = tfds.builder_from_directory(folder).as_data_source("train")
    loaded = grain.MapDataset.source(records).seed(1).shuffle()
    loaded = loaded.map(lambda r: {{"name": r["name"], "transl": np.nan_to_num(r["transl"]).sum(0)}}).batch(2)
    return {{str(n.decode()): t[2] for b in loaded.to_iter_dataset() for n, t in zip(b["name"], b["transl"])}}
train, job = pipeline({str(folder)!r}), pipeline({str(job)!r})
assert all(abs(job[name] - depth) < 1e-6 for name, depth in train.items())
print(sorted(train), len(job), "tensorflow" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=HANG_S)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == f"{sorted(FITTED)} {len(NAMES)} False"


def test_chosen_scenes_in_the_order_given(job, tmp_path):
    export_fits(str(job), str(tmp_path / "d"), "tfds", ["trio", "pair"])
    assert [record["name"] for record in examples(tmp_path / "d")] == [b"trio", b"pair"]


def test_fits_of_smaller_bodies_have_their_own_shapes(tmp_path):
    pose, shape = np.zeros((3, 54, 3), np.float32), np.zeros((3, 10), np.float32)
    arrays = {"pose": pose, "start_pose": pose, "shape": shape, "start_shape": shape, "shape_raw": shape}
    names = {"bone_labels": np.array(["b"] * 54), "phenotype_labels": np.array(["beta"] * 10)}
    fit_files.save(make_fit("a", **arrays, **names), tmp_path / "a.npz")
    fit_files.save(make_fit("b"), tmp_path / "b.npz")
    state = training_set.write_training_set(open_fits(tmp_path), tmp_path / "d")
    assert (state.scenes, state.set_aside) == (1, 1)  # not both in one table
    (record,) = examples(tmp_path / "d")
    assert (record["pose"].shape, record["shape"].shape) == ((3, 54, 3), (3, 10))


# ------------------------------------------------------------------------------------------------ stopping, going on


def test_an_interrupted_export_goes_on_and_gives_the_same_files(job, folder, tmp_path):
    source = open_fits(job)
    calls = []

    def interrupt(shard: int) -> None:
        calls.append(shard)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            training_set.write_training_set(source, tmp_path / "d", scenes_per_shard=2, on_shard=interrupt)
    training_set.write_training_set(source, tmp_path / "d", scenes_per_shard=2, on_shard=calls.append)
    assert calls == [0, 1, 2]
    assert files_of(tmp_path / "d") == files_of(folder)


def test_other_fits_do_not_go_into_the_same_folder(job, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "d")
    other = make_job(tmp_path / job.name, scenes_per_shard=3)
    with pytest.raises(StoreError, match="another source"):
        export_fits(str(other), str(tmp_path / "d"), "tfds", scenes_per_shard=2)
    assert files_of(tmp_path / "d") == files_of(folder)


def test_nobody_fitted_is_one_clear_message(tmp_path):
    make_job(tmp_path / "job", ["pair", "mixed", "unreadable"])
    with pytest.raises(ValueError, match="--scenes: no fit of unreadable"):
        export_fits(str(tmp_path / "job"), str(tmp_path / "d"), "tfds", ["unreadable"])
    failed = make_fit(status=np.full(3, "failed:not_finite"))
    fit_files.save(failed, tmp_path / "fits" / "photo.npz")
    with pytest.raises(ValueError, match=r"no scene could be written; the reasons are in set_aside\.jsonl"):
        export_fits(str(tmp_path / "fits"), str(tmp_path / "e"), "tfds")


# ------------------------------------------------------------------------------------------------ photos


def test_photos_from_a_folder(job, tmp_path):
    (tmp_path / "in" / "photos").mkdir(parents=True)
    photo(10).save(tmp_path / "in" / "photos" / "pair.jpg")  # under the path that the fit names
    photo(200).save(tmp_path / "in" / "trio.jpg")  # under its name alone
    export_fits(str(job), str(tmp_path / "d"), "tfds", images=str(tmp_path / "in"))
    records = {record["name"].decode(): record for record in examples(tmp_path / "d")}
    assert list(records) == ["pair", "trio"]
    for name, colour in (("pair", 10), ("trio", 200)):
        pixels = np.asarray(Image.open(io.BytesIO(records[name]["image_jpeg"])))
        assert pixels.shape == (480, 640, 3) and abs(int(pixels.mean()) - colour) <= 1
    aside = [json.loads(line) for line in (tmp_path / "d" / "set_aside.jsonl").read_text().splitlines()]
    assert any(line["scene"] == "mixed" and "mixed.jpg: no such photo" in line["reason"] for line in aside)


def test_photos_from_the_cue_dataset_of_the_job(job, tmp_path):
    packed = tmp_path / "cues"
    names = [name for name in NAMES if name not in ("unreadable", "invalid")]
    scenes = [load(NAMES.index(name)) for name in names]
    plan = cue_dataset.Plan(len(scenes), {"test": 1})
    cue_dataset.write(packed, plan, lambda span: (scenes[i] for i in span), photo=lambda scene: jpeg(len(scene)))
    take = training_set.photos_from(packed)
    outcome = open_fits(job).outcome("trio")
    index = names.index("trio")
    assert take(replace(outcome, index=index)) == jpeg(3)
    with pytest.raises(SceneError, match="scene trio: not at its place 0; is it the input of the job"):
        take(replace(outcome, index=0))
    bare = tmp_path / "bare"
    cue_dataset.write(bare, plan, lambda span: (scenes[i] for i in span))
    with pytest.raises(SceneError, match="scene trio: packed without its photo"):
        training_set.photos_from(bare)(replace(outcome, index=index))


@pytest.mark.parametrize("path", ["../secret.jpg", "/secret.jpg", "photos/../../secret.jpg"])
def test_photos_outside_the_folder_are_not_read(tmp_path, path):
    photo(1).save(tmp_path / "secret.jpg")
    (tmp_path / "in" / "photos").mkdir(parents=True)
    take = training_set.photos_from(tmp_path / "in")
    with pytest.raises(SceneError, match=r"secret\.jpg: no such photo"):
        take(Outcome(make_fit(image_path=path)))
    with pytest.raises(SceneError, match="scene photo: the fit names no photo"):
        take(Outcome(make_fit(image_path="")))


def test_a_missing_folder_of_photos_is_one_clear_message(job, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder of photos, or a cue dataset"):
        export_fits(str(job), str(tmp_path / "d"), "tfds", images=str(tmp_path / "lost"))


def test_a_torn_shard_of_the_job_stops_the_export(job, tmp_path):
    broken = tmp_path / "job"
    shutil.copytree(job, broken)
    (shard,) = (broken / "units").glob("00001-*")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FitFileError, match="does not have the checksum"):
        export_fits(str(broken), str(tmp_path / "d"), "tfds", scenes_per_shard=2)
    assert not (tmp_path / "d" / "dataset_info.json").exists()
