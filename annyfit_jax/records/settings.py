"""Settings as data: frozen dataclasses, loaded from the `get_config()` of a Python file, changed by `--set=path=value`.

Every config is hashable (a static argument of `jit`) and has a JSON form and a content hash, which name a job's results.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax.core import FrozenDict

from annyfit_jax.records.moved_modules import old_imports


def table(**entries: float) -> FrozenDict[str, float]:
    """A hashable name -> number table."""
    return FrozenDict(entries)


Kind = typing.TypeVar("Kind")


def run_get_config(path: str | Path, kind: type[Kind]) -> Kind:
    """What the `get_config()` of a Python file returns.

    Raises FileNotFoundError, and ValueError where that is no `kind` or the file imports a module by an old name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--config={path}: no such file; the shipped ones are experiments/configs/*.py")
    spec = importlib.util.spec_from_file_location(f"annyfit_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:
        if moves := old_imports(path.read_text(encoding="utf-8")):
            raise ValueError(f"--config={path}: {'; '.join(moves)}; docs/migration.md lists all moves") from None
        raise
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config={path}: the file must define get_config() -> {kind.__name__}")
    config = module.get_config()
    if not isinstance(config, kind):
        raise ValueError(f"--config={path}: get_config() returned {type(config).__name__}, expected {kind.__name__}")
    return config


def apply_overrides(config: Kind, assignments: Iterable[str]) -> Kind:
    """Return the config with `path=value` assignments applied.

    A path walks fields, table keys, and stages by name or index: `stages.pose.lr.pose=0.002`. Assigning a number to a
    stage's `lr` sets every free group of it. Raises ValueError that names the first step of the path that does not exist.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set={assignment}: expected path=value")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False}.get(text.lower(), text)
        config = _assign(config, path.split("."), value, assignment)
    return config


def _assign(node: Any, path: list[str], value: Any, assignment: str) -> Any:
    if not path:
        return _coerce(node, value, assignment)
    key, rest = path[0], path[1:]
    if isinstance(node, FrozenDict):
        if rest and key not in node:
            raise ValueError(f"--set={assignment}: no entry {key!r}; there are {sorted(node)}")
        if rest:
            raise ValueError(f"--set={assignment}: {rest[0]!r} cannot be looked up in {node[key]!r}")
        number = _coerce(0.0, value, assignment)
        return FrozenDict({**node, key: number})
    if isinstance(node, tuple):
        names = [getattr(item, "name", str(i)) for i, item in enumerate(node)]
        if key in names:
            index = names.index(key)
        elif key.isdigit() and int(key) < len(node):
            index = int(key)
        else:
            raise ValueError(f"--set={assignment}: no item {key!r}; there are {names}")
        return (*node[:index], _assign(node[index], rest, value, assignment), *node[index + 1 :])
    if dataclasses.is_dataclass(node):
        names = [f.name for f in dataclasses.fields(node)]
        if key not in names:
            raise ValueError(f"--set={assignment}: {type(node).__name__} has no field {key!r}; it has {names}")
        return dataclasses.replace(
            typing.cast(Any, node), **{key: _assign(getattr(node, key), rest, value, assignment)}
        )
    raise ValueError(f"--set={assignment}: {key!r} cannot be looked up in {node!r}")


def _coerce(old: Any, value: Any, assignment: str) -> Any:
    if isinstance(old, FrozenDict):
        if isinstance(value, dict):
            return FrozenDict({str(k): float(v) for k, v in value.items()})
        return FrozenDict(dict.fromkeys(old, _coerce(0.0, value, assignment)))
    if isinstance(old, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(old, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(old, float):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(old, tuple):
        if isinstance(value, list | tuple):
            return tuple(value)
    elif isinstance(value, type(old)):
        return value
    expected = f"a list like {list(old) or [1, 2]}" if isinstance(old, tuple) else type(old).__name__
    raise ValueError(f"--set={assignment}: expected {expected}, got {value!r}")


def to_json(config: Any) -> dict:
    """The resolved config as plain JSON data (written beside every result)."""
    return json.loads(json.dumps(_plain(config)))


def from_plain(kind: Any, data: Any, path: str) -> Any:
    """The inverse of `to_json`: a `kind` from plain data.

    Raises ValueError that names the field which is missing, unknown or of the wrong kind.
    """
    if dataclasses.is_dataclass(kind):
        names = {f.name for f in dataclasses.fields(kind)}
        if not isinstance(data, dict) or set(data) != names:
            got = sorted(set(data) ^ names) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{path}: expected the fields of {typing.cast(Any, kind).__name__}; these differ: {got}")
        hints = typing.get_type_hints(kind)
        return typing.cast(Any, kind)(**{n: from_plain(hints[n], data[n], f"{path}.{n}") for n in names})
    origin = typing.get_origin(kind) or kind
    if origin is tuple and isinstance(data, list):
        item = typing.get_args(kind)[0]
        return tuple(from_plain(item, value, f"{path}.{i}") for i, value in enumerate(data))
    if origin is FrozenDict and isinstance(data, dict):
        return table(**{name: from_plain(float, value, f"{path}.{name}") for name, value in data.items()})
    if origin is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if origin in (bool, int, str) and type(data) is origin:
        return data
    raise ValueError(f"{path}: expected {origin.__name__}, got {data!r}")


def _plain(node: Any) -> Any:
    if dataclasses.is_dataclass(node):
        return {f.name: _plain(getattr(node, f.name)) for f in dataclasses.fields(node)}
    if isinstance(node, FrozenDict):
        return {k: node[k] for k in sorted(node)}
    if isinstance(node, tuple):
        return [_plain(item) for item in node]
    return node


def config_hash(config: Any) -> str:
    """16 hex digits of the config's content."""
    return hashlib.sha256(json.dumps(to_json(config), sort_keys=True).encode()).hexdigest()[:16]
