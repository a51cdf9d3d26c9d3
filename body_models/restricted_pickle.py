"""Reading pickles of strangers without giving them the power to run code, to hang the reader or to fill the memory.

A pickle is a small program. The standard unpickler lets it call any importable object, hash what it likes and share
parts without bound. `load` interprets the same instructions with a fixed meaning of its own:

- A global is looked up in the caller's table of stand-ins and nowhere else; nothing is ever imported.
- A stand-in is a function that checks its arguments, or a subclass of `Stand`, whose instances live for one read. Nothing
  that outlives a read can be changed by one: BUILD reaches only instances that this pickle has made.
- A `Budget` counts instructions and bytes. It grows with the size of the file and has an absolute limit.
- A dictionary key or set member is a scalar or a small tuple of scalars, so that hashing it is cheap.
- The result is walked once (`finish`): stand-ins become numpy arrays, what is nested too deeply or contains itself is
  refused, and so is what would be huge if its shared parts were written out.

Whatever is wrong with a file, the one error that leaves is `ForeignFileError`. The tables: `CONTAINERS`, `NUMPY`,
`SCIPY_SPARSE`, and for tensors those of `body_models.torch_pickles`.
"""

from __future__ import annotations

import codecs
import contextlib
import copyreg
import io
import math
import mmap
import os
import pickle
import pickletools
import reprlib
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Protocol, cast

import numpy as np
import scipy.sparse

MAX_DEPTH = 64
"""Deepest nesting of containers in what a pickle holds."""
_MAX_KEY_PARTS = 100
_MAX_MATRIX_SIDE = 1 << 20


class ForeignFileError(pickle.UnpicklingError, ValueError):
    """A foreign file that is damaged, of another layout, larger than it may be, or that asks for more than data."""


class Stream(Protocol):
    """What a pickle is read from: `io.BytesIO`, `mmap.mmap`. A read beyond the end returns what there is."""

    def read(self, size: int | None = ..., /) -> bytes:
        """The next bytes, at most so many."""
        ...

    def seek(self, position: int, /) -> Any:
        """Goes on at this byte."""
        ...

    def readline(self) -> bytes:
        """The next bytes up to and with a line break."""
        ...

    def tell(self) -> int:
        """How many bytes were read."""
        ...


Names = Mapping[tuple[str, str], Any]
"""(module, name) as written in the pickle -> the stand-in."""


@dataclass
class Budget:
    """What reading one file may still cost. One budget serves all parts of a file."""

    memory: int
    """Bytes, estimated from above."""
    steps: int
    """Instructions, and values of the result when shared parts are counted as often as they occur."""

    @staticmethod
    def for_file(size: int) -> Budget:
        """For a file of `size` bytes: 128 MiB + 32 times the size, at most 32 GiB; 1e6 + 4 steps per byte, at most 5e7."""
        return Budget(min((128 << 20) + 32 * size, 32 << 30), min(1_000_000 + 4 * size, 50_000_000))

    def take(self, memory: int, steps: int = 0) -> None:
        """Spends. Raises ForeignFileError when the budget does not suffice."""
        self.memory -= memory
        self.steps -= steps
        if self.memory < 0 or self.steps < 0:
            what = "memory" if self.memory < 0 else "steps"
            raise ForeignFileError(f"refused: reading it takes more {what} than a file of its size may")


@contextlib.contextmanager
def foreign(what: str) -> Iterator[None]:
    """Turns whatever reading `what` raises into ForeignFileError. A file that is not there stays FileNotFoundError."""
    try:
        yield
    except (ForeignFileError, FileNotFoundError):
        raise
    except Exception as error:  # damaged bytes fail in zipfile, zlib, struct, numpy and elsewhere, in many ways
        text = (
            "" if isinstance(error, KeyError) else f": {str(error)[:200]}"
        )  # the text of a KeyError is the key's repr
        raise ForeignFileError(f"not a readable {what} ({type(error).__name__}{text})") from error


