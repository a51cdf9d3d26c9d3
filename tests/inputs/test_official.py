"""Official preprocessing folders and results: read by label, and never executed."""

import contextlib
import io
import os
import pickle
import shutil
import sys
import types
import zipfile

import numpy as np
import pytest
from helpers import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annyfit_jax.inputs import open_input, read_official_params
from annyfit_jax.inputs.official import PHENOTYPES, bone_order, confidence_from_log_sigma
from annyfit_jax.people.scene import SceneError

REAL = SHARED / "data" / "real"
quick = settings(max_examples=25, deadline=None)


def _survives(load) -> None:
    with contextlib.suppress(SceneError):
        load()


# --- official preprocessing ---


@pytest.fixture
def official(tmp_path):
    """A root as the official preprocessing leaves it, around the photo of the official demo where that is at hand."""
    root = tmp_path / "data"
    for folder in ("images", "preprocessed", "multihmr_m", "vlm_estimate_headcrop", "person_dataset_20_headcrop"):
        (root / folder).mkdir(parents=True)
    photo, size = root / "images" / "36039.jpg", (800, 1200)
    if (REAL / "36039.jpg").exists():
        shutil.copy(REAL / "36039.jpg", photo)
    else:
        Image.new("L", size, 128).save(photo)
    write_official(root, "36039", str_ids=True)
    return root


def truth_of(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "rotvec": rng.normal(size=(2, 163, 3)).astype(np.float32), "shape": rng.random((2, 6)).astype(np.float32),
        "transl": rng.normal(size=(2, 3)).astype(np.float32), "pelvis": rng.normal(size=(2, 3)).astype(np.float32),
        "order": rng.permutation(163), "columns": rng.permutation(11),
    }  # fmt: skip


def write_answers(root, stem, **entries: dict) -> None:
    arrays = {key: np.array(content, object) for key, content in entries.items()}
    np.savez(root / "vlm_estimate_headcrop" / f"{stem}.npz", allow_pickle=True, **arrays)


def write_official(root, stem, *, str_ids, preprocessed=None, vlm=True, swap=False):
    rng, truth = np.random.default_rng(5), truth_of(11)
    boxes = np.array([[100, 200, 300, 800], [400, 300, 700, 500]], np.float32)
    dense = rng.uniform(-0.6, 0.6, (2, 138, 3)).astype(np.float32)
    dense[..., 2] = np.abs(dense[..., :2]).max(-1) < 0.5
    whole = rng.uniform(0, 700, (2, 133, 3)).astype(np.float32)
    arrays = {
        "img_path": f"/somewhere/else/{stem}.jpg", "imgname": f"{stem}.jpg", "img_size": np.array([800, 1200]),
        "bboxes": boxes, "scores": np.ones(2), "masks": np.zeros((2, 1200, 800), bool), "num_people": 2,
        "person_ids": np.arange(2), "valid_indices": np.array([0, 3]), "dense_kps": dense, "all_keypoints": whole,
        "keypoints": whole[:, :17], "cam_int": np.array([[900, 0, 400], [0, 900, 600], [0, 0, 1]], np.float32),
        "median_depth": np.array([2.5, np.nan], np.float32), "depth_map": np.full((1200, 800), 2.5, np.float32),
    }  # fmt: skip
    arrays = {k: v for k, v in (arrays | (preprocessed or {})).items() if v is not None}
    np.savez(root / "preprocessed" / f"{stem}.npz", **arrays)
    keys = np.array([*PHENOTYPES, "cupsize", "firmness", "african", "asian", "caucasian"])[truth["columns"]]
    bones = np.array(bone_order())[truth["order"]]
    people = np.empty(2, object)
    for i in range(2):
        shape = np.concatenate([truth["shape"][i], np.full(5, 0.33)])[truth["columns"]].astype(np.float32)
        people[i] = {
            "rotvec": truth["rotvec"][i][truth["order"]], "shape": shape, "transl": truth["transl"][i],
            "transl_pelvis": truth["pelvis"][i][None], "j2d": np.zeros((163, 2), np.float16), "fov": np.float32(1.0),
            "person_ids": str(i) if str_ids else i, "shape_keys": keys, "bone_labels": bones,
        }  # fmt: skip
    people = people[::-1] if swap else people
    np.savez(root / "multihmr_m" / f"{stem}.npz", multihmr_pred=people, pose=truth["rotvec"])
    if vlm:
        names = ("0", "1") if str_ids else (0, 1)
        text = {names[0]: {"age": "baby", "gender": "unknown"}, names[1]: {"age": "a teen", "gender": "alien"}}
        numbers = {names[0]: {"age": 0.0, "gender": np.float32(0.5)}, names[1]: {"age": 0.5, "gender": -1}}
        write_answers(root, stem, text_attributes=text, shape_attributes=numbers)
    counts = np.array({"n": 2}, object)
    np.savez(root / "person_dataset_20_headcrop" / f"{stem}.npz", preprocessed_path="/gone", attributes=counts)
    return arrays


