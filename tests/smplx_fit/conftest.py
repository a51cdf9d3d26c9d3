"""The made SMPL-X file, and a child for it."""

from __future__ import annotations

from pathlib import Path

import made_smplx
import numpy as np
import pytest


@pytest.fixture(scope="session")
def made_file(tmp_path_factory) -> Path:
    """A SMPL-X file whose numbers mean something."""
    return made_smplx.save(tmp_path_factory.mktemp("body") / "SMPLX_NEUTRAL.npz")


@pytest.fixture(scope="session")
def made_child(made_file) -> Path:
    """Beside it the file of a child of the same topology."""
    path = made_file.parent / "smplx_kid_template.npy"
    np.save(path, made_smplx.kid_template())
    return path