@contextlib.contextmanager
def mapped(path: str | Path) -> Iterator[Stream]:
    """The bytes of a regular file, mapped into memory. Raises OSError, and ForeignFileError for a pipe or a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ForeignFileError("not a regular file")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # cannot be mapped
            yield io.BytesIO()
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
            yield stream


def brief(value: Any) -> str:
    """A short text of any value, however it is nested, for messages."""
    return reprlib.repr(value)[:80]


# ------------------------------------------------------------------------------------------------ stand-ins


class Stand:
    """Takes the place of a foreign class. The default keeps arguments and state and cannot be turned into a value."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, None

    def build(self, state: Any) -> None:
        """The instruction BUILD: what `__setstate__` would get."""
        self.state = state

    def extend(self, items: list[Any]) -> None:
        """The instructions APPEND, ADDITEMS and SETITEMS, the last with keys and values in turn."""
        del items
        raise ForeignFileError("refused: items for an object that holds none")

    def parts(self) -> tuple[Any, ...]:
        """What `finish` needs finished first."""
        return ()

    def finish(self, *parts: Any) -> Any:
        """The value that the stand-in stands for, given its finished parts."""
        del parts
        raise ForeignFileError("refused: a value of unknown layout")


class Unknown(Stand):
    """Stands for an object of unknown class: takes any arguments, state and items, and keeps nothing."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __call__(self, *_: Any) -> Unknown:
        return self

    def build(self, state: Any) -> None:
        """Drops the state."""

    def extend(self, items: list[Any]) -> None:
        """Drops the items."""

    def finish(self, *parts: Any) -> Unknown:
        """Itself."""
        return self


@dataclass(frozen=True)
class ClassName:
    """Stands for a class that is only passed as an argument."""

    name: str


OBJECT = ClassName("object")


def reconstructor(kind: Any, base: Any = None, state: Any = None) -> Stand:
    """`copyreg._reconstructor`, how protocols 0 and 1 make an object: for stand-ins only."""
    del base, state
    if not (isinstance(kind, type) and issubclass(kind, Stand)):
        raise ForeignFileError("refused: only known classes may be reconstructed")
    return kind()


RECONSTRUCTOR: Names = MappingProxyType(
    {
        **{(module, "_reconstructor"): reconstructor for module in ("copy_reg", "copyreg")},
        **{(module, "object"): OBJECT for module in ("__builtin__", "builtins")},
    }
)
"""How protocols 0 and 1 make instances."""


# ------------------------------------------------------------------------------------------------ the interpreter

_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_INTEGERS = frozenset(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"))
_TEXTS = frozenset(
    ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES",
     "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
)  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MAKERS: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_SCALARS = (str, bytes, int, float, complex, type(None), np.generic)
_LEAVES = (*_SCALARS, slice, bytearray, set, frozenset, np.ndarray)


def load(
    stream: Stream | bytes,
    known: Names,
    *,
    budget: Budget | None = None,
    unknown: type[Unknown] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The content of the pickle at the stream's position: scalars, text, containers, numpy arrays.

    Args:
      stream: where the pickle starts. What follows it is not read.
      known: the stand-ins. Byte strings of Python 2 arrive as text in latin1.
      budget: what reading may cost. None: `Budget.for_file` of the bytes, which have to be given as such.
      unknown: the stand-in for every global that is not known. None: such a global is refused.
      persistent: called with the identifier of each object outside the pickle. None: these are refused.

    Raises: ForeignFileError.
    """
    if isinstance(stream, bytes):
        budget = budget or Budget.for_file(len(stream))
        stream = io.BytesIO(stream)
    assert budget is not None, "a stream needs a budget"
    return finish(interpret(stream, known, budget, unknown, persistent), budget, unknown)


