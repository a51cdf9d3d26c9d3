"""The cue dataset: records hold everything of a scene, shards survive interruptions, broken rows stay alone."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from helpers import HANG_S, REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annyfit_jax.inputs import cue_dataset, cue_schema, cue_source, open_input
from annyfit_jax.inputs.scene_source import InputOptions
from annyfit_jax.people.scene import COCO17, BodyParameters, Scene, SceneError
from annyfit_jax.records import codecs, wire
from annyfit_jax.records.files import temporary_name

SIZE = (31, 22)
RECORD_FILES = "cues-train.array_record-*"


def make_scene(n: int, seed: int = 0, name: str = "scene", **changes) -> Scene:
    """A scene of n people with every cue there is; `changes` are fields of `Scene`."""
    rng = np.random.default_rng([seed, n])
    width, height = SIZE

    def bodies() -> BodyParameters:
        return BodyParameters(*(rng.normal(size=(n, *shape)) for shape in ((3,), (3,), (162, 3), (6,))))

    depth = rng.uniform(1, 9, n)
    depth[::3] = np.nan
    masks = rng.random((n, height, width)) < 0.3
    masks[::4] = True
    fields: dict[str, Any] = {
        "image_size": SIZE,
        "intrinsics": np.array([[30.1, 0, 15.5], [0, 30.2, 11.0], [0, 0, 1]]),
        "keypoints": rng.uniform(0, 30, (n, 17, 3)),
        "dense_keypoints": rng.uniform(0, 30, (n, 138, 3)),
        "median_depth": depth,
        "depth_layer": rng.integers(-1, 4, n),
        "age": rng.choice([-1, 0.1, 0.33, 0.4], n),
        "gender": rng.choice([-1, 0.0, 1.0], n),
        "start": bodies(),
        "truth": bodies(),
        "person_ids": [f"pé{i}" for i in range(n)],
        "boxes": rng.uniform(0, 20, (n, 4)),
        "masks": masks,
        "depth_map": np.where(rng.random((height, width)) < 0.2, np.nan, rng.uniform(0.5, 9, (height, width))),
        "image_path": "photos/a.jpg",
        "skipped": [("7", "crowd"), ("8", "no keypoints")],
        "notes": ["intrinsics: 60 degree field of view"],
        "extra": {
            "gt_visible": rng.random((n, 17)) < 0.5,
            "gt_coco3d": rng.normal(size=(n, 17, 3)).astype(np.float32),
            "hand_age": rng.integers(-1, 4, n),
            "keypoints_133": rng.normal(size=(n, 133, 3)),
            "camera_pose": rng.normal(size=(4, 4)),
            "camera_name": np.array("left"),
            "provenance": {"cues": {"keypoints": {"expert": "e", "version": "1", "licence": "Apache-2.0"}}},
        },
    }
    return Scene(name=name, **{**fields, **changes})


def bare_scene(n: int, name: str = "bare") -> Scene:
    """A scene of n people with keypoints only."""
    absent: dict[str, Any] = {
        "start": None,
        "truth": None,
        "boxes": None,
        "masks": None,
        "depth_map": None,
        "image_path": None,
    }
    return make_scene(
        n, name=name, **absent, skipped=[], notes=[], extra={}, dense_keypoints=np.zeros((n, 138, 3)),
        median_depth=np.full(n, np.nan), depth_layer=np.full(n, -1), age=np.full(n, -1.0), gender=np.full(n, -1.0),
    )  # fmt: skip


def assert_same(actual: Scene, expected: Scene, *, depth: bool = True) -> None:
    """Equal in every field; the depth map to what half resolution and float16 keep."""
    for field in dataclasses.fields(Scene):
        a: Any = getattr(actual, field.name)
        e: Any = getattr(expected, field.name)
        if field.name in ("start", "truth") and e is not None:
            for part in dataclasses.fields(BodyParameters):
                np.testing.assert_array_equal(getattr(a, part.name), getattr(e, part.name), err_msg=part.name)
        elif field.name == "extra":
            assert set(a) == set(expected.extra)
            for key, value in expected.extra.items():
                assert a[key] == value if isinstance(value, dict) else np.array_equal(a[key], value), key
        elif field.name == "depth_map":
            if depth and e is not None:
                half = e[::2, ::2]
                np.testing.assert_array_equal(a[::2, ::2], half.astype(np.float16))
                np.testing.assert_allclose(a[::2, ::2], half, rtol=2**-11)
                np.testing.assert_array_equal(a[1::2, 1::2], a[: e.shape[0] - 1 : 2, : e.shape[1] - 1 : 2])
            elif e is None:
                assert a is None
        elif isinstance(e, np.ndarray):
            assert a.shape == e.shape
            np.testing.assert_array_equal(a, e, err_msg=field.name)
        else:
            assert a == e, field.name


def write(folder: Path, scenes: list[Scene], per_shard: int = 3, **options) -> cue_dataset.Progress:
    plan = cue_dataset.Plan(len(scenes), {"test": 1}, per_shard)
    return cue_dataset.write(folder, plan, lambda indices: (scenes[i] for i in indices), **options)


def write_records(folder: Path, records: list[bytes], version: int = cue_schema.SCHEMA_VERSION) -> Path:
    """A dataset as another TFDS program would write it: one shard, no `shards/` folder."""
    folder.mkdir()
    path = folder / "cues-train.array_record-00000-of-00001"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=cue_schema.features(version), check_data=False,
        split_infos=[tfds.core.SplitInfo(name="train", shard_lengths=[len(records)], num_bytes=1)],
        filename_template=cue_dataset.TEMPLATE,
    )  # fmt: skip
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything but the commit records and lines of progress, which say when and where a shard was written."""
    files = (
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.parent.name != "done" and not p.name.startswith("progress-")
    )
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