@pytest.mark.parametrize("str_ids", [True, False])
def test_an_official_folder(official, str_ids):
    arrays = write_official(official, "36039", str_ids=str_ids, swap=True)
    truth = truth_of(11)
    source = open_input(str(official), with_masks=True, with_depth_map=True)
    assert source.kind == "official"
    assert source.names == ("36039",)
    scene = source.load(0)
    assert scene.image_path == str(official / "images" / "36039.jpg")
    assert scene.image_size == (800, 1200)
    np.testing.assert_array_equal(scene.intrinsics, arrays["cam_int"])
    np.testing.assert_array_equal(scene.keypoints, arrays["all_keypoints"][:, :17])
    assert scene.median_depth[0] == 2.5
    assert np.isnan(scene.median_depth[1])
    assert scene.age.tolist() == [0, 0.5]
    assert scene.gender.tolist() == [0.5, -1]
    assert scene.person_ids == ["0", "1"]
    assert scene.start is not None
    np.testing.assert_array_equal(scene.start.root_rotvec, truth["rotvec"][:, 0])
    np.testing.assert_array_equal(scene.start.pose, truth["rotvec"][:, 1:])
    np.testing.assert_array_equal(scene.start.shape, truth["shape"])
    np.testing.assert_array_equal(scene.start.transl, truth["pelvis"])
    # The first box is 200 x 600 around (200, 500), the second 300 x 200 around (550, 400).
    expected = arrays["dense_kps"][..., :2] * [[[600]], [[300]]] + [[[200, 500]], [[550, 400]]]
    np.testing.assert_allclose(scene.dense_keypoints[..., :2], expected, rtol=1e-6)
    np.testing.assert_array_equal(scene.dense_keypoints[..., 2], arrays["dense_kps"][..., 2])
    assert scene.depth_map is not None
    assert scene.masks is not None
    head = open_input(str(official), translation="head").load(0)
    assert head.start is not None
    assert head.depth_map is head.masks is None
    np.testing.assert_array_equal(head.start.transl, truth["transl"])
    np.testing.assert_array_equal(head.start.pose, scene.start.pose)


def test_missing_stages_of_an_official_folder(official):
    absent = ("cam_int", "person_ids", "keypoints", "dense_kps", "median_depth", "masks", "depth_map")
    changes = dict.fromkeys(absent) | {"fov": np.array(np.pi / 2)}
    write_official(official, "bare", str_ids=True, vlm=False, preprocessed=changes)
    (official / "multihmr_m" / "bare.npz").unlink()
    scene = open_input(str(official)).load(1)
    assert scene.name == "bare"
    assert scene.start is None
    assert scene.age.tolist() == scene.gender.tolist() == [-1, -1]
    assert scene.intrinsics[0, 0] == pytest.approx(600)  # 90 degrees over the height of 1200
    assert scene.keypoints[..., 2].any()  # from the whole-body keypoints
    assert not scene.dense_keypoints.any()
    assert np.isnan(scene.median_depth).all()
    assert scene.image_path is None
    assert {"no VLM answers", "no feed-forward start"} <= set(scene.notes)


def test_labels_of_another_rig_are_refused_and_missing_phenotypes_noted(official):
    path = official / "multihmr_m" / "36039.npz"
    people = [{"rotvec": np.zeros((163, 3)), "bone_labels": bone_order(), "shape": np.ones(2), "transl": np.zeros(3),
               "shape_keys": ["height", "age"], "transl_pelvis": np.zeros((1, 3))} for _ in range(2)]  # fmt: skip
    np.savez(path, multihmr_pred=np.array(people, object))
    scene = open_input(str(official)).load(0)
    assert scene.start is not None
    assert scene.start.shape.tolist() == [[0.5, 1, 0.5, 0.5, 1, 0.5]] * 2
    assert "start: gender, muscle, weight, proportions set to 0.5" in scene.notes
    people[1]["bone_labels"] = [f"bone{i}" for i in range(163)]
    np.savez(path, multihmr_pred=np.array(people, object))
    with pytest.raises(SceneError, match=r"person 1: `bone_labels`: expected the 163 bones of the rig, no \['root'"):
        open_input(str(official)).load(0)
    np.savez(path, multihmr_pred=np.array(people[:1], object))
    scene = open_input(str(official)).load(0)
    assert scene.start is None
    assert "no feed-forward start for person 1: none is used" in scene.notes