def interpret(
    stream: Stream,
    known: Names,
    budget: Budget,
    unknown: type[Unknown] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """`load` without the last step: stand-ins are still in place, for layouts whose data follow the pickle."""
    with foreign("pickle"):
        return _Interpreter(stream, known, budget, unknown, persistent).run()


@dataclass
class _Interpreter:
    stream: Stream
    known: Names
    budget: Budget
    unknown: type[Unknown] | None
    persistent: Callable[[Any], Any] | None
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        count = 0
        while True:
            code = self.stream.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise ForeignFileError("the pickle ends too early" if not code else f"unknown instruction {code!r}")
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name == "STRING":
                argument: Any = _line_of_text(self.stream)
            else:
                argument = None if opcode.arg is None else opcode.arg.reader(cast(IO[bytes], self.stream))
            if name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
                raise ForeignFileError(f"refused: place {argument} of the memo after {count} instructions")
            count += 1
            self.step(name, argument)

    def step(self, name: str, argument: Any) -> None:
        push = self.stack.append
        if name in _INTEGERS:
            self.budget.take(32, 1)
            push(argument)
        elif name in _TEXTS:
            self.budget.take(56 + len(argument), 1)
            push(argument)
        elif name in _CONSTANTS:
            self.budget.take(8, 1)
            push(_CONSTANTS[name])
        elif name in _MAKERS:
            self.budget.take(64, 1)
            push(_MAKERS[name]())
        else:
            self.budget.take(16, 1)
            self.other(name, argument, push)

    def other(self, name: str, argument: Any, push: Callable[[Any], None]) -> None:
        stack = self.stack
        match name:
            case "MARK":
                self.budget.take(64)
                self.marks.append(stack)
                self.stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.pop_mark()
            case "POP_MARK":
                self.pop_mark()
            case "DUP":
                push(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.budget.take(64)
                size = int(name[-1])
                if len(stack) < size:
                    raise ForeignFileError("the pickle takes more than there is")
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                items = self.pop_mark()
                self.budget.take(64 + 100 * len(items) if name in ("DICT", "FROZENSET") else 64 + 8 * len(items))
                make = {"TUPLE": tuple, "LIST": list, "DICT": _pairs, "FROZENSET": _members}[name]
                made = make(items)
                self.stack.append(frozenset(made) if name == "FROZENSET" else made)
            case "APPEND" | "APPENDS" | "ADDITEMS" | "SETITEM" | "SETITEMS":
                if name == "SETITEM":
                    items = [stack.pop(-2), stack.pop()]
                else:
                    items = [stack.pop()] if name == "APPEND" else self.pop_mark()
                self.put_in(self.stack[-1], name, items)
            case "GLOBAL" | "STACK_GLOBAL":
                if name == "GLOBAL":
                    module, _, attribute = argument.partition(" ")
                else:
                    attribute, module = stack.pop(), stack.pop()
                push(self.find(module, attribute))
            case "EXT1" | "EXT2" | "EXT4":
                registry: Mapping[int, tuple[str, str]] = vars(copyreg)["_inverted_registry"]
                push(self.find(*registry.get(argument, ("the extension", str(argument)))))
            case "INST" | "OBJ":
                items = self.pop_mark()
                kind = self.find(*argument.split(" ", 1)) if name == "INST" else items.pop(0)
                self.call(kind, tuple(items))
            case "REDUCE" | "NEWOBJ" | "NEWOBJ_EX":
                if name == "NEWOBJ_EX" and stack.pop() and self.unknown is None:
                    raise ForeignFileError("refused: a call with named arguments")
                arguments, function = stack.pop(), stack.pop()
                self.call(function, arguments)
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Stand):
                    stack[-1].build(state)
                elif self.unknown is None and not isinstance(stack[-1], dict | list):  # of containers it is dropped
                    raise ForeignFileError(f"refused: state for an object of type {type(stack[-1]).__name__}")
            case "PERSID" | "BINPERSID":
                if self.persistent is None:
                    raise ForeignFileError("refused: the pickle refers to an object outside itself")
                push(self.persistent(argument if name == "PERSID" else stack.pop()))
            case "PROTO" | "FRAME":  # lengths of frames only help a reader that reads ahead
                pass
            case _:
                raise ForeignFileError(f"refused: instruction {name}")

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def put_in(self, target: Any, name: str, items: list[Any]) -> None:
        self.budget.take((8 if name.startswith("APPEND") else 100) * len(items))
        if isinstance(target, Stand) or (isinstance(target, list) and name in ("APPEND", "APPENDS")):
            target.extend(items)
        elif name == "ADDITEMS" and isinstance(target, set):
            target |= _members(items)
        elif name in ("SETITEM", "SETITEMS") and isinstance(target, dict):
            target.update(_pairs(items))
        else:
            raise ForeignFileError(f"refused: {name} for an object of type {type(target).__name__}")

    def find(self, module: Any, attribute: Any) -> Any:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise ForeignFileError("refused: a global whose name is no text")
        try:
            return self.known[module, attribute]
        except KeyError:
            if self.unknown is not None:
                return self.unknown
            raise ForeignFileError(f"refused: the pickle asks for the global {module}.{attribute}"[:200]) from None

    def call(self, function: Any, arguments: Any) -> None:
        if not callable(function) or not isinstance(arguments, tuple):
            raise ForeignFileError("refused: a call of something else than a known function")
        made = function(*arguments)
        self.budget.take(64 + _own_size(made))
        self.stack.append(made)


def _line_of_text(stream: Stream) -> str:
    """The argument of STRING: a quoted line with escapes. `pickletools` reads it as ASCII, Python 2 wrote any byte."""
    line = stream.readline()
    if len(line) < 3 or line[-1:] != b"\n" or line[:1] not in (b"'", b'"') or line[-2:-1] != line[:1]:
        raise ForeignFileError("a text without its quotes")
    return codecs.escape_decode(line[1:-2])[0].decode("latin1")  # pyright: ignore[reportAttributeAccessIssue]


def _own_size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, bytes | str | list | tuple):
        return 8 * len(value) if isinstance(value, list | tuple) else len(value)
    return 100 * len(value) if isinstance(value, dict | set | frozenset) else 0


