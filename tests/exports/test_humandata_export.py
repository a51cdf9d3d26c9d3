"""HumanData files: layout and conventions of MMHuman3D and AiOS, SMPL-X by the official rules, a reader that runs nothing."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import smplx_synthetic
from export_cases import make_job
from fitted_people import make_fit, make_smplx_fit
from helpers import max_abs, require_shared
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from annyfit_jax.exports import exported_people, humandata_export
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.exports.humandata_export import COCO_PLACES, read_humandata
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.camera import project
from annyfit_jax.people.scene import COCO17, SceneError
from annyfit_jax.records import fit_files
from body_models import smplx

FIRST = [places[0] for places in COCO_PLACES]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "out")


@pytest.fixture(scope="module")
def file(job, tmp_path_factory) -> Path:
    (path,), _ = export_fits(str(job), str(tmp_path_factory.mktemp("humandata")), "humandata", images="photos")
    assert path.name == "humandata-00000.npz"
    return path


def unpickled(path: Path) -> dict:
    """As MMHuman3D loads a file: pickles allowed, what has no axes taken out."""
    with np.load(path, allow_pickle=True) as archive:
        return {key: archive[key].item() if archive[key].ndim == 0 else archive[key] for key in archive.files}


# ------------------------------------------------------------------------------------------------ layout


def test_the_layout_that_mmhuman3d_and_aios_read(file):
    content = unpickled(file)
    count = len(content["image_path"])
    assert (count, content["__instance_num__"], content["__data_len__"]) == (8, 8, 4)
    assert content["__keypoints_compressed__"] is False and content["__key_strict__"] is False
    assert content["image_path"].tolist() == ["pair.jpg"] * 2 + ["mixed.jpg"] * 2 + ["trio.jpg"] * 3 + ["failed.jpg"]
    assert content["frame_range"].tolist() == [[0, 2], [2, 4], [4, 7], [7, 8]]
    shapes = {
        "bbox_xywh": (8, 5), "keypoints2d": (8, 190, 3), "keypoints2d_original": (8, 190, 3), "keypoints3d": (8, 190, 4),
        "keypoints2d_mask": (190,), "keypoints2d_original_mask": (190,), "keypoints3d_mask": (190,), "annot_valid": (8,),
    }  # fmt: skip
    assert {key: content[key].shape for key in shapes} == shapes
    assert {key: value.shape for key, value in content["anny"].items()} == {
        "root_rotvec": (8, 3), "transl": (8, 3), "pose": (8, 162, 3), "shape": (8, 6), "height_m": (8,),
        "reprojection_px": (8,),
    }  # fmt: skip
    assert all(len(value) == 8 for value in content["meta"].values())
    assert content["meta"]["height"].tolist() == [480] * 8 and content["meta"]["width"].tolist() == [640] * 8
    np.testing.assert_array_equal(content["meta"]["focal_length"], np.full((8, 2), 500.0))
    np.testing.assert_array_equal(content["meta"]["principal_point"], np.tile([320.0, 240.0], (8, 1)))
    assert "smplx" not in content and "smpl" not in content
    for value in (content["keypoints3d"], content["keypoints2d"], content["bbox_xywh"], *content["anny"].values()):
        assert np.isfinite(value).all()  # AiOS drops an image with a NaN


def test_the_joints_stand_where_the_conventions_say():
    maps = json.loads(require_shared("golden/aios/keypoint_maps.json").read_text())
    names = [*maps["smplx_144_names"], "right_hip_extra", "left_hip_extra"]
    for joint, places in zip(COCO17, COCO_PLACES, strict=True):
        assert [names[place] for place in places] == [joint, f"{joint}_extra"][: len(places)]
    table = maps["smplx_137_joint_idx_table"]  # AiOS takes 137 of the joints, and COCO's 17 out of those
    assert [table[index] for index in maps["coco_17_from_137"]] == FIRST


def test_values_are_those_of_the_fits(file, job):
    content = unpickled(file)
    for (start, stop), name in zip(content["frame_range"], ("pair", "mixed", "trio", "failed")):
        fit = open_fits(job).outcome(name).fit
        rows = np.flatnonzero(exported_people.seen(fit).any(1))
        assert content["meta"]["person_id"][start:stop].tolist() == fit.person_ids[rows].tolist()
        np.testing.assert_array_equal(content["annot_valid"][start:stop], fit.ok[rows])
        ok = fit.ok[rows]
        part = {
            key: content[key][start:stop] for key in ("keypoints2d", "keypoints3d", "keypoints2d_original", "bbox_xywh")
        }
        for key, value in content["anny"].items():
            np.testing.assert_array_equal(value[start:stop][ok], getattr(fit, key)[rows][ok], err_msg=key)
            assert not value[start:stop][~ok].any()
        np.testing.assert_array_equal(part["keypoints3d"][ok][:, FIRST, :3], fit.fitted_keypoints_3d[rows][ok])
        np.testing.assert_array_equal(part["keypoints3d"][:, FIRST, 3], np.repeat(ok[:, None], 17, 1))
        pixels = project(fit.fitted_keypoints_3d[rows][ok].astype(np.float64), fit.K.astype(np.float64))
        assert max_abs(part["keypoints2d"][ok][:, FIRST, :2], pixels) < 1e-3 if ok.any() else True
        cue = np.where(exported_people.seen(fit)[rows][..., None], fit.keypoints_2d[rows], 0)
        np.testing.assert_array_equal(part["keypoints2d_original"][:, FIRST], cue)
        box = exported_people.boxes(fit)[rows]
        assert max_abs(part["bbox_xywh"][:, :2] + part["bbox_xywh"][:, 2:4], box[:, 2:]) < 1e-3
        assert (part["bbox_xywh"][:, 4] == 1).all()
    others = np.setdiff1d(np.arange(190), [place for places in COCO_PLACES for place in places])
    assert not content["keypoints2d_mask"][others].any() and content["keypoints2d_mask"].sum() == 19
    assert not content["keypoints3d"][:, others].any()


def test_files_end_between_images(job, tmp_path):
    files, _ = export_fits(str(job), str(tmp_path), "humandata", people_per_file=3)
    assert [file.name for file in files] == [f"humandata-0000{i}.npz" for i in range(3)]
    parts = [read_humandata(file) for file in files]
    assert [part["frame_range"].tolist() for part in parts] == [[[0, 2], [2, 4]], [[0, 3]], [[0, 1]]]
    assert [name for part in parts for name in part["meta"]["scene"]] == read_whole(job, tmp_path)["meta"][
        "scene"
    ].tolist()


def read_whole(job: Path, folder: Path) -> dict:
    return read_humandata(humandata_export.write_humandata(open_fits(job), folder / "whole")[0])


def test_pickles_name_nothing_that_numpy_1_lacks(file):
    """numpy 2 writes `numpy._core`, which numpy before 1.26 does not have; AiOS and MMHuman3D run on such."""
    with zipfile.ZipFile(file) as archive:
        for key in ("anny", "meta", "misc"):
            content = archive.read(f"{key}.npy")
            assert b"numpy.core.multiarray" in content and b"numpy._core" not in content


# ------------------------------------------------------------------------------------------------ SMPL-X


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> smplx.SmplxModel:
    return smplx.load(smplx_synthetic.save(tmp_path_factory.mktemp("smplx")))


def smplx_fit(**changes):
    rng = np.random.default_rng(3)
    arrays = {"pose": rng.normal(0, 0.2, (3, 54, 3)), "shape": rng.normal(size=(3, 10))}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return make_fit(
        **arrays, bone_labels=np.array(smplx.JOINTS[1:]), phenotype_labels=np.array(["beta"] * 10), **changes
    )


def test_smplx_fits_become_official_parameters(model, tmp_path):
    """The body posed from the file by the official rules (transl as an offset, hands about their mean) is the fitted one."""
    face = np.random.default_rng(1).standard_normal((3, 10)).astype(np.float32)
    fit = smplx_fit(expression=face)
    (path,) = humandata_export.write_humandata([fit], tmp_path, smplx_model=model)
    content = read_humandata(path)
    body = content["smplx"]
    np.testing.assert_array_equal(body["expression"], face * np.array([[1.0], [1.0], [0.0]]))
    assert content["annot_valid"].tolist() == content["meta"]["smplx_valid"].tolist() == [True, True, False]
    assert {name: value.shape[1:] for name, value in body.items()} == {
        "global_orient": (3,), "transl": (3,), "betas": (10,), "expression": (10,), "body_pose": (21, 3), "jaw_pose": (3,),
        "leye_pose": (3,), "reye_pose": (3,), "left_hand_pose": (15, 3), "right_hand_pose": (15, 3),
    }  # fmt: skip
    hands = {f"{side}_hand_pose": jnp.asarray(body[f"{side}_hand_pose"].reshape(-1, 45)) for side in ("left", "right")}
    face = {f"{part}_pose": jnp.asarray(body[f"{part}_pose"]) for part in ("jaw", "leye", "reye")}
    pose = smplx.pose_from_official(model, jnp.asarray(body["body_pose"]), **face, **hands)
    assert max_abs(pose[:2], fit.pose[:2]) < 1e-6
    betas = jnp.asarray(body["betas"])
    translation = smplx.translation_from_transl(
        model, betas, jnp.asarray(body["transl"]), jnp.asarray(body["expression"])
    )
    assert max_abs(translation[:2], fit.transl[:2]) < 1e-6
    assert max_abs(body["transl"][:2], fit.transl[:2]) > 1e-2  # the pelvis does not rest at the origin
    np.testing.assert_array_equal(body["global_orient"][:2], fit.root_rotvec[:2])


def test_fits_of_anny_have_smplx_beside_anny_where_they_are_converted(model, tmp_path):
    """What converts is a function of its own; here it makes the same made-up bodies of everybody."""
    drawn = smplx_synthetic.parameters(3)
    values = {
        "root_rotvec": drawn["root_rotvec"], "transl": drawn["translation"], "pose": drawn["pose_rotvec"],
        "shape": drawn["betas"],
    }  # fmt: skip

    def to_smplx(fit):
        return replace(
            fit, **values, bone_labels=np.array(smplx.JOINTS[1:]), conversion_m=np.array([0.002, 0.003, np.nan])
        )

    fit = make_fit()
    (path,) = humandata_export.write_humandata([fit], tmp_path, smplx_model=model, to_smplx=to_smplx)
    content = read_humandata(path)
    np.testing.assert_array_equal(content["anny"]["pose"][:2], fit.pose[:2])
    np.testing.assert_allclose(content["anny"]["smplx_surface_m"], [0.002, 0.003, -1], rtol=1e-6)
    assert content["meta"]["smplx_valid"].tolist() == [1, 1, 0]
    body = content["smplx"]
    np.testing.assert_allclose(body["global_orient"][:2], drawn["root_rotvec"][:2], rtol=1e-6)
    back = smplx.translation_from_transl(model, jnp.asarray(body["betas"]), jnp.asarray(body["transl"]))
    assert max_abs(back[:2], drawn["translation"][:2]) < 1e-5
    assert not body["global_orient"][2].any()


def test_smplx_fits_need_the_model_and_bodies_do_not_mix(model, tmp_path):
    with pytest.raises(ValueError, match="SMPL-X: the model file is needed"):
        humandata_export.write_humandata([smplx_fit()], tmp_path)
    with pytest.raises(ValueError, match=r"photo, \.\.\.: fits of different bodies"):
        humandata_export.write_humandata([smplx_fit(), make_fit("other")], tmp_path, smplx_model=model)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_export_leaves_no_folder(tmp_path):
    (tmp_path / "fits").mkdir()
    for fit in (make_smplx_fit(), make_fit("other")):
        fit_files.save(fit, tmp_path / "fits" / f"{fit.name}.npz")
    with pytest.raises(ValueError, match=r"SMPL-X: the model file is needed|fits of different bodies"):
        export_fits(str(tmp_path / "fits"), tmp_path / "out", "humandata")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ reading


def test_what_is_written_is_read_back(file):
    content, expected = read_humandata(file), unpickled(file)
    assert content["image_path"] == expected["image_path"].tolist()
    for key in ("frame_range", "bbox_xywh", "keypoints2d", "keypoints3d", "keypoints2d_original", "annot_valid"):
        np.testing.assert_array_equal(content[key], expected[key], err_msg=key)
    for key in ("anny", "meta", "misc"):
        assert set(content[key]) == set(expected[key])
        for name, value in expected[key].items():
            np.testing.assert_array_equal(content[key][name], value, err_msg=name)
    assert content["config"] == "annyfit-jax"


def foreign(path: Path, **changes) -> Path:
    """A file as `HumanData.dump` writes it, with compressed keypoints and without frames."""
    mask = np.zeros(190, np.uint8)
    mask[[3, 7]] = 1
    content = {
        "__key_strict__": False, "__temporal_len__": 2, "__keypoints_compressed__": True,
        "image_path": ["a.png", "b.png"], "bbox_xywh": np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
        "keypoints2d": np.arange(12.0).reshape(2, 2, 3), "keypoints2d_mask": mask,
        "smplx": {"betas": np.ones((2, 10)), "body_pose": np.zeros((2, 21, 3))}, "meta": {"gender": ["male", "female"]},
    }  # fmt: skip
    content |= changes
    np.savez_compressed(path, **{key: value for key, value in content.items() if value is not None})
    return path


def test_a_foreign_file_with_compressed_keypoints(tmp_path):
    content = read_humandata(foreign(tmp_path / "a.npz"))
    assert content["image_path"] == ["a.png", "b.png"] and content["meta"] == {"gender": ["male", "female"]}
    np.testing.assert_array_equal(content["bbox_xywh"][:, 4], 1)
    assert content["keypoints2d"].shape == (2, 190, 3)
    np.testing.assert_array_equal(content["keypoints2d"][:, [3, 7]], np.arange(12.0).reshape(2, 2, 3))
    assert not np.delete(content["keypoints2d"], [3, 7], 1).any()
    assert content["frame_range"].tolist() == [[0, 1], [1, 2]]
    assert content["smplx"]["betas"].shape == (2, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_path": None}, "field `image_path`: missing; not a HumanData file"),
        ({"image_path": np.zeros(2)}, "field `image_path`: expected N texts"),
        ({"bbox_xywh": np.zeros((3, 5))}, r"field `bbox_xywh`: expected numbers of shape \(2, 4 or 5\), got \(3, 5\)"),
        ({"keypoints2d": np.zeros((2, 3, 3))}, "field `keypoints2d`: 3 joints are stored, its mask has 2"),
        ({"keypoints2d": np.full((2, 2, 3), np.nan)}, "field `keypoints2d`: expected finite numbers"),
        ({"__keypoints_compressed__": False}, "field `keypoints2d`: expected 190 joints like its mask, got 2"),
        ({"smplx": np.zeros(3)}, "field `smplx`: expected a dictionary of arrays, got ndarray"),
        (
            {"smplx": {"betas": np.zeros((1, 10))}},
            r"field `smplx`: betas: expected numbers of shape \(2, \.\.\.\)|betas",
        ),
        ({"smplx": {"betas": "ones"}}, "field `smplx`: betas: expected numbers of shape .*got str"),
        ({"meta": [1, 2]}, "field `meta`: expected a dictionary"),
        ({"frame_range": np.array([[0, 5]])}, "field `frame_range`: expected first and one past the last of 2 rows"),
        ({"frame_range": np.array([[0.0, 1.0]])}, "field `frame_range`: expected first"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, changes, message):
    path = foreign(tmp_path / "a.npz", **changes)
    with pytest.raises(SceneError, match=rf"a\.npz: {message}"):
        read_humandata(path)


class Hostile:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self):
        return (open, (str(self.flag), "w"))


def test_pickles_are_not_executed(tmp_path):
    flag = tmp_path / "executed"
    member = io.BytesIO()
    npy.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": ()})
    member.write(pickle.dumps({"betas": Hostile(flag)}, 4))
    path = foreign(tmp_path / "a.npz", smplx=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("smplx.npy", member.getvalue())
    with pytest.raises(SceneError, match=r"a\.npz: field `smplx`: refused: .*open"):
        read_humandata(path)
    assert not flag.exists()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_happens_to_the_bytes_it_is_a_file_or_one_error(tmp_path, data):
    whole = tmp_path / "whole.npz"
    if not whole.exists():
        foreign(whole)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    broken = tmp_path / "broken.npz"
    broken.write_bytes(content)
    try:
        read = read_humandata(broken)
    except SceneError:
        return
    assert len(read["image_path"]) == 2
