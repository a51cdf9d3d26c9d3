"""Places that are no disk: memory, and buckets whose servers fail."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from bucket_server import failing_server, gs_server

from annyfit_jax.store.locations import Location, place
from experiments.studies.faulty_s3 import FaultyS3


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with failing_server(share=0.1) as made:
        yield made


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    with gs_server() as bucket:
        yield f"gs://{bucket}"


@pytest.fixture(params=["memory", "s3", "gs"])
def bucket(request, tmp_path, monkeypatch) -> Location:
    """An empty folder, with an empty cache of what is fetched from it."""
    monkeypatch.setenv("ANNYFIT_CACHE", str(tmp_path / "cache"))
    if request.param == "gs":
        return place(request.getfixturevalue("gs")) / tmp_path.name
    if request.param == "memory":
        return place(f"memory://{tmp_path.name}-{os.getpid()}")
    return place(f"s3://{request.getfixturevalue('server').bucket}/{tmp_path.name}")
