"""What several tests of fits are given."""

from __future__ import annotations

import pytest

from annyfit_jax.fit.keypoint_start import KeypointStarter
from body_models import anny


@pytest.fixture(scope="package")
def starter() -> KeypointStarter:
    return KeypointStarter(anny.load())