# ------------------------------------------------------------------------------------------------ records


@settings(max_examples=25, deadline=None)
@given(
    n=st.sampled_from([0, 1, 2, 5, 40]),
    seed=st.integers(0, 2**31),
    absent=st.sets(st.sampled_from(["start", "truth", "boxes", "masks", "depth_map", "image_path", "dense", "extra"])),
)
def test_round_trip(n, seed, absent):
    changes: dict[str, Any] = dict.fromkeys(absent - {"dense", "extra"})
    if "dense" in absent:
        changes["dense_keypoints"] = np.zeros((n, 138, 3))
    if "extra" in absent:
        changes["extra"] = {}
    scene = make_scene(n, seed, **changes)
    decoded = cue_schema.decode(cue_schema.serialize(cue_schema.encode(scene)))
    if n == 0:  # no rows cannot be told from no cue
        for part in (scene, decoded):
            part.start = part.truth = part.boxes = part.masks = None
            part.extra = {}
    assert_same(decoded, scene)
    assert cue_schema.content_hash(decoded) == cue_schema.content_hash(scene)


def test_tfds_reads_and_writes_the_same_records():
    example = cue_schema.encode(make_scene(3), image_jpeg=b"\xff\xd8x")
    features, record = cue_schema.features(), cue_schema.serialize(example)
    by_tfds: Any = features.deserialize_example_np(record)
    own = wire.Record(record, "record")
    assert set(by_tfds) == set(cue_schema.FIELDS)
    for name, field in cue_schema.FIELDS.items():
        value: Any = by_tfds[name]
        expected = own.read(name, field)
        if field.kind in ("text", "texts"):
            value = value.decode() if field.kind == "text" else [text.decode() for text in value]
        if isinstance(expected, np.ndarray):
            assert value.dtype == expected.dtype, name
        np.testing.assert_array_equal(value, expected, err_msg=name)
    assert_same(cue_schema.decode(features.serialize_example(example)), cue_schema.decode(record))


def test_scenes_without_people_or_cues_keep_their_shapes_in_tfds():
    decoded: Any = cue_schema.features().deserialize_example_np(cue_schema.serialize(cue_schema.encode(bare_scene(0))))
    assert decoded["keypoints"].shape == (0, 17, 3)
    assert decoded["start_pose"].shape == (0, 162, 3)
    assert decoded["keypoints_133"].shape == (0, 133, 3)
    assert decoded["depth"].shape == (0, 0)


def test_words_are_stored_beside_the_anchors():
    scene = make_scene(3, age=np.array([0.33, -1, 0.4]), gender=np.array([1.0, 0.5, -1]))
    example = cue_schema.encode(scene)
    assert example["age_words"] == ["child", "", ""]
    assert example["gender_words"] == ["female", "neutral", ""]
    scene.extra["age_words"] = ["kid", "", "teen-ish"]
    assert cue_schema.decode(cue_schema.serialize(cue_schema.encode(scene))).extra["age_words"] == [
        "kid",
        "",
        "teen-ish",
    ]


