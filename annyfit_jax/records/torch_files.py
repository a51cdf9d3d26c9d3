"""State dicts in PyTorch files, read and written without PyTorch and without executing the pickle inside.

    arrays = read_state_dict("aios_checkpoint.pth")
    write_state_dict("converted.pth", arrays)

Training programs store more than weights (options, optimiser states, classes of their own). Everything that is not
known data becomes an inert placeholder: nothing is imported or called, and a placeholder where a tensor was asked for is
an error. Both layouts of `torch.save` are read: the zip archive (since 1.6) and the older stream of pickles.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from annyfit_jax.records.files import replacing
from body_models.restricted_pickle import NUMPY_GLOBALS, TORCH_GLOBALS, RestrictedUnpickler, read_torch_zip

_ELEMENT_TYPES: Mapping[str, np.dtype] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
"""Storage classes and what their bytes are (little-endian)."""

_STATE_DICT_ENTRIES = ("model", "state_dict", "model_state_dict")
"""Where training programs put the weights, in order of preference."""

_DISTRIBUTED_PREFIX = "module."

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


class CheckpointError(ValueError):
    """A file that is not what was expected; the message names file, entry and expectation."""


def read_state_dict(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch checkpoint by name.

    Args:
      path: file written by `torch.save`.
      entry: key of the state dict in the saved dictionary ("ema_model", say). None: the saved object itself if all its
        values are tensors, else its entry "model" or "state_dict".

    Returns:
      Name -> array in the stored type and in PyTorch's layout; the prefix of distributed training is taken off.

    Raises: CheckpointError if the file cannot be read as one, has no such entry, or the entry holds other things.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            saved = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    except (pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
            zipfile.BadZipFile, struct.error, OverflowError, MemoryError, RecursionError) as error:  # fmt: skip
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({error})") from error
    state = _find_state(saved, path, entry)
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{path}: {key!r:.80} should be a named tensor, got {type(value).__name__}")
    if state and all(key.startswith(_DISTRIBUTED_PREFIX) for key in state):
        return {key.removeprefix(_DISTRIBUTED_PREFIX): value for key, value in state.items()}
    return dict(state)


def write_state_dict(path: str | Path, arrays: Mapping[str, np.ndarray], entry: str | None = None) -> None:
    """Writes a zip checkpoint that `torch.load(path, weights_only=True)` reads. Appears complete or not at all.

    Args:
      path: file to write.
      arrays: name -> array; the same array object under two names is stored once, as shared tensors are.
      entry: put the dictionary under this key ("model") instead of saving it as it is.

    Raises: CheckpointError for an element type that PyTorch files do not have.
    """
    names = {dtype: name for name, dtype in _ELEMENT_TYPES.items()}
    storages: dict[int, tuple[str, str, np.ndarray]] = {}
    for key, value in arrays.items():
        dtype = value.dtype.newbyteorder("<") if value.dtype.kind in "iuf" else value.dtype
        if dtype not in names:
            raise CheckpointError(f"{path}: {key}: PyTorch files have no element type {value.dtype}")
        if id(value) not in storages:
            # `ascontiguousarray` would turn a scalar into a vector, but only its bytes are used.
            content = np.ascontiguousarray(value.astype(dtype, copy=False))
            storages[id(value)] = (str(len(storages)), names[dtype], content)
    body = b"".join(_tensor_item(key, value, *storages[id(value)][:2]) for key, value in arrays.items())
    saved = b"}(" + body + b"u"
    if entry is not None:
        saved = b"}(" + _text(entry) + saved + b"u"
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + saved + b".")
        archive.writestr("archive/byteorder", b"little")
        for number, _, content in storages.values():
            archive.writestr(f"archive/data/{number}", content.tobytes())
        archive.writestr("archive/version", b"3\n")


# ------------------------------------------------------------------------------------------------ reading


class _Placeholder:
    """Stands for an object of unknown class: takes any arguments and any state, and holds nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __call__(self, *_: Any, **__: Any) -> _Placeholder:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass


class _Storage(type(TORCH_GLOBALS["torch", "FloatStorage"])):
    """The storage stand-in that `read_torch_zip` knows, for further element types."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


def _parameter(tensor: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter`: a parameter is its tensor."""
    return tensor