def test_which_folders_of_an_official_root_are_used(official):
    (official / "vlm_estimate_crop").mkdir()
    write_official(official, "other", str_ids=True)
    (official / "person_dataset_20_headcrop" / "other.npz").unlink()
    source = open_input(str(official))
    assert source.names == ("36039",)  # the dataset lists fewer images
    assert source.load(0).age.tolist() == [0, 0.5]  # the dataset's own words, although `crop` sorts first
    assert open_input(str(official), vlm_folder="vlm_estimate_crop").load(0).age.tolist() == [-1, -1]
    shutil.rmtree(official / "person_dataset_20_headcrop")
    source = open_input(str(official))
    assert source.names == ("36039", "other")
    assert source.notes == ("vlm_estimate_crop is used, not vlm_estimate_headcrop",)
    with pytest.raises(SceneError, match="no folder `multihmr_x`"):
        open_input(str(official), hmr_folder="multihmr_x")


def test_log_sigma_of_older_files(official):
    dense = np.zeros((2, 138, 3))
    dense[..., 2] = np.log(0.02)
    dense[0, 0] = [0.1, 0.2, np.log(0.001)]
    dense[0, 1] = [0.1, 0.6, np.log(0.001)]
    np.testing.assert_allclose(confidence_from_log_sigma(dense)[0, :3], [1, 0, 0.5])
    write_official(official, "36039", str_ids=True, preprocessed={"dense_kps": dense})
    scene = open_input(str(official)).load(0)
    np.testing.assert_allclose(scene.dense_keypoints[0, :3, 2], [1, 0, 0.5])
    assert any("log sigma" in note for note in scene.notes)


def test_wrong_official_fields_are_named(official):
    write_official(official, "36039", str_ids=True, preprocessed={"keypoints": np.zeros((3, 17, 3))})
    with pytest.raises(SceneError, match=r"preprocessed.36039.npz: field `keypoints`: expected shape \(2, 17, 3\)"):
        open_input(str(official)).load(0)
    write_official(official, "36039", str_ids=True)
    np.savez(official / "multihmr_m" / "36039.npz", multihmr_pred=np.array([{"rotvec": 1}, {"rotvec": 2}], object))
    with pytest.raises(SceneError, match=r"multihmr_m.36039.npz: field `multihmr_pred`.*`rotvec`: expected shape"):
        open_input(str(official)).load(0)


