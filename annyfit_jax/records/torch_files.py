"""State dicts in PyTorch files, read and written without PyTorch and without executing the pickle inside.

    arrays = read_state_dict("aios_checkpoint.pth")
    write_state_dict("converted.pth", arrays)

Training programs store more than weights (options, optimiser states, classes of their own). Everything that is not
known data becomes an inert placeholder: nothing is imported or called, and a placeholder where a tensor was asked for is
an error. Both layouts of `torch.save` are read: the zip archive (since 1.6) and the older stream of pickles. So are
safetensors files, which hold tensors alone (`safetensors_files`).
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.records.files import replacing
from annyfit_jax.records.safetensors_files import is_safetensors, read_tensors
from body_models import torch_pickles
from body_models.restricted_pickle import NUMPY, Budget, ForeignFileError, Names, Unknown, brief, mapped

_KNOWN: Names = {**NUMPY, **torch_pickles.TORCH}

_STATE_DICT_ENTRIES = ("model", "state_dict", "model_state_dict")
"""Where training programs put the weights, in order of preference."""

_DISTRIBUTED_PREFIX = "module."


class CheckpointError(ValueError):
    """A file that is not what was expected; the message names file, entry and expectation."""


def read_state_dict(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch checkpoint by name.

    Args:
      path: file written by `torch.save`, or a safetensors file; the content decides, not the name.
      entry: key of the state dict in the saved dictionary ("ema_model", say). None: the saved object itself if all its
        values are tensors, else its entry "model" or "state_dict".

    Returns:
      Name -> array in the stored type and in PyTorch's layout; the prefix of distributed training is taken off.

    Raises: CheckpointError if the file cannot be read as one, has no such entry, or the entry holds other things.
    """
    path = Path(path)
    try:
        with mapped(path) as stream, path.open("rb") as file:
            size = path.stat().st_size
            budget = Budget.for_file(size)
            if is_safetensors(stream):
                saved = read_tensors(stream, size, budget)
            elif zipfile.is_zipfile(file):
                saved = torch_pickles.read_zip(file, _KNOWN, budget, Unknown)
            else:
                saved = torch_pickles.read_stream(stream, _KNOWN, budget, Unknown)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    except ForeignFileError as error:
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({error})") from error
    state = _find_state(saved, path, entry)
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{path}: {brief(key)} should be a named tensor, got {type(value).__name__}")
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
    names = {dtype: name for name, dtype in torch_pickles.ELEMENT_TYPES.items()}
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


def _find_state(saved: Any, path: Path, entry: str | None) -> Mapping[Any, Any]:
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, got {type(saved).__name__}")
    if entry is None:
        if all(isinstance(value, np.ndarray) for value in saved.values()):
            return saved
        entries = [name for name in _STATE_DICT_ENTRIES if isinstance(saved.get(name), Mapping)]
        if not entries:
            raise CheckpointError(f"{path}: no entry {' or '.join(_STATE_DICT_ENTRIES)}; there are {_names(saved)}")
        entry = entries[0]
    state = saved.get(entry)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: no dictionary of tensors under {entry!r}; there are {_names(saved)}")
    return state


def _names(saved: Mapping[Any, Any]) -> Sequence[str]:
    return [brief(key)[:40] for key in list(saved)[:12]]


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