class _Tolerant(dict):
    """Globals of known meaning; every other one is `_Placeholder`."""

    def __missing__(self, key: tuple[str, str]) -> object:
        return _Placeholder


_GLOBALS = _Tolerant(
    {
        **NUMPY_GLOBALS,
        **TORCH_GLOBALS,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        **{("torch", name): _Storage(dtype) for name, dtype in _ELEMENT_TYPES.items()},
    }
)


def _read_zip(file: IO[bytes]) -> Any:
    return read_torch_zip(file, _GLOBALS)


class _LegacyUnpickler(RestrictedUnpickler):
    """One pickle of the older layout; `storages` None on the first pass, when their bytes have not been met yet."""

    def __init__(self, file: IO[bytes], storages: Mapping[str, bytes] | None, types: dict[str, tuple[np.dtype, int]]):
        globals_ = _GLOBALS
        if storages is None:  # the first pass only learns which storages there are
            globals_ = _Tolerant({**_GLOBALS, ("torch._utils", "_rebuild_tensor_v2"): _Placeholder})
        super().__init__(file, globals_)
        self._storages, self._types = storages, types

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[0] != "storage" or not isinstance(pid[1], _Storage):
            raise pickle.UnpicklingError("refused: unknown storage reference")
        _, storage, key, _, count, view = pid
        if view is not None or type(count) is not int or not isinstance(key, str):
            raise pickle.UnpicklingError(f"refused: storage {key!r:.40} is a view or has no size")
        self._types[key] = (storage.dtype, count)
        if self._storages is None:
            return _Placeholder()
        return np.frombuffer(self._storages[key], storage.dtype, count)


def _read_legacy(file: IO[bytes]) -> Any:
    """Magic number, version, description of the machine, object, names of storages, then each storage's bytes."""
    file.seek(0)
    types: dict[str, tuple[np.dtype, int]] = {}

    def load(storages: Mapping[str, bytes] | None = None) -> Any:
        return _LegacyUnpickler(file, storages, types).load()

    if load() != _LEGACY_MAGIC or load() != _LEGACY_VERSION:
        raise ValueError("neither of the two layouts of torch.save")
    machine = load()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("a big-endian PyTorch file is not supported")
    start = file.tell()
    load()
    keys = load()
    if not isinstance(keys, list) or set(keys) != set(types):
        raise ValueError("the list of storages does not fit the tensors")
    storages = {}
    for key in keys:
        dtype, expected = types[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != expected:
            raise ValueError(f"storage {key!r} has {count} elements, the tensors need {expected}")
        content = file.read(count * dtype.itemsize)
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"the file ends inside storage {key!r}")
        storages[key] = content
    file.seek(start)
    return load(storages)


def _find_state(saved: Any, path: Path, entry: str | None) -> Mapping[Any, Any]:
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, got {type(saved).__name__}")
    if entry is None:
        if all(isinstance(value, np.ndarray) for value in saved.values()):
            return saved
        found = [name for name in _STATE_DICT_ENTRIES if isinstance(saved.get(name), Mapping)]
        if not found:
            raise CheckpointError(f"{path}: no entry {' or '.join(_STATE_DICT_ENTRIES)}; there are {_names(saved)}")
        entry = found[0]
    state = saved.get(entry)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: no dictionary of tensors under {entry!r}; there are {_names(saved)}")
    return state


def _names(saved: Mapping[Any, Any]) -> Sequence[str]:
    return [str(key)[:40] for key in list(saved)[:12]]


# ------------------------------------------------------------------------------------------------ writing
#
# The pickle is assembled by hand: `pickle.dumps` could only name torch's functions by importing them.


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _integers(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(_integer(number) for number in numbers) + b"t"


def _tensor_item(key: str, value: np.ndarray, number: str, storage: str) -> bytes:
    """Key and value as dictionary items: _rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())."""
    strides = [int(np.prod(value.shape[axis + 1 :], dtype=np.int64)) for axis in range(value.ndim)]
    reference = b"(" + _text("storage") + f"ctorch\n{storage}\n".encode() + _text(number) + _text("cpu")
    reference += _integer(value.size) + b"tQ"
    arguments = reference + _integer(0) + _integers(value.shape) + _integers(strides) + b"\x89"
    arguments += b"ccollections\nOrderedDict\n)R"
    return _text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"