def write_object_entry(path, key: str, payload: bytes, shape=()) -> None:
    """An `.npz` whose object array `key` is any pickle."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{key}.npy", header.getvalue() + payload)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_malicious_pickles_are_refused_and_do_nothing(official, tmp_path):
    marker = tmp_path / "ran"
    attacks = [
        pickle.dumps(Calls(os.system, f"touch {marker}")),
        pickle.dumps(Calls(eval, f"open({str(marker)!r}, 'w')"), protocol=2),
        pickle.dumps({"0": {"age": Calls(open, str(marker), "w")}}),
        # Names on the list, used for what they are not for.
        b"cnumpy.core.multiarray\n_reconstruct\n(c__builtin__\ndict\n(I0\ntS'b'\ntR.",
        b"cnumpy\nndarray\n.",
        b"cnumpy\nndarray\n(I9\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRS'12345678'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"cnumpy\ndtype\n(S'O'\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb.",
        b"(lp0\ng0\na.",
    ]
    for attack in attacks:
        write_object_entry(official / "vlm_estimate_headcrop" / "36039.npz", "shape_attributes", attack)
        with pytest.raises(SceneError, match="`shape_attributes`"):
            open_input(str(official)).load(0)
    assert not marker.exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_object_arrays_of_both_numpy_generations(official, module):
    numbers = {"0": {"age": np.float64(0.33), "gender": np.float32(1)}, "1": {"age": np.array(0.5), "gender": 0}}
    payload = pickle.dumps(np.array(numbers, object), protocol=2)
    payload = payload.replace(b"numpy._core.multiarray", module.encode())
    assert module.encode() in payload
    write_object_entry(official / "vlm_estimate_headcrop" / "36039.npz", "shape_attributes", payload)
    scene = open_input(str(official)).load(0)
    assert scene.age[0] == 0.33
    assert scene.gender.tolist() == [1, 0]


@quick
@given(position=st.floats(0, 1), byte=st.integers(0, 255), folder=st.sampled_from(["multihmr_m", "preprocessed"]))
def test_damaged_pickles_raise_only_scene_errors(official, position, byte, folder):
    write_official(official, "36039", str_ids=True, preprocessed={"masks": None, "depth_map": None})
    path = official / folder / "36039.npz"
    members = {}
    with zipfile.ZipFile(path) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    name = "multihmr_pred.npy" if folder == "multihmr_m" else "dense_kps.npy"
    members[name][int(position * (len(members[name]) - 1))] = byte
    with zipfile.ZipFile(path, "w") as archive:  # with a fresh checksum, so that the damage reaches the reader
        for member, data in members.items():
            archive.writestr(member, bytes(data))
    _survives(lambda: open_input(str(official)).load(0))


# --- official results ---


@pytest.fixture
def torch_names(monkeypatch):
    """Modules that bear PyTorch's names, enough to write a results file as PyTorch would."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils", "torch.storage")}

    def named(module: str, name: str, value):
        value.__module__, value.__name__, value.__qualname__ = module, name, name
        setattr(modules[module], name, value)
        return value

    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    float_storage = named("torch", "FloatStorage", type("FloatStorage", (), {}))
    load = named("torch.storage", "_load_from_bytes", lambda data: None)
    rebuild = named("torch._utils", "_rebuild_tensor_v2", lambda *arguments: None)

    def tensor(array: np.ndarray, count: int | None = None, offset: int = 0):
        elements = np.ascontiguousarray(array, "<f4")
        count = elements.size if count is None else count

        class WithStorage(pickle.Pickler):
            def persistent_id(self, obj):
                return ("storage", float_storage, "94", "cpu", count, None) if obj is elements else None

        stream = io.BytesIO()
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, stream, protocol=2)
        WithStorage(stream, protocol=2).dump(elements)
        pickle.dump(["94"], stream, protocol=2)
        stream.write(np.int64(count).tobytes() + elements.tobytes())
        stride = tuple(s // 4 for s in elements.strides)
        arguments = (Calls(load, stream.getvalue()), offset, elements.shape, stride, False, {})
        return Calls(rebuild, *arguments)

    return tensor


def write_params(path, content: dict) -> None:
    np.savez(path, allow_pickle=True, **{"0": np.array(content, object)})


def test_official_results_are_read_without_torch(tmp_path, torch_names):
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(162, 3)).astype(np.float32)
    person_content = {
        "body_pose_params": torch_names(pose), "root_translation_params": torch_names(pose[0]),
        "shape_params_keys": ["gender", "age"], "empty": torch_names(np.zeros((0, 3))),
    }  # fmt: skip
    write_params(tmp_path / "params.npz", person_content)
    people = read_official_params(str(tmp_path / "params.npz"))
    assert list(people) == ["0"]
    np.testing.assert_array_equal(people["0"]["body_pose_params"], pose)
    np.testing.assert_array_equal(people["0"]["root_translation_params"], pose[0])
    assert people["0"]["empty"].shape == (0, 3)
    assert people["0"]["shape_params_keys"] == ["gender", "age"]


@pytest.mark.parametrize("change", [{"count": 5}, {"offset": 1}, {"offset": -1}])
def test_a_tensor_outside_its_storage_is_refused(tmp_path, torch_names, change):
    write_params(tmp_path / "params.npz", {"x": torch_names(np.ones((2, 3)), **change)})
    with pytest.raises(SceneError, match=r"params.npz: field `0`"):
        read_official_params(str(tmp_path / "params.npz"))


@pytest.mark.usefixtures("torch_names")
def test_tensors_are_refused_in_preprocessing_files(official, torch_names):
    content = {"0": {"age": torch_names(np.ones(1))}}
    write_answers(official, "36039", shape_attributes=content)
    with pytest.raises(SceneError, match=r"`shape_attributes`.*torch"):
        open_input(str(official)).load(0)


@pytest.mark.parity
def test_official_results_against_torch(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    base = torch.arange(24.0, dtype=torch.float64)
    content = {
        "view": base.reshape(4, 6)[1:, ::2], "half": torch.ones(3, dtype=torch.float16),
        "parameter": torch.nn.Parameter(torch.full((2,), 7.0)),
    }  # fmt: skip
    write_params(tmp_path / "params.npz", content)
    read = read_official_params(str(tmp_path / "params.npz"))["0"]
    for key, value in content.items():
        np.testing.assert_array_equal(read[key], value.detach().numpy())
