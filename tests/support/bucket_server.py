"""Servers of buckets, with the project pointed at them: of S3, which fails now and then, and of Google Cloud Storage."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from annyfit_jax.store import locations
from experiments.studies.faulty_s3 import FaultyS3

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for kinds of buckets that no emulator has


@contextlib.contextmanager
def failing_server(share: float, lag_s: float = 0.0) -> Iterator[FaultyS3]:
    """A running server that fails this share of the requests, and whose listings lag; skips where it is not installed."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with FaultyS3(share=share, lag_s=lag_s) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            patch.setenv(name, value)
        patch.setattr(locations, "FIRST_PAUSE_S", 0.005)
        locations._fs_of.cache_clear()
        yield made
    locations._fs_of.cache_clear()


@contextlib.contextmanager
def gs_server() -> Iterator[str]:
    """A running emulator of Google Cloud Storage; gives the name of its bucket. Skips where it is not installed.

    The emulator does not know preconditions; that of a put which must not replace an object is added here.
    """
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")
    from gcp_storage_emulator import server
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    def insert(request: Any, response: Any, storage: Any) -> None:
        if request.query.get("ifGenerationMatch") == ["0"]:
            name = request.query.get("name", [request.data["meta"].get("name")])[0]
            with contextlib.suppress(NotFound):
                storage.get_file_obj(request.params["bucket_name"], name)
                response.status = HTTPStatus.PRECONDITION_FAILED
                return
        objects.insert(request, response, storage)

    made: Any = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    with pytest.MonkeyPatch.context() as patch:
        for _, handlers in server.HANDLERS:
            if handlers.get("POST") is objects.insert:
                patch.setitem(handlers, "POST", insert)
        made.start()
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{made._api._httpd.server_port}")
        patch.setenv("NO_GCE_CHECK", "true")  # nobody looks for credentials on the network
        locations._fs_of.cache_clear()
        try:
            yield "bucket"
        finally:
            made.stop()
    locations._fs_of.cache_clear()