def test_run_lengths_are_those_of_coco():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert codecs.run_lengths(mask).tolist() == [2, 3, 1]  # columns, left to right, background first
    assert codecs.run_lengths(~mask).tolist() == [0, 2, 3, 1]


def test_content_hash_says_what_a_fit_reads():
    scene = make_scene(4)
    reference = cue_schema.content_hash(scene)
    read = {
        name: scene.extra[name]
        for name in ("keypoints_133", "other_points", "other_point_names")
        if name in scene.extra
    }
    same = dataclasses.replace(
        scene, name="other", notes=[], image_path=None, masks=None, truth=None, boxes=None, extra=read
    )
    assert cue_schema.content_hash(same) == reference
    rounded = scene.keypoints.astype(np.float32)
    assert cue_schema.content_hash(dataclasses.replace(scene, keypoints=rounded)) == cue_schema.content_hash(
        dataclasses.replace(scene, keypoints=rounded.astype(np.float64))
    )
    for name in ("keypoints", "dense_keypoints", "median_depth", "depth_layer", "age", "gender", "intrinsics"):
        changed = np.array(getattr(scene, name))
        changed[1] = changed[1] + 1
        assert cue_schema.content_hash(dataclasses.replace(scene, **{name: changed})) != reference, name
    assert cue_schema.content_hash(dataclasses.replace(scene, start=None)) != reference
    hands = read | {"keypoints_133": read["keypoints_133"] + 1.0}
    assert cue_schema.content_hash(dataclasses.replace(scene, extra=hands)) != reference
    unseen = np.pad(scene.keypoints, [(0, 0), (0, 116), (0, 0)])
    bare = cue_schema.content_hash(dataclasses.replace(scene, extra={}))
    assert cue_schema.content_hash(dataclasses.replace(scene, extra={"keypoints_133": unseen})) == bare


def test_a_newer_version_is_refused():
    newer = cue_schema.SCHEMA_VERSION + 1
    example = {**cue_schema.encode(make_scene(1)), "schema_version": newer}
    with pytest.raises(SceneError, match=f"schema_version: expected 1 to {newer - 1}, got {newer}"):
        cue_schema.decode(cue_schema.serialize(example))


def test_version_1_is_read(tmp_path):
    scenes = [make_scene(2, name="a"), bare_scene(1, name="b")]
    examples = [{**cue_schema.encode(scene), "schema_version": 1} for scene in scenes]
    features = cue_schema.features(1)
    assert set(cue_schema.FIELDS) - set(cue_schema.features(2)) >= {"heights", "camera"}
    assert set(cue_schema.features(2)) - set(features) == {"depth_layer", "provenance"}
    write_records(tmp_path / "v1", [
        features.serialize_example({name: example[name] for name in features}) for example in examples
    ], version=1)  # fmt: skip
    cues = cue_source.open_cues(str(tmp_path / "v1"), InputOptions(with_masks=True, with_depth_map=True))
    assert cues.names == ("a", "b")
    for loaded, scene in zip(cues, scenes, strict=True):
        extra = {name: value for name, value in scene.extra.items() if name != "provenance"}
        assert_same(loaded, dataclasses.replace(scene, depth_layer=np.full(len(scene), -1), extra=extra))


# ------------------------------------------------------------------------------------------------ datasets


def test_written_scenes_come_back_through_open_input(tmp_path):
    scenes = [make_scene(n, seed=n, name=f"s{n}") for n in (1, 2, 3, 7)]
    state = write(tmp_path / "d", scenes)
    assert state == cue_dataset.Progress(2, 2, 4, 13, 0, True)
    cues = open_input(str(tmp_path / "d"), with_masks=True, with_depth_map=True)
    assert isinstance(cues, cue_source.CueSource)
    assert (cues.kind, cues.names) == ("cues", ("s1", "s2", "s3", "s7"))
    assert cues.people == (1, 2, 3, 7)
    assert cues.has_start == (True,) * 4
    for i in (3, 0, 2, 1):
        assert_same(cues.load(i), scenes[i])
    lean = open_input(str(tmp_path / "d")).load(2)
    assert lean.masks is None
    assert lean.depth_map is None
    assert_same(pickle.loads(pickle.dumps(cues)).load(1), scenes[1])
    assert cue_dataset.verify(tmp_path / "d") == []


