"""Safetensors files: what the format says comes back bit for bit; whatever else stands in a file, one error."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from annyfit_jax.records import safetensors_files
from annyfit_jax.records.safetensors_files import ELEMENT_TYPES, read_tensors
from annyfit_jax.records.torch_files import CheckpointError, read_state_dict, write_state_dict
from body_models.restricted_pickle import Budget, ForeignFileError

KINDS = {dtype: kind for kind, dtype in ELEMENT_TYPES.items()}


def packed(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def file_of(arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    """As the format describes it, written here once more from its description."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, array in arrays.items():
        content = array.tobytes()
        header[name] = {
            "dtype": KINDS[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    return packed(header, data)


def read(content: bytes) -> dict[str, np.ndarray]:
    return read_tensors(io.BytesIO(content), len(content), Budget.for_file(len(content)))


GOOD = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5], np.float16),
    "brain": np.array([1.0, -3.140625], ml_dtypes.bfloat16),
    "count": np.array(7, np.int64),
    "mask": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}
ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@given(
    st.dictionaries(
        st.text(max_size=20).filter(lambda name: name != "__metadata__"),
        st.sampled_from([np.dtype(k) for k in ("<f4", "<f8", "<f2", "<i8", "u1", "?")]).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
        ),
        max_size=6,
    )
)
def test_what_was_written_comes_back(arrays):
    back = read(file_of(arrays, {"format": "pt"}))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


def test_every_element_type_is_read():
    arrays = {kind: np.ones(3).astype(dtype) for kind, dtype in ELEMENT_TYPES.items()}
    for kind, array in read(file_of(arrays)).items():
        np.testing.assert_array_equal(array, arrays[kind])
        array[:] = 0  # the caller's own


def test_checkpoints_may_be_safetensors_whatever_their_name(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(file_of({f"module.{name}": array for name, array in GOOD.items()}))
    state = read_state_dict(path)
    assert list(state) == list(GOOD)
    for name, array in GOOD.items():
        np.testing.assert_array_equal(state[name], array)
    write_state_dict(tmp_path / "same.pt", state)
    assert list(read_state_dict(tmp_path / "same.pt")) == list(GOOD)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model.pth.*safetensors"):
        read_state_dict(path)


BROKEN = {
    "nothing": b"",
    "cut length": b"\1\2\3",
    "length beyond the file": packed({"a": ONE}, bytes(8), length=10_000),
    "length of 2^63": packed({"a": ONE}, bytes(8), length=2**63),
    "a list": packed([1]),
    "deep": packed(b"{" + b'"a":[' * 100_000),
    "a number of 5000 digits": packed(b'{"a":' + b"9" * 5000 + b"}"),
    "not UTF-8": packed(b'{"\xff":1}'),
    "a name twice": packed(b'{"a":1,"a":2}'),
    "no entry": packed({"a": 3}),
    "unknown type": packed({"a": {**ONE, "dtype": "F4"}}, bytes(8)),
    "type is a list": packed({"a": {**ONE, "dtype": []}}, bytes(8)),
    "something more": packed({"a": {**ONE, "code": "x"}}, bytes(8)),
    "negative side": packed({"a": {**ONE, "shape": [-2]}}, bytes(8)),
    "truth value as a side": packed({"a": {**ONE, "shape": [2, True]}}, bytes(8)),
    "sides that overflow": packed({"a": {**ONE, "shape": [2**62, 2**62, 4]}}, bytes(8)),
    "nothing of a huge shape": packed({"a": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}),
    "forty axes": packed({"a": {**ONE, "shape": [2, *[1] * 39]}}, bytes(8)),
    "offsets backwards": packed({"a": {**ONE, "data_offsets": [8, 0]}}, bytes(8)),
    "offsets beyond the file": packed({"a": {**ONE, "data_offsets": [8, 16]}}, bytes(8)),
    "bytes shared": packed({"a": ONE, "b": ONE}, bytes(8)),
    "a gap": packed({"a": {**ONE, "data_offsets": [4, 12]}}, bytes(12)),
    "bytes left over": packed({"a": ONE}, bytes(9)),
    "truth value of 2": packed({"a": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\2"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_error(name):
    with pytest.raises(ForeignFileError, match="safetensors"):
        read(BROKEN[name])


@settings(max_examples=400)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(data):
    content = bytearray(file_of(GOOD, {"format": "pt"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        arrays = read(bytes(content))
    except ForeignFileError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= len(content)


def test_a_header_is_bounded(monkeypatch):
    monkeypatch.setattr(safetensors_files, "MAX_HEADER_BYTES", 100)
    with pytest.raises(ForeignFileError, match="at most 100"):
        read(file_of(GOOD))


def test_memory_is_bounded_by_the_size_of_the_file():
    """Ten thousand tensors that all claim the same megabyte."""
    claim = {"dtype": "U8", "shape": [1 << 20], "data_offsets": [0, 1 << 20]}
    content = packed({f"t{i}": claim for i in range(10_000)}, bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ForeignFileError, match="expected"):
        read(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * len(content)
