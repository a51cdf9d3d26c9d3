"""The command `annyfit`: every program of this project by its name, `annyfit fit --input=...`.

This module stands beside the package `experiments` whose programs it runs, and loads that very package. So the command
also works in a folder of the user that has a folder called `experiments` of its own, wherever Python looks first.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """The console script. Exits with the code of the program that ran."""
    load_programs()
    from experiments import program

    program.front_door(sys.argv[1:])


def load_programs() -> None:
    """Makes `experiments` the package beside this file, whatever else on the path has that name."""
    folder = Path(__file__).resolve().parent / "experiments"
    spec = importlib.util.spec_from_file_location(
        "experiments", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["experiments"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main()
