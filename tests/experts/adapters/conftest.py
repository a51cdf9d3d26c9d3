"""What the tests of adapters share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _seed(request):
    """Tiny models of PyTorch have the same random weights each time."""
    if "parity" in request.keywords:
        pytest.importorskip("torch").manual_seed(0)
