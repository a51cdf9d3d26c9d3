"""An S3 server on the loopback (moto, in memory) that fails as real ones do: 500s, slow-down answers, bodies that are cut, and
listings that lag: an object that was just put can be read, but is not in them yet.

with FaultyS3(share=0.05, lag_s=3.0) as server:
    os.environ |= server.environment
    ...                                   # s3://bucket/... is there
"""

from __future__ import annotations

import collections
import html
import logging
import random
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_INTERNAL = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>An internal error.</Message></Error>"


_LISTED = re.compile(
    rb"<(?:Contents|CommonPrefixes)>\s*<(Key|Prefix)>(.*?)</\1>.*?</(?:Contents|CommonPrefixes)>", re.DOTALL
)
"""An entry of a listing."""


class FaultyS3:
    """Use as a context."""

    def __init__(self, share: float = 0.0, seed: int = 0, bucket: str = "bucket", lag_s: float = 0.0) -> None:
        """Makes the server.

        Args:
          share: of the requests that fail, each in one of three ways.
          lag_s: for how long a new object is missing in listings.
        """
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
        self.share, self.bucket, self.lag_s = share, bucket, lag_s
        self.put_at: dict[str, float] = {}
        """Key -> when the object was first there, `time.monotonic()`."""
        self.requests: collections.Counter[str] = collections.Counter()
        """By method."""
        self.faults: collections.Counter[str] = collections.Counter()
        self._rng, self._lock = random.Random(seed), threading.Lock()
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        import urllib3

        share, self.share = self.share, 0.0
        urllib3.request("PUT", f"{self.url}/{self.bucket}")
        self.share = share
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _answer(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environment["REQUEST_METHOD"]
        with self._lock:
            self.requests[method] += 1
            fault = self._rng.choice(("500", "slow down", "cut")) if self._rng.random() < self.share else ""
            if fault == "cut" and method != "GET":
                fault = "500"
            if fault:
                self.faults[fault] += 1
        if fault in ("500", "slow down"):
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            status, body = ("500 Internal Server Error", _INTERNAL) if fault == "500" else ("503 Slow Down", _SLOW_DOWN)
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        path, query = environment["PATH_INFO"], environment.get("QUERY_STRING", "")
        if self.lag_s and method == "GET" and path.strip("/") == self.bucket:
            return self._lagging(environment, start_response)
        if method in ("PUT", "POST") and "uploadId" not in query:
            self.put_at.setdefault(path.lstrip("/").partition("/")[2], time.monotonic())
        elif method == "DELETE":
            self.put_at.pop(path.lstrip("/").partition("/")[2], None)
        parts = self._app(environment, start_response)
        return _cut(parts) if fault == "cut" else parts

    def _lagging(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """A listing without the objects, and folders of objects, that are new."""
        told: list[Any] = []
        body = b"".join(self._app(environment, lambda *arguments: told.append(arguments)))
        oldest = time.monotonic() - self.lag_s
        new = {key for key, put_at in self.put_at.items() if put_at > oldest}
        old = self.put_at.keys() - new

        def seen(match: re.Match[bytes]) -> bytes:
            key = urllib.parse.unquote_plus(html.unescape(match[2].decode()))
            hidden = key in new if match[1] == b"Key" else not any(name.startswith(key) for name in old)
            self.faults["listing"] += hidden
            return b"" if hidden else match[0]

        body = _LISTED.sub(seen, body)
        status, headers = told[0][:2]
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]


def _cut(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Half of a body, of which the head promised all."""
    body = b"".join(parts)
    yield body[: len(body) // 2]
