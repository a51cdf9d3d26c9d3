"""What several tests of the report are given."""

from __future__ import annotations

import pytest
from export_cases import make_job

from annyfit_jax.jobs.fit_source import FitSource, open_fits


@pytest.fixture(scope="package")
def fits(tmp_path_factory) -> FitSource:
    """A finished job of made-up fits."""
    return open_fits(make_job(tmp_path_factory.mktemp("job") / "job"))