def _members(items: list[Any]) -> set[Any]:
    for item in items:
        _check_key(item)
    return set(items)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise ForeignFileError("a dictionary entry without a value")
    _members(items[::2])
    return dict(zip(items[::2], items[1::2], strict=True))


def _check_key(key: Any) -> None:
    """Refuses keys whose hash could take long: shared nested tuples, and whole numbers made to collide."""
    if isinstance(key, str):
        return
    waiting, count = [key], 0
    while waiting:
        part = waiting.pop()
        count += 1
        if isinstance(part, tuple):
            waiting.extend(part[:_MAX_KEY_PARTS])
            count += len(part)
        elif type(part) is int and abs(part) >= 1 << 61:  # hash(n) is n modulo 2**61 - 1
            raise ForeignFileError("refused: a key that is too large a number")
        elif not isinstance(part, (*_SCALARS, frozenset, Stand)):  # members of a frozenset have been checked
            raise ForeignFileError(f"refused: a key of type {type(part).__name__}")
        if count > _MAX_KEY_PARTS:
            raise ForeignFileError("refused: a key of too many parts")


# ------------------------------------------------------------------------------------------------ from raw to values


def finish(raw: Any, budget: Budget, unknown: type[Unknown] | None = None) -> Any:
    """Replaces stand-ins by their values, shared ones once. Raises ForeignFileError for cycles and deep nesting."""
    with foreign("pickle"):
        return _finish(raw, budget, unknown, {}, 0)[0]


