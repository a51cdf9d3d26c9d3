"""Where the modules of version 0.1 are now, for config files that still import them by their old names."""

from __future__ import annotations

import ast
import importlib.resources
import json
from collections.abc import Mapping


def moved_modules() -> Mapping[str, str]:
    """New names of modules by their old names, as `docs/migration.md` lists them."""
    return json.loads((importlib.resources.files("annyfit_jax") / "data" / "moved_modules.json").read_text())


def old_imports(source: str) -> list[str]:
    """What a Python file imports by a name of version 0.1: `line 3 imports annyfit_jax.config, which is ... now`.

    Raises SyntaxError where the file is no Python.
    """
    moved = moved_modules()
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        lines += [f"line {node.lineno} imports {name}, which is {moved[name]} now" for name in names if name in moved]
    return lines
