"""Reading pickles of known layout: what numpy and torch write comes back, everything else is refused before it runs."""

from __future__ import annotations

import builtins
import collections
import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from body_models.restricted_pickle import CONTAINERS, NUMPY, ForeignFileError, Unknown, load
from body_models.torch_pickles import read_zip

# ------------------------------------------------------------------------------------------------ globals


class _Runs:
    """Pickles to a call of `os.system`."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickle_is_refused(tmp_path, protocol):
    trace = tmp_path / "ran"
    payload = pickle.dumps(_Runs(f"touch {trace}"), protocol)
    allowed = {("collections", "OrderedDict"): CONTAINERS["collections", "OrderedDict"]}
    with pytest.raises(pickle.UnpicklingError, match=r"system"):
        load(payload, allowed)
    assert not trace.exists()
    pickle.loads(payload)  # the payload is live: the plain reader does run it
    assert trace.exists()


def call(module: str, name: str, argument: bytes = b"") -> bytes:
    """A protocol-0 pickle that calls one global."""
    return f"c{module}\n{name}\n(".encode() + argument + b"tR."


HARMFUL = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("importlib", "import_module"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy", "memmap"),
    ("numpy", "ndarray.tofile"),
    ("numpy.core.multiarray", "fromfile"),
    ("numpy._core.multiarray", "frombuffer"),
    ("numpy.lib.npyio", "load"),
    ("torch", "load"),
    ("torch._utils", "_rebuild_parameter"),
    ("collections", "OrderedDict.fromkeys"),
    ("_codecs", "lookup"),
    ("pickle", "loads"),
]


@pytest.mark.parametrize(("module", "name"), HARMFUL)
def test_harmful_globals_are_refused(module, name):
    payload = call(module, name, b"S'x'\n")
    with pytest.raises(pickle.UnpicklingError, match=rf"refused.*{module}\.{name}"):
        load(payload, NUMPY)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("top/data.pkl", payload)
    with pytest.raises(pickle.UnpicklingError, match=rf"refused.*{module}\.{name}"):
        read_zip(file)


def test_dotted_names_do_not_reach_through_an_allowed_object():
    """Protocol 4 resolves "a.b" attribute by attribute in the plain reader."""
    payload = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        load(payload, NUMPY)


def test_nothing_is_imported(monkeypatch):
    asked = []
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *rest, **more: (asked.append(name), real(name, *rest, **more))[1]
    )
    with pytest.raises(pickle.UnpicklingError):
        load(call("this_module_is_absent", "anything"), {})
    assert "this_module_is_absent" not in asked


def test_extension_registry_is_no_way_around():
    """Opcode EXT1 names a global by a number of copyreg's table."""
    import copyreg

    copyreg.add_extension("os", "system", 0xF7)
    try:
        with pytest.raises(pickle.UnpicklingError, match=r"os\.system"):
            load(b"\x80\x02\x82\xf7.", NUMPY)
    finally:
        copyreg.remove_extension("os", "system", 0xF7)


def test_only_the_named_globals_are_allowed():
    payload = pickle.dumps(collections.OrderedDict(a=1))
    allowed = {("collections", "OrderedDict"): CONTAINERS["collections", "OrderedDict"]}
    assert load(payload, allowed) == {"a": 1}
    with pytest.raises(pickle.UnpicklingError, match=r"collections\.OrderedDict"):
        load(payload, {})
    with pytest.raises(pickle.UnpicklingError, match="outside itself"):
        load(b"\x80\x02K\x01Q.", allowed)


# ------------------------------------------------------------------------------------------------ numpy arrays

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float64_fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(5, dtype=">i4"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["left_eye", "Äugen"]),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar_array": np.array(7, np.uint8),
    "objects": np.array([{"a": np.arange(3)}, None, "text", [1, 2.5]], dtype=object),
}


def read_numpy(payload: bytes):
    return load(payload, NUMPY)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("name", ARRAYS)