def _finish(
    value: Any, budget: Budget, unknown: type[Unknown] | None, done: dict[int, tuple[Any, Any, int]], depth: int
) -> tuple[Any, int]:
    """The value, and how many values it holds when shared parts are counted as often as they occur."""
    if isinstance(value, _LEAVES):
        return value, 1
    if isinstance(value, type | ClassName) or not isinstance(value, dict | list | tuple | Stand):
        if unknown is not None:
            return unknown(), 1
        raise ForeignFileError("refused: the pickle names a type or function where a value is expected")
    if id(value) in done:
        _, result, size = done[id(value)]
        budget.take(0, size)
        return result, size
    if depth > MAX_DEPTH:
        raise ForeignFileError(f"refused: content nested more than {MAX_DEPTH} deep or containing itself")
    if isinstance(value, dict):
        raw = list(value.values())
    else:
        raw = value.parts() if isinstance(value, Stand) else value
    below = [_finish(part, budget, unknown, done, depth + 1) for part in raw]
    budget.take(8 * len(below), 1 + len(below))
    parts = [part for part, _ in below]
    if isinstance(value, Stand):
        result: Any = value.finish(*parts)
        budget.take(_own_size(result))
    elif isinstance(value, dict):
        result = dict(zip(value, parts, strict=True))
    else:
        result = parts if isinstance(value, list) else tuple(parts)
    size = 1 + sum(count for _, count in below)
    done[id(value)] = (value, result, size)  # the value is kept alive: its id stays its own
    return result, size


# ------------------------------------------------------------------------------------------------ containers


def _dictionary(items: Any = ()) -> dict[Any, Any]:
    pairs = _sequence(items)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ForeignFileError("refused: a dictionary of something else than pairs")
    return _pairs([part for pair in pairs for part in pair])


def _sequence(items: Any = ()) -> list[Any]:
    if not isinstance(items, list | tuple | set | frozenset):
        raise ForeignFileError(f"refused: a container made from an object of type {type(items).__name__}")
    return list(items)


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(_sequence(items))


def _set(items: Any = ()) -> set[Any]:
    return _members(_sequence(items))


CONTAINERS: Names = MappingProxyType(
    {
        ("collections", "OrderedDict"): _dictionary,
        **{
            (module, name): function
            for module in ("builtins", "__builtin__")
            for name, function in (
                ("dict", _dictionary), ("list", _sequence), ("tuple", _tuple), ("set", _set), ("frozenset", _set),
            )
        },
    }
)  # fmt: skip
"""Containers that older protocols make by calls. Every dictionary comes back as `dict`."""


# ------------------------------------------------------------------------------------------------ numpy arrays
#
# numpy's own constructors believe what a pickle says of an array (a dtype whose state hides that it holds pointers,
# say). The stand-ins check first and hand numpy only bytes of the right length.

_ARRAY_CLASS = ClassName("numpy.ndarray")
_ELEMENT_KINDS = tuple("biufcSUO")


