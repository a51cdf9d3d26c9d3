"""COCO JSON with parameters: the layout rules that pycocotools relies on, and read again by our own COCO reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_cases import FITTED, make_job
from fitted_people import make_fit

from annyfit_jax.exports import coco_export, exported_people
from annyfit_jax.exports.export_fits import export_fits
from annyfit_jax.inputs import open_input
from annyfit_jax.jobs.fit_source import open_fits
from annyfit_jax.people.scene import COCO17
from annyfit_jax.records import fit_files


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    return make_job(tmp_path_factory.mktemp("job") / "out")


@pytest.fixture(scope="module")
def file(job, tmp_path_factory) -> Path:
    (path,), _ = export_fits(str(job), str(tmp_path_factory.mktemp("coco") / "fits.json"), "coco")
    return path


@pytest.fixture(scope="module")
def content(file) -> dict:
    return json.loads(file.read_text())


def test_layout_rules(content):
    """What pycocotools indexes: lists, unique ids that refer to each other, boxes as x, y, width, height, 51 numbers."""
    images, annotations = content["images"], content["annotations"]
    assert [image["id"] for image in images] == list(range(1, len(images) + 1))
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
    (category,) = content["categories"]
    assert (category["id"], category["name"], category["keypoints"]) == (1, "person", list(COCO17))
    assert {joint for pair in category["skeleton"] for joint in pair} == set(range(1, 18))
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    for annotation in annotations:
        assert annotation["category_id"] == 1 and annotation["iscrowd"] == 0
        assert annotation["image_id"] in sizes
        assert len(annotation["keypoints"]) == 51
        flags = annotation["keypoints"][2::3]
        assert set(flags) <= {0, 2} and flags.count(2) == annotation["num_keypoints"] == 16
        x, y, width, height = annotation["bbox"]
        assert width > 0 and height > 0 and annotation["area"] == pytest.approx(width * height, abs=1e-2)
        seen = np.array(annotation["keypoints"]).reshape(17, 3)
        seen = seen[seen[:, 2] > 0]
        np.testing.assert_allclose(seen[:, :2].min(0), (x, y), atol=1e-3)
        np.testing.assert_allclose(seen[:, :2].max(0), (x + width, y + height), atol=2e-3)


def test_the_fitted_people_and_no_others(content):
    names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    assert list(names.values()) == list(FITTED)
    found = [names[annotation["image_id"]] for annotation in content["annotations"]]
    assert {name: found.count(name) for name in found} == FITTED
    assert [a["person_id"] for a in content["annotations"] if names[a["image_id"]] == "mixed"] == ["1-0", "1-2"]


def test_parameters_are_those_of_the_fit(content, job):
    source = open_fits(job)
    annotation = content["annotations"][-1]
    fit = source.load("trio")
    for name in ("root_rotvec", "transl", "pose", "shape", "height_m", "depth_m", "reprojection_px"):
        np.testing.assert_allclose(annotation["anny"][name], getattr(fit, name)[2], atol=5.1e-7, err_msg=name)
    np.testing.assert_allclose(annotation["anny"]["keypoints_3d"], fit.fitted_keypoints_3d[2], atol=5.1e-7)
    confidences = np.where(exported_people.seen(fit)[2], fit.keypoints_2d[2, :, 2], 0)
    np.testing.assert_allclose(annotation["keypoint_confidences"], confidences, atol=5.1e-7)
    assert annotation["age"] == 0.66 and "gender" not in annotation
    assert content["info"]["anny"]["bone_labels"] == fit.bone_labels.tolist()
    assert content["info"]["anny"]["phenotype_labels"][:2] == ["gender", "age"]


def test_our_own_reader_takes_it_as_an_input(file, job):
    source = open_input(str(file))
    assert source.names == tuple(FITTED)
    for scene in source:
        fit = open_fits(job).load(scene.name)
        rows = np.flatnonzero(fit.ok)
        assert scene.image_size == tuple(fit.image_size) and len(scene) == len(rows)
        np.testing.assert_allclose(scene.intrinsics, fit.K, atol=1e-6)
        seen = exported_people.seen(fit)[rows]
        np.testing.assert_array_equal(scene.keypoints[..., 2] > 0, seen)
        np.testing.assert_allclose(scene.keypoints[seen][:, :2], fit.keypoints_2d[rows][seen][:, :2], atol=5.1e-4)
        assert scene.boxes is not None
        np.testing.assert_allclose(scene.boxes, exported_people.boxes(fit)[rows], atol=2e-3)
        np.testing.assert_allclose(scene.age, 0.66)
        assert (scene.gender == -1).all()


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("photos/set/a.jpg", "photos", "set/a.jpg"),
        ("photos/set/a.jpg", None, "a.jpg"),
        ("elsewhere/a.jpg", "photos", "a.jpg"),
        ("", "photos", "photo"),
    ],
)
def test_photos_are_named_relative_to_their_folder(path, root, name):
    assert coco_export.photo_name(make_fit(image_path=path), root) == name


def test_a_folder_gets_a_file_of_the_usual_name(job, tmp_path):
    assert export_fits(str(job), str(tmp_path), "coco", ["pair"])[0] == [tmp_path / "annotations.json"]
    content = json.loads((tmp_path / "annotations.json").read_text())
    assert (len(content["images"]), len(content["annotations"])) == (1, 2)


def test_nobody_fitted_is_valid_json_too(tmp_path):
    assert coco_export.write_coco([], tmp_path / "a.json") == (0, 0)
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["images"], content["annotations"], len(content["categories"])) == ([], [], 1)


def test_an_unseen_person_and_an_unknown_number_are_plain_json(tmp_path):
    fit = make_fit(keypoints_2d=np.zeros((3, 17, 3), np.float32), reprojection_px=np.full(3, np.nan, np.float32))
    coco_export.write_coco([fit], tmp_path / "a.json")

    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    first = content["annotations"][0]
    assert first["num_keypoints"] == 0 and first["keypoints"] == [0] * 51 and first["anny"]["reprojection_px"] is None


def test_a_failure_in_the_middle_leaves_no_file(job, tmp_path):
    def broken():
        yield from open_fits(job)
        raise fit_files.FitFileError("torn")

    with pytest.raises(fit_files.FitFileError):
        coco_export.write_coco(broken(), tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