def test_few_shards_are_open_at_a_time(tmp_path, monkeypatch):
    """Read back and forth over more shards than may be open."""
    monkeypatch.setattr(cue_source, "_OPEN_SHARDS", 2)
    scenes = [make_scene(1, seed=k, name=f"s{k}") for k in range(5)]
    write(tmp_path / "cues", scenes, per_shard=1)
    opened = cue_source.open_cues(str(tmp_path / "cues"), InputOptions(with_masks=True, with_depth_map=True))
    for k in (0, 4, 0, 1, 2, 3, 0, 4):
        assert_same(opened.load(k), scenes[k])
        assert opened.records is not None
        assert len(opened.records._readers) <= 2


@pytest.mark.process
def test_tfds_and_grain_read_it_without_tensorflow(tmp_path):
    scenes = [make_scene(n, seed=n, name=f"s{n}") for n in (1, 0, 3, 2)]
    scenes[1] = bare_scene(1, name="s0")
    write(tmp_path / "d", scenes, per_shard=2)
    program = f"""
import sys, grain, numpy as np
from absl import flags
flags.FLAGS.mark_as_parsed()
import tensorflow_datasets as tfds
records = tfds.builder_from_directory({str(tmp_path / "d")!r}).as_data_source("train")
people = [len(records[i]["keypoints"]) for i in range(len(records))]
loaded = grain.MapDataset.source(records).seed(0).shuffle().map(lambda r: (r["name"].decode(), r["keypoints"].sum()))
grains = dict(loaded[i] for i in range(len(loaded)))
from annyfit_jax.inputs import open_input
scenes = {{scene.name: scene.keypoints.sum() for scene in open_input({str(tmp_path / "d")!r})}}
assert grains == scenes, (grains, scenes)
print(people, sorted(grains), "tensorflow" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=HANG_S)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[-1] == "[1, 1, 3, 2] ['s0', 's1', 's2', 's3'] False"


def test_an_interrupted_job_resumes_to_the_same_bytes(tmp_path):
    scenes = [make_scene(1 + i % 3, seed=i, name=f"s{i:02d}") for i in range(11)]
    write(tmp_path / "whole", scenes)
    folder, plan = tmp_path / "d", cue_dataset.Plan(11, {"test": 1}, 3)

    def dies_at(limit: int) -> Callable[[Sequence[int]], Iterator[Scene]]:
        def generate(indices: Sequence[int]) -> Iterator[Scene]:
            for i in indices:
                if i == limit:
                    raise KeyboardInterrupt
                yield scenes[i]

        return generate

    for limit in (0, 2, 3, 7, 10):
        with pytest.raises(KeyboardInterrupt):
            cue_dataset.write(folder, plan, dies_at(limit))
        assert len(list(folder.glob("done/*.json"))) == limit // 3
        assert not list(folder.rglob(".*.tmp"))
        with pytest.raises(SceneError, match=f"not finished, {limit // 3} of 4 shards"):
            open_input(str(folder))
    redone: list[int] = []
    assert write(folder, scenes, on_shard=redone.append).finished
    assert redone == [3]
    assert files_of(folder) == files_of(tmp_path / "whole")


def test_what_a_kill_leaves_behind_is_repaired(tmp_path):
    scenes = [make_scene(2, seed=i, name=f"s{i}") for i in range(9)]
    folder = tmp_path / "d"
    write(folder, scenes)
    whole = files_of(folder)
    shards = sorted(folder.glob("units/*"))
    (folder / "done" / "00000.json").unlink()  # killed between the shard and its seal
    shards[1].write_bytes(shards[1].read_bytes()[: shards[1].stat().st_size // 2])  # torn
    dead = temporary_name(shards[2]).name.replace(f"-{os.getpid()}-", "-99999999-")  # no kernel counts that far
    (folder / dead).write_bytes(b"half")  # killed while writing
    (folder / "done" / "00002.json").write_text("{")
    redone: list[int] = []
    write(folder, scenes, on_shard=redone.append)
    assert redone == [0, 1, 2]
    assert files_of(folder) == whole


def test_more_scenes_become_more_shards(tmp_path):
    scenes = [make_scene(1, seed=i, name=f"s{i}") for i in range(7)]
    write(tmp_path / "one", scenes, per_shard=2)
    assert write(tmp_path / "two", scenes[:4], per_shard=2).finished
    redone: list[int] = []
    assert write(tmp_path / "two", scenes, per_shard=2, on_shard=redone.append).finished
    assert redone == [2, 3]
    one, two = (files_of(tmp_path / name) for name in ("one", "two"))
    assert json.loads(two.pop("plan.json"))["parts"] == [4, 3] and json.loads(one.pop("plan.json"))["parts"] == [7]
    assert two == one
    with pytest.raises(cue_dataset.StoreError, match="1 scenes of the job are not in the input any more"):
        write(tmp_path / "two", scenes[:6], per_shard=2)


def test_a_dataset_of_version_01_is_read(tmp_path):
    """Shards under the names of TFDS alone, and what was noted about each in `shards/`."""
    scenes = [make_scene(1 + i % 2, seed=i, name=f"s{i}") for i in range(5)]
    folder = tmp_path / "d"
    write(folder, scenes, per_shard=2)
    new = open_input(str(folder))
    (folder / "shards").mkdir()
    for unit in range(3):
        entry = json.loads((folder / "done" / f"{unit:05d}.json").read_text())
        file = f"cues-train.array_record-{unit:05d}-of-00003"
        seal = {
            key: entry[key] for key in ("scenes", "names", "people", "has_start", "set_aside", "num_records", "sha256")
        }
        (folder / "shards" / f"{unit:05d}-of-00003.json").write_text(json.dumps({**seal, "file": file}))
    for part in ("done", "units"):
        shutil.rmtree(folder / part)
    (folder / "finished.json").unlink()
    (folder / "plan.json").write_text(
        json.dumps({"schema_version": 1, "total": 5, "scenes_per_shard": 2, "source": {}})
    )
    old: Any = open_input(str(folder))
    assert (old.names, old.people) == (new.names, new.people)  # pyright: ignore[reportAttributeAccessIssue]
    assert cue_dataset.verify(folder) == []
    assert len({old.stamp(i) for i in range(5)}) == 3 and all(old.stamp(i) for i in range(5))
    with pytest.raises(cue_dataset.StoreError, match=r"begun by version 0\.1"):
        write(folder, scenes, per_shard=2)


def test_another_job_in_the_same_folder_is_refused(tmp_path):
    scenes = [make_scene(1, name="a"), make_scene(1, name="b")]
    write(tmp_path / "d", scenes)
    with pytest.raises(cue_dataset.StoreError, match="scenes_per_shard"):
        write(tmp_path / "d", scenes, per_shard=1)
    with pytest.raises(cue_dataset.StoreError, match="source"):
        cue_dataset.write(tmp_path / "d", cue_dataset.Plan(2, {"test": 2}, 3), lambda r: scenes)


def test_broken_scenes_are_set_aside_while_packing(tmp_path):
    crowd = make_scene(300, name="crowd", masks=None, depth_map=None)
    nan = make_scene(2, name="nan")
    nan.keypoints[1, 3, 0] = np.nan
    small = make_scene(2, name="small", masks=np.zeros((2, 5, 5), bool))
    scenes = [make_scene(1, name="first"), crowd, nan, bare_scene(0, name="empty"), small, make_scene(1, name="last")]
    items: list = [*scenes, cue_dataset.SetAside("unreadable", "x.npz: not a readable .npz file")]
    plan = cue_dataset.Plan(len(items), {"test": 1}, 2)
    state = cue_dataset.write(tmp_path / "d", plan, lambda indices: (items[i] for i in indices))
    assert (state.scenes, state.set_aside, state.finished) == (2, 5, True)
    rows = [json.loads(line) for line in (tmp_path / "d" / "set_aside.jsonl").read_text().splitlines()]
    reasons = {row["scene"]: row["reason"] for row in rows}
    assert list(reasons) == ["crowd", "nan", "empty", "small", "unreadable"]
    for name, text in (
        ("crowd", "too_many_people: 300"), ("nan", "keypoints: expected finite"), ("empty", "no people"),
        ("small", "masks: expected shape (2, 22, 31)"), ("unreadable", "not a readable"),
    ):  # fmt: skip
        assert text in reasons[name]
    assert open_input(str(tmp_path / "d")).names == ("first", "last")  # one shard has no record at all


def _corrupt(example: dict, name: str, value: object) -> bytes:
    """A record whose field holds something else than its table says."""
    fields = dict(cue_schema.FIELDS)
    if isinstance(value, np.ndarray) and fields[name].kind == "array":
        fields[name] = dataclasses.replace(fields[name], dtype=str(value.dtype))
    return wire.serialize({**example, name: value}, fields)


BROKEN = {
    "nan": ("keypoints", np.full((2, 17, 3), np.nan), "finite confidences"),
    "wrong shape": ("keypoints", np.zeros((2, 16, 3)), "keypoints: expected float64 of shape (n, 17, 3)"),
    "rows differ": ("dense_keypoints", np.ones((3, 138, 3)), "dense_keypoints: expected shape (2, 138, 3)"),
    "mask size": ("mask_size", np.array([5, 5]), "mask_size: expected (22, 31)"),
    "mask runs": ("mask_counts", np.full(2, 341, np.int32), "mask_runs: expected 2 numbers"),
    "no people": ("keypoints", np.zeros((0, 17, 3)), "expected shape (0,"),
    "300 people": ("keypoints", np.ones((300, 17, 3)), "too_many_people: 300 people"),
    "infinite depth": ("median_depth", np.full(2, np.inf), "median_depth: expected positive metres"),
    "half a start": ("start_pose", np.zeros((0, 162, 3)), "start_*: expected all of"),
    "depth size": ("depth", np.zeros((3, 3), np.float16), "depth: expected shape (11, 16)"),
    "huge depth": ("depth", np.zeros((900, 900), np.float16), "depth: expected at most 176 values"),
    "provenance": ("provenance", "[1]", "provenance: expected a JSON object"),
    "pickle": ("extra_arrays", [pickle.dumps(1), b"\x93NUMPY"], "cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_record_stays_alone(tmp_path, case):
    name, value, message = BROKEN[case]
    good = [make_scene(2, seed=i, name=f"s{i}") for i in range(2)]
    records = [cue_schema.serialize(cue_schema.encode(scene)) for scene in good]
    example = cue_schema.encode(make_scene(2, name="broken"))
    if name == "mask_counts":
        example["mask_runs"] = np.array([1, 2], np.int32)
    folder = write_records(tmp_path / "d", [records[0], _corrupt(example, name, value), records[1]])
    cues = open_input(str(folder), with_masks=True, with_depth_map=True)
    assert cues.names == ("s0", "broken", "s1")
    with pytest.raises(SceneError) as error:
        cues.load(1)
    assert message in str(error.value)
    assert "record 1" in str(error.value) or "scene broken" in str(error.value)
    assert_same(cues.load(2), good[1])
    assert_same(cues.load(0), good[0])


def test_records_of_random_bytes_raise_only_scene_errors(tmp_path):
    rng = np.random.default_rng(0)
    record = cue_schema.serialize(cue_schema.encode(make_scene(2)))
    mutants = [b"", rng.bytes(200), record[:1000], record[:-3]]
    for _ in range(150):
        mutant = bytearray(record)
        for position in rng.integers(0, len(record), 3):
            mutant[position] = rng.integers(256)
        mutants.append(bytes(mutant))
    cues = cue_source.open_cues(
        str(write_records(tmp_path / "d", mutants)), InputOptions(with_masks=True, with_depth_map=True)
    )
    failed = 0
    for index in range(len(cues)):
        try:
            cues.load(index)
        except SceneError:
            failed += 1
    assert failed >= 4


def test_damage_on_disk_costs_one_record(tmp_path):
    scenes = [make_scene(2, seed=i, name=f"s{i}") for i in range(4)]
    write(tmp_path / "d", scenes, per_shard=4)
    path = next((tmp_path / "d").glob(RECORD_FILES))
    content = bytearray(path.read_bytes())
    size = len(cue_schema.serialize(cue_schema.encode(scenes[0])))
    for position in range(size, len(content), 997):
        if content[position : position + 40].strip(b"\0"):
            content[position] ^= 0xFF
            break
    path.write_bytes(bytes(content))
    cues = open_input(str(tmp_path / "d"))
    outcomes = []
    for index in range(4):
        try:
            outcomes.append(cues.load(index).name == f"s{index}")
        except SceneError as error:
            assert "cannot be read" in str(error)  # noqa: PT017
            outcomes.append(False)
    assert outcomes.count(False) == 1
    (unit,) = (tmp_path / "d" / "units").iterdir()
    assert cue_dataset.verify(tmp_path / "d") == [f"units/{unit.name}: the checksum differs from 00000.json"]


def test_a_torn_or_missing_shard_costs_its_scenes(tmp_path):
    scenes = [make_scene(1, seed=i, name=f"s{i}") for i in range(6)]
    write(tmp_path / "d", scenes, per_shard=2)
    first, second, _ = sorted((tmp_path / "d").glob(RECORD_FILES))
    first.unlink()
    second.write_bytes(second.read_bytes()[:70000])
    cues = open_input(str(tmp_path / "d"))
    for index, message in ((0, "no such file"), (1, "no such file"), (2, "torn"), (3, "torn")):
        with pytest.raises(SceneError, match=message):
            cues.load(index)
    assert [cues.load(i).name for i in (4, 5)] == ["s4", "s5"]


def test_other_folders_are_told_apart(tmp_path):
    write(tmp_path / "d", [make_scene(1)])
    features = json.loads((tmp_path / "d" / "features.json").read_text())
    del features["featuresDict"]["features"]["keypoints"]
    (tmp_path / "d" / "features.json").write_text(json.dumps(features))
    with pytest.raises(SceneError, match="not a cue dataset: there is no feature keypoints"):
        open_input(str(tmp_path / "d"))
    (tmp_path / "d" / "dataset_info.json").write_text("{}")
    with pytest.raises(SceneError, match="fileFormat"):
        open_input(str(tmp_path / "d"))
    (tmp_path / "other").mkdir()
    with pytest.raises(SceneError, match="cue dataset"):
        open_input(str(tmp_path / "other"))


# ------------------------------------------------------------------------------------------------ the program


@pytest.mark.process
def test_pack_program(tmp_path):
    """COCO with a photo, a broken image entry and --with_images; then the dataset packed again."""
    stream = io.BytesIO()
    Image.new("RGB", SIZE, (200, 10, 10)).save(stream, "JPEG")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    keypoints = np.c_[np.random.default_rng(0).uniform(1, 20, (17, 2)), np.full(17, 2)].ravel().tolist()
    content = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": SIZE[0], "height": SIZE[1]},
            {"id": 2, "file_name": "b.jpg", "width": SIZE[0], "height": SIZE[1]},
            {"id": 3, "file_name": "c.jpg"},
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "keypoints": keypoints, "age": "toddler"} for i in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17)}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (tmp_path / "from.json").write_text(
        json.dumps({"keypoints": {"expert": "by hand", "version": "1", "licence": "CC0"}})
    )
    script = (
        "import sys; from absl import flags; from experiments import pack; pack.define_flags()\n"
        f"flags.FLAGS(['pack', '--input={tmp_path}/coco.json', '--output={tmp_path}/d', '--with_images', "
        f"'--provenance={tmp_path}/from.json']); pack.main()\n"
        "for flag, value in (('input', 'd'), ('output', 'again'), ('provenance', None)):\n"
        f"    flags.FLAGS[flag].value = value and f'{tmp_path}/{{value}}'\n"
        "pack.main(); pack.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=HANG_S)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.splitlines()[0].startswith("1 of 1 shard, 2 scenes, 2 people, 1 scene set aside")
    assert "c.jpg" in (tmp_path / "d" / "set_aside.jsonl").read_text()
    direct = open_input(str(tmp_path / "coco.json"))
    for folder in ("d", "again"):
        cues = open_input(str(tmp_path / folder))
        assert isinstance(cues, cue_source.CueSource)
        assert cues.names == ("a", "b")
        assert cues.photo(0) == stream.getvalue()
        assert cues.photo(1) == b""
        scene = cues.load(0)
        assert scene.extra.pop("provenance") == {
            "reader": "coco", "input": "coco.json",
            "cues": {"keypoints": {"expert": "by hand", "version": "1", "licence": "CC0"}},
        }  # fmt: skip
        expected = direct.load(0)
        assert_same(scene, expected)
        assert cue_schema.content_hash(scene) == cue_schema.content_hash(expected)
