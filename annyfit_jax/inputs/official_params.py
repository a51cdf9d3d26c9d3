"""Fits saved by the official Anny-Fit program (`version_<stem>/params.npz`), read without PyTorch.

The file is an `.npz` whose entries "0", "1", ... are pickled dictionaries of tensors, each with its storage inside; the
stand-ins for PyTorch's names are those of `body_models.torch_pickles`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from annyfit_jax.people.scene import SceneError
from annyfit_jax.records.npz import PLAIN_PICKLES, open_npz
from body_models.restricted_pickle import Budget
from body_models.torch_pickles import embedded_names


def read_official_params(path: str) -> dict[str, dict[str, Any]]:
    """The people of a saved fit: {"0": {"root_rotation_params": (1, 3), "body_pose_params": (162, 3), ...}, ...}.

    Tensors become numpy arrays, lists of labels stay lists. Frame and units are the release's: camera space, metres,
    radians; the translation places the root bone. Raises SceneError on anything that is not such a file.
    """
    budget = Budget.for_file(Path(path).stat().st_size if Path(path).is_file() else 0)
    with open_npz(path, {**PLAIN_PICKLES, **embedded_names(budget)}) as npz:
        people: dict[str, dict[str, Any]] = {}
        for key in npz.keys():  # noqa: SIM118 (not a mapping)
            content = npz.read(key)
            content = content.reshape(-1)[0] if isinstance(content, np.ndarray) and content.size == 1 else content
            if not isinstance(content, dict):
                raise SceneError(f"{npz.where(key)}: expected a dictionary of parameters")
            people[key] = content
    if not people:
        raise SceneError(f"{path}: expected one entry per person, got none")
    return people
