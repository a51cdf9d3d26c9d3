"""The two bodies of these tests, made once."""

from __future__ import annotations

from pathlib import Path

import made_smplx
import pytest

from annyfit_jax.conversion.convertible import Convertible, convertible_anny, convertible_smplx
from body_models import smplx


@pytest.fixture(scope="session")
def body_file(tmp_path_factory) -> Path:
    """The made SMPL-X file."""
    return made_smplx.save(tmp_path_factory.mktemp("body") / "SMPLX_NEUTRAL.npz")


@pytest.fixture(scope="session")
def anny_body(load_anny) -> Convertible:
    return convertible_anny(load_anny())


@pytest.fixture(scope="session")
def smplx_body(body_file) -> Convertible:
    return convertible_smplx(smplx.load(body_file))