class _Dtype(Stand):
    """Stands for `numpy.dtype`: numbers, booleans, text, bytes and `object`; no fields, no subarrays."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        del align, copy
        super().__init__()
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or len(code) > 12 or code.lstrip("<>=|")[:1] not in _ELEMENT_KINDS:
            raise ForeignFileError(f"refused: pickled array type {brief(code)}")
        try:
            self.dtype = np.dtype(code)
        except TypeError as error:
            raise ForeignFileError(f"refused: pickled array type {code!r}") from error
        if self.dtype.names is not None or self.dtype.subdtype is not None:  # "u1,O" spells fields
            raise ForeignFileError(f"refused: pickled array type {code!r} with fields or subarrays")

    def build(self, state: Any) -> None:
        """(version, byte order, subarray, names, fields, item size, alignment, flags, ...): only the order is of use."""
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ForeignFileError("refused: pickled array type with fields or subarrays")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


def array_of(content: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray:
    """An array of numbers, booleans or text from its bytes, in native byte order. Raises ForeignFileError."""
    if isinstance(dtype, Stand):
        dtype = getattr(dtype, "dtype", None)
    if isinstance(content, str):  # bytes of a Python 2 pickle
        content = content.encode("latin1")
    if (
        not isinstance(dtype, np.dtype)
        or dtype.hasobject
        or not isinstance(shape, tuple)
        or not all(type(size) is int and size >= 0 for size in shape)
        or not isinstance(content, bytes | bytearray)
        or len(content) != math.prod(shape) * dtype.itemsize
    ):
        raise ForeignFileError(f"refused: content of a pickled array does not fit {brief(shape)} of {dtype}")
    if dtype.itemsize == 0:  # empty text: frombuffer refuses a width of 0
        return np.zeros(shape, dtype)
    if dtype.kind == "U":
        points = np.frombuffer(content, np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if (points > 0x10FFFF).any():  # numpy would fail later, when the text is used
            raise ForeignFileError("refused: text that is not Unicode")
    array = np.frombuffer(content, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))


class _Array(Stand):
    """Stands for an array that is filled by its state (version, shape, dtype, Fortran order, content)."""

    def build(self, state: Any) -> None:
        """Numbers are read here; objects have to be finished first."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise ForeignFileError("refused: pickled array of unknown layout")
        _, shape, pickled_type, fortran, content = state
        if not pickled_type.dtype.hasobject:
            self.state = array_of(content, pickled_type, shape, bool(fortran))
            return
        if not (
            isinstance(content, list)
            and isinstance(shape, tuple)
            and all(type(size) is int and size >= 0 for size in shape)
            and math.prod(shape) == len(content)
        ):
            raise ForeignFileError(f"refused: content of a pickled array does not fit {brief(shape)} of objects")
        self.state = (content, shape, bool(fortran))

    def parts(self) -> tuple[Any, ...]:
        """The objects."""
        return tuple(self.state[0]) if isinstance(self.state, tuple) else ()

    def finish(self, *parts: Any) -> np.ndarray:
        """The array."""
        if isinstance(self.state, np.ndarray):
            return self.state
        if self.state is None:
            raise ForeignFileError("refused: a pickled array without content")
        _, shape, fortran = self.state
        array = np.empty(len(parts), object)
        for index, part in enumerate(parts):
            array[index] = part
        return array.reshape(shape, order="F" if fortran else "C")


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
    del shape, code  # both are replaced by the state that follows
    if subtype is not _ARRAY_CLASS:
        raise ForeignFileError("refused: pickled array that is not a plain numpy array")
    return _Array()


def _scalar(pickled_type: Any, content: Any = b"") -> Any:
    if not isinstance(pickled_type, _Dtype) or not content:
        raise ForeignFileError("refused: pickled numpy number of unknown layout")
    return array_of(content, pickled_type, (), False)[()]


def _from_buffer(content: Any, pickled_type: Any, shape: Any, order: Any) -> np.ndarray:
    """How protocol 5 writes arrays with their bytes in the pickle."""
    return array_of(content, pickled_type, shape, order == "F")


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ForeignFileError("refused: byte string of unknown encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How protocols 0 to 2 write the content of an empty array: a call of `bytes` without arguments."""
    return b""


NUMPY: Names = MappingProxyType(
    {
        ("__builtin__", "bytes"): _no_bytes,
        ("numpy", "ndarray"): _ARRAY_CLASS,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
        **{
            (f"numpy.{core}.{module}", name): function
            for core in ("core", "_core")
            for module, name, function in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _from_buffer),
            )
        },
    }
)
"""What numpy 1 and 2 write for arrays and numbers, every protocol. Arrays come back in native byte order."""


