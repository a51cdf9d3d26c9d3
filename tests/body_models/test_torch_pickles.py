"""Tensors in foreign files: memory stays within the file's size, and one read leaves nothing behind for the next."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest

from body_models.restricted_pickle import ForeignFileError, Unknown
from body_models.torch_pickles import read_zip

COUNT = 1 << 20


def text(content: str) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    + number(COUNT) + b"tQ" + number(0) + b"(" + number(COUNT) + b"t(" + number(1)
    + b"t\x89ccollections\nOrderedDict\n)RtR"
)  # fmt: skip


def archive(pickled: bytes, content: bytes | None = None, method: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as target:
        target.writestr("a/data.pkl", pickled)
        if content is not None:
            target.writestr("a/data/0", content)
    return file


def test_many_tensors_on_one_storage_take_its_memory_once():
    pickled = b"\x80\2}(" + b"".join(text(f"w{i}") + TENSOR for i in range(8)) + b"u."
    arrays = read_zip(archive(pickled, np.arange(COUNT, dtype="<f4").tobytes()))
    assert all(np.shares_memory(arrays["w0"], array) for array in arrays.values())
    np.testing.assert_array_equal(arrays["w7"][:3], [0, 1, 2])
    assert not arrays["w0"].flags.writeable
    pickled = b"\x80\2}(" + b"".join(text(f"w{i}") + TENSOR for i in range(600)) + b"u."  # 600 x 4 MB out of 10 kB
    file = archive(pickled, bytes(4 * COUNT), zipfile.ZIP_DEFLATED)
    with pytest.raises(ForeignFileError, match="more memory"):
        read_zip(file)


def test_a_deflated_member_is_not_unfolded_beyond_what_the_tensor_needs():
    with pytest.raises(ForeignFileError, match="data/0 has 67108864 bytes, not 4194304"):
        read_zip(archive(b"\x80\2}" + text("a") + TENSOR + b"s.", bytes(64 << 20), zipfile.ZIP_DEFLATED))
    with pytest.raises(ForeignFileError, match="more memory"):
        read_zip(archive(b"N" * (200 << 20) + b".", method=zipfile.ZIP_DEFLATED))
    with pytest.raises(ForeignFileError, match="compressed by method 14"):
        read_zip(archive(b"\x80\2}" + text("a") + TENSOR + b"s.", bytes(4 * COUNT), zipfile.ZIP_LZMA))


def test_a_hostile_file_does_not_change_later_reads():
    good = b"\x80\2}" + text("a") + TENSOR + b"s."
    content = np.arange(COUNT, dtype="<f4").tobytes()
    hostile = b"\x80\2ctorch\nFloatStorage\n}" + text("dtype") + text("<i4") + b"sb0}."
    for unknown in (None, Unknown):
        try:
            assert read_zip(archive(hostile), unknown=unknown) == {}
        except ForeignFileError as error:
            assert "state for an object" in str(error)  # noqa: PT017 (both outcomes are right)
        np.testing.assert_array_equal(read_zip(archive(good, content))["a"][:3], [0.0, 1.0, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize("place", range(0, 2200, 7))
def test_flipped_bits_are_one_error(place):
    file = archive(b"\x80\2}" + text("a") + TENSOR + b"s.", bytes(4 * COUNT), zipfile.ZIP_DEFLATED)
    data = bytearray(file.getvalue())
    data[-1 - place % len(data)] ^= 0x55
    try:
        read_zip(io.BytesIO(bytes(data)))
    except ForeignFileError:
        return