def test_numpy_arrays_come_back(name, protocol, module):
    """Written by this numpy and by numpy 1 or 2, whose module is named differently (lengths in the pickle adapt)."""
    array = ARRAYS[name]
    payload = pickle.dumps(array, protocol)
    here = b"numpy._core.multiarray" if b"numpy._core.multiarray" in payload else b"numpy.core.multiarray"
    if protocol == 4:
        sized = lambda text: b"\x8c" + bytes([len(text)]) + text  # noqa: E731
        assert sized(here) in payload
        # The frame's length changes with the name: leave the frame out.
        frame = payload.index(b"\x95")
        payload = (payload[:frame] + payload[frame + 9 :]).replace(sized(here), sized(module))
    else:
        assert here in payload
        payload = payload.replace(here, module)
    got = read_numpy(payload)
    assert got.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert got.shape == array.shape
    if name == "objects":
        np.testing.assert_array_equal(got[0]["a"], [0, 1, 2])
        assert list(got[1:]) == list(array[1:])
    else:
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-3), np.bool_(True)])
def test_numpy_scalars_come_back(value, protocol):
    got = read_numpy(pickle.dumps(value, protocol))
    assert got == value
    assert got.dtype == value.dtype


def with_state(shape: bytes, code: str, content: bytes, kind_state: bytes = b"") -> bytes:
    """A protocol-2 pickle of an array whose parts need not fit each other."""
    kind = f"cnumpy\ndtype\n(S'{code}'\nI0\nI1\ntR".encode()
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
        + shape
        + kind
        + kind_state
        + (b"I0\n" + content + b"tb.")
    )


def test_hand_made_array_state():
    np.testing.assert_array_equal(read_numpy(with_state(b"(I2\nt", "u1", b"S'\\x05\\x06'\n")), [5, 6])


@pytest.mark.parametrize(
    "payload",
    [
        with_state(b"(I3\nt", "u1", b"S'\\x05\\x06'\n"),  # too few bytes
        with_state(b"(I1\nt", "u1", b"S'\\x05\\x06'\n"),  # too many
        with_state(b"(I-2\nt", "u1", b"S'\\x05\\x06'\n"),
        with_state(b"(I4294967296\nI4294967296\nt", "u1", b"S''\n"),
        with_state(b"(I1\nt", "O", b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\n"),  # bytes as pointers
        with_state(b"(I1\nt", "V8", b"S'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\n"),
        with_state(b"(I1\nt", "O,O", b"(lN"),
        b"cnumpy\ndtype\n(S'u1,O'\nI0\nI1\ntR.",
        b"cnumpy\ndtype\n(S'i99'\nI0\nI1\ntR.",
        b"cnumpy\ndtype\n(S'(2,)u1'\nI0\nI1\ntR.",
        b"cnumpy\ndtype\n(cnumpy\nndarray\nI0\nI1\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O'\nI0\nI1\ntRS'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(c_codecs\nencode\n(I0\ntS'b'\ntR.",
    ],
)
def test_arrays_that_lie_are_refused(payload):
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        read_numpy(payload)


# ------------------------------------------------------------------------------------------------ torch files


def torch_zip(
    storage: str = "FloatStorage", offset: int = 1, size: tuple = (2, 3), stride: tuple = (1, 2), key: str = "0"
) -> io.BytesIO:
    """A file as `torch.save` writes it: one tensor, a strided view of the eight float32 0..7, under the name "x"."""

    def number(n: int) -> bytes:
        return b"J" + n.to_bytes(4, "little", signed=True)

    def text(t: str) -> bytes:
        return b"X" + len(t).to_bytes(4, "little") + t.encode()

    reference = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + number(8) + b"tQ"
    sizes = b"".join(b"(" + b"".join(number(n) for n in part) + b"t" for part in (size, stride))
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + number(offset) + sizes
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("top/data.pkl", b"\x80\x02}" + text("x") + tensor + b"s.")
        archive.writestr("top/byteorder", "little")
        archive.writestr("top/data/0", np.arange(8, dtype="<f4").tobytes())
    file.seek(0)
    return file


def test_torch_tensor_is_a_strided_view():
    tensor = read_zip(torch_zip())["x"]
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, [[1, 3, 5], [2, 4, 6]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"storage": "load"}, r"torch\.load"),
        ({"storage": "UntypedStorage"}, r"torch\.UntypedStorage"),
        ({"storage": "DoubleStorage"}, "32 bytes"),
        ({"offset": 3}, "outside"),
        ({"offset": -1}, "unknown layout"),
        ({"stride": (1, -2)}, "unknown layout"),
        ({"size": (1000, 1000), "stride": (0, 0)}, "outside"),
        ({"key": "../data.pkl"}, "not in the file"),
    ],
)
def test_torch_file_that_lies_is_refused(change, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        read_zip(torch_zip(**change))


def test_not_a_torch_file():
    with pytest.raises(ValueError, match="not a PyTorch zip file"):
        read_zip(io.BytesIO(b"no zip"))


# ------------------------------------------------------------------------------------------------ hostile pickles

SHARED = b")" + b"2\x86" * 60  # t = (t, t) sixty times: 2**60 values in 121 bytes
BIG = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x80\x02}" + SHARED + b"K\x01s.", "a key of too many parts"),
        (b"\x80\x04\x8f(" + SHARED + b"\x90.", "a key of too many parts"),
        (b"\x80\x02(" + SHARED + b"K\x01d.", "a key of too many parts"),
        (b"\x80\x02" + SHARED + b".", "more steps|nested more than"),
        (b"\x80\x02" + b"]" + b"2a" * 40 + b".", "nested more than"),
        (b"(lp0\ng0\na.", "nested more than"),
        (b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".", "nested more than"),
        (b"\x80\x02}" + b"\x8a\x09" + (1 << 64).to_bytes(9, "little") + b"K\x01s.", "too large a number"),
        (b"\x80\x02}]K\x01s.", "a key of type list"),
        (b"\x80\x02" + BIG + b"q\0" + b"0](" + b"c_codecs\nencode\nh\0\x85R" * 2000 + b"e.", "more memory"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "not a readable pickle"),
        (b"\x80\x04\x8e" + (1 << 62).to_bytes(8, "little") + b"abc.", "not a readable pickle"),
        (b"\x80\x02K\x01", "ends too early"),
        (b"\xff", "unknown instruction"),
        (b"t.", "not a readable pickle"),
        (b"\x80\x02)K\x01a.", "APPEND for an object of type tuple"),
    ],
    ids=range(16),
)
def test_what_would_hang_or_fill_the_memory_is_refused(payload, message):
    with pytest.raises(ForeignFileError, match=message):
        load(payload, {**CONTAINERS, **NUMPY})