def joblib_names(stream: Stream) -> Names:
    """The array wrapper of joblib, whose bytes stand in the stream itself, behind the wrapper."""

    class JoblibArray(Stand):
        def build(self, state: Any) -> None:
            if not isinstance(state, dict) or not isinstance(state.get("shape"), tuple):
                raise ForeignFileError("refused: a joblib array of unknown layout")
            dtype, shape = getattr(state.get("dtype"), "dtype", None), state["shape"]
            if not isinstance(dtype, np.dtype) or dtype.kind not in "fiub" or not all(type(n) is int for n in shape):
                raise ForeignFileError(f"refused: a joblib array of type {dtype}")
            if state.get("numpy_array_alignment_bytes") is not None:
                stream.read(stream.read(1)[0])
            content = stream.read(max(math.prod(shape) * dtype.itemsize, 0))
            self.state = array_of(content, dtype, shape, state.get("order") == "F")

        def finish(self, *parts: Any) -> Any:
            return self.state if isinstance(self.state, np.ndarray) else super().finish(*parts)

    return MappingProxyType({("joblib.numpy_pickle", "NumpyArrayWrapper"): JoblibArray})


# ------------------------------------------------------------------------------------------------ sparse matrices


class _Sparse(Stand):
    """Stands for scipy's csr, csc and coo matrices, which are pickled as their attributes."""

    layout = ""

    def parts(self) -> tuple[Any, ...]:
        """Shape, data and the two index arrays."""
        state = self.state if isinstance(self.state, dict) else {}
        if self.layout == "coo":
            indices = state.get("coords") or (state.get("row"), state.get("col"))
        else:
            indices = (state.get("indices"), state.get("indptr"))
        return state.get("_shape", state.get("shape")), state.get("data"), *indices

    def finish(self, *parts: Any) -> Any:
        """The matrix, with every index checked."""
        shape, data, *indices = parts
        if (
            not (isinstance(shape, tuple) and len(shape) == 2)
            or not all(isinstance(n, int | np.integer) and 0 < n <= _MAX_MATRIX_SIDE for n in shape)
            or len(indices) != 2
            or not all(isinstance(part, np.ndarray) and part.ndim == 1 for part in (data, *indices))
            or data.dtype.kind not in "fiub"
            or any(part.dtype.kind not in "iu" for part in indices)
        ):
            raise ForeignFileError(f"refused: a sparse matrix of shape {brief(shape)} and unknown layout")
        first, second = (part.astype(np.int64) for part in indices)
        if self.layout == "coo":
            return sparse_matrix(first, second, data, shape)
        count = shape[0] if self.layout == "csr" else shape[1]
        if len(second) != count + 1 or second[0] != 0 or second[-1] != len(first) or (np.diff(second) < 0).any():
            raise ForeignFileError("refused: a sparse matrix whose row starts do not fit")
        major = np.repeat(np.arange(count), np.diff(second))
        return sparse_matrix(*((major, first) if self.layout == "csr" else (first, major)), data, shape)


def sparse_matrix(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: Any) -> scipy.sparse.coo_array:
    """A matrix by its entries; those given twice add up. Raises ForeignFileError for an index outside the shape."""
    if not len(rows) == len(columns) == len(values):
        raise ForeignFileError("refused: a sparse matrix with arrays of different lengths")
    for index, size in ((rows, shape[0]), (columns, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise ForeignFileError(f"refused: a sparse matrix of shape {brief(shape)} with an index outside it")
    return scipy.sparse.coo_array((values, (rows, columns)), shape=(int(shape[0]), int(shape[1])))


def _scipy_names() -> dict[tuple[str, str], object]:
    names: dict[tuple[str, str], object] = {}
    for layout in ("csr", "csc", "coo"):
        kind = type(f"_{layout.title()}", (_Sparse,), {"layout": layout})
        for module in (f"scipy.sparse.{layout}", f"scipy.sparse._{layout}", "scipy.sparse"):
            names[module, f"{layout}_matrix"] = names[module, f"{layout}_array"] = kind
    return names


SCIPY_SPARSE: Names = MappingProxyType({**_scipy_names(), **RECONSTRUCTOR})
"""scipy's sparse matrices and arrays of two dimensions. They come back as `scipy.sparse.coo_array`."""
