"""PyTorch checkpoints without PyTorch: files of the real library, round trips, hostile and damaged files.

`goldens/aios/torch_zip.pt` and `torch_legacy.pt` were written by torch 2.13 (`torch.save`, both layouts) and hold the
same training checkpoint: a state dict with the prefix of distributed training, an AdamW state and an argparse namespace.
"""

from __future__ import annotations

import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from helpers import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from annyfit_jax.records.torch_files import CheckpointError, read_state_dict, write_state_dict

FIXTURES = [GOLDENS / "aios" / "torch_zip.pt", GOLDENS / "aios" / "torch_legacy.pt"]
BASE = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
EXPECTED = {
    "linear.weight": BASE,
    "alias.weight": BASE,
    "transposed": BASE.T,
    "part": BASE[1:3, 2:5],
    "half": np.array([1.5, -2.25], np.float16),
    "brain": np.array([1.0, -3.140625], ml_dtypes.bfloat16),
    "double": np.array([0.1]),
    "count": np.array(7),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_reads_what_torch_wrote(path):
    state = read_state_dict(path)
    assert list(state) == list(EXPECTED)
    for key, expected in EXPECTED.items():
        assert state[key].dtype == expected.dtype, key
        np.testing.assert_array_equal(state[key], expected, err_msg=key)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_an_entry_that_is_no_state_dict_is_named(path):
    with pytest.raises(CheckpointError, match=rf"{path.name}.*'epoch'.*model"):
        read_state_dict(path, entry="epoch")
    with pytest.raises(CheckpointError, match="state"):
        read_state_dict(path, entry="optimizer")
    with pytest.raises(CheckpointError, match="'absent'"):
        read_state_dict(path, entry="absent")


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_cut_file_is_an_error(path, share, tmp_path):
    cut = tmp_path / "cut.pt"
    content = path.read_bytes()
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        read_state_dict(cut)


class _Runs:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_a_hostile_file_runs_nothing(layout, tmp_path):
    trace, path = tmp_path / "ran", tmp_path / "hostile.pt"
    payload = pickle.dumps({"model": {"weight": _Runs(f"touch {trace}")}}, 2)
    if layout == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", payload)
    else:
        head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + payload + pickle.dumps([], 2))
    with pytest.raises(CheckpointError, match="'weight' should be a named tensor"):
        read_state_dict(path)
    assert not trace.exists()
    pickle.loads(payload)  # the payload is live: the plain reader does run it
    assert trace.exists()


def test_not_a_checkpoint(tmp_path):
    path = tmp_path / "text.pt"
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        read_state_dict(path)
    with pytest.raises(CheckpointError, match=r"absent\.pt"):
        read_state_dict(tmp_path / "absent.pt")


ELEMENTS = st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.bool_])
ARRAYS = ELEMENTS.flatmap(lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))


@settings(max_examples=40, deadline=None)
@given(arrays=st.dictionaries(st.text(min_size=1, max_size=12).map(lambda t: "w." + t), ARRAYS, max_size=5))
@pytest.mark.parametrize("entry", [None, "model"])
def test_written_files_read_back(tmp_path_factory, entry, arrays):
    arrays = {key.encode("utf-8", "ignore").decode(): value for key, value in arrays.items()}
    path = tmp_path_factory.mktemp("round") / "x.pt"
    write_state_dict(path, arrays, entry)
    state = read_state_dict(path, entry)
    assert list(state) == list(arrays)
    for key, value in arrays.items():
        assert state[key].dtype == value.dtype
        np.testing.assert_array_equal(state[key], value)


def test_shared_tensors_are_stored_once(tmp_path):
    one = np.ones((64, 64), np.float32)
    write_state_dict(tmp_path / "shared.pt", {"a": one, "b": one})
    write_state_dict(tmp_path / "single.pt", {"a": one})
    assert (tmp_path / "shared.pt").stat().st_size < 1.1 * (tmp_path / "single.pt").stat().st_size
    np.testing.assert_array_equal(read_state_dict(tmp_path / "shared.pt")["b"], one)


def test_unknown_element_types_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"odd.*complex64"):
        write_state_dict(tmp_path / "x.pt", {"odd": np.zeros(2, np.complex64)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parity
def test_torch_reads_what_was_written(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {
        "matrix": BASE, "alias": BASE, "column_major": np.asfortranarray(BASE), "count": np.array(7),
        "brain": EXPECTED["brain"], "mask": EXPECTED["mask"], "empty": EXPECTED["empty"],
    }  # fmt: skip
    write_state_dict(tmp_path / "x.pt", arrays, "model")
    state = torch.load(tmp_path / "x.pt", weights_only=True)["model"]
    assert state["matrix"].data_ptr() == state["alias"].data_ptr()
    for key, value in arrays.items():
        got = state[key].float().numpy() if key == "brain" else state[key].numpy()
        np.testing.assert_array_equal(got, value.astype(got.dtype), err_msg=key)