def test_sharing_within_reason_is_read():
    row = [1.5, "text", np.arange(3)]
    got = load(pickle.dumps([row] * 1000 + [{"a": row, ("x", 1): {frozenset({2})}}], 4), {**CONTAINERS, **NUMPY})
    assert len(got) == 1001
    assert got[0] is got[999]
    np.testing.assert_array_equal(got[1000]["a"][2], [0, 1, 2])
    assert got[1000]["x", 1] == {frozenset({2})}


@pytest.mark.parametrize("state", [b"}X\x01\0\0\0aK\x01s", b"(K\x01K\x02t", b"N"])
@pytest.mark.parametrize("name", sorted({f"{module}\n{name}" for module, name in {**NUMPY, **CONTAINERS}}))
def test_no_stand_in_can_be_changed_by_a_pickle(name, state):
    """BUILD, items and attributes: what outlives a read stays as it is."""
    with pytest.raises(ForeignFileError):
        load(b"\x80\x02c" + name.encode() + b"\n" + state + b"b.", {**CONTAINERS, **NUMPY})
    with pytest.raises(ForeignFileError):
        load(b"\x80\x02c" + name.encode() + b"\n(" + state + b"K\x01u.", {**CONTAINERS, **NUMPY})


PARTS = st.sampled_from(
    [b"(", b")", b"]", b"}", b"\x8f", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"\x90", b"\x91", b"\x85", b"\x86", b"\x87",
     b"2", b"0", b"1", b"N", b"K\x01", b"R", b"\x81", b"\x92", b"b", b"o", b"Q", b"q\x00", b"h\x00", b"\x94", b"\x93",
     b"X\x01\0\0\0a", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
     b"cbuiltins\nlist\n", b"cbuiltins\ndict\n", b"ccollections\nOrderedDict\n", b"X\x02\0\0\0i4", b"C\x04abcd", b"\x82\xf7"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PARTS, max_size=40))
def test_any_program_of_instructions_is_data_or_one_error(parts):
    for unknown in (None, Unknown):
        with contextlib.suppress(ForeignFileError):
            load(b"".join(parts) + b".", {**CONTAINERS, **NUMPY}, unknown=unknown)
