"""A client of OpenAI-compatible chat servers (vLLM, SGLang, Ollama, hosted ones) that expects them to misbehave.

The protocol is urllib3's. Every attempt runs in a thread of its own and has a hard deadline: when it passes, the caller goes
on and the connection is shut down, whatever the server is dripping at that moment. Time-outs, cut or unreadable answers, 408,
409, 425, 429 and 5xx are tried again with growing pauses (or after the pause the server asks for); other errors are not.
Requests and tokens are counted against a budget.

The key comes from an environment variable, travels only in its header, only over https or to this machine, never across a
redirect, and is blanked out of everything that the server sends back. An http server is asked directly, whatever
`http_proxy` says; a proxy of the environment (`https_proxy`, `no_proxy`) only carries the encrypted connection to an https
server.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from experts.interfaces import ExpertError

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""HTTP codes after which the same request may succeed."""
MAX_ANSWER_BYTES = 4 << 20
_MAX_ERROR_BYTES = 1 << 16
_SHOWN_CHARACTERS = 200
BLANKED = "[key]"
"""What stands in place of the key wherever a server sent it back."""


class ServerError(RuntimeError):
    """A request that failed for good; concerns one picture."""


class BudgetError(ExpertError):
    """The budget is spent; what has been answered is kept."""


class _Refused(Exception):
    """A reply with an HTTP code that repeating does not change."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"HTTP {code}: {text}")
        self.code = code


class _Again(Exception):
    """A failure that may pass. `after`: seconds the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _TimeOut(Exception):
    """The deadline of an attempt has passed."""


@dataclass
class Budget:
    """What may be spent by one process; 0 = no limit. Thread-safe."""

    max_requests: int = 0
    max_tokens: int = 0
    requests: int = 0
    tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self) -> None:
        """Counts a request about to be sent. Raises BudgetError where none is left."""
        with self._lock:
            if self.max_requests and self.requests >= self.max_requests:
                raise BudgetError(
                    f"the budget of {self.max_requests} requests is spent; {_GO_ON.format('max_requests')}"
                )
            if self.max_tokens and self.tokens >= self.max_tokens:
                raise BudgetError(
                    f"the budget of {self.max_tokens} tokens is spent; {_GO_ON.format('max_total_tokens')}"
                )
            self.requests += 1

    def add(self, usage: Any) -> None:
        """Counts the tokens that an answer says it cost."""
        total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
        if isinstance(total, int) and total > 0:
            with self._lock:
                self.tokens += total


_GO_ON = "run the same command again with a larger --set=words.{}=N to go on, answers so far are kept"


@dataclass
class ChatClient:
    """Requests to one server."""

    url: str
    """Up to and without `/chat/completions`, e.g. http://localhost:8000/v1."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; no key is sent where it is not set."""
    timeout_s: float = 60.0
    """For one attempt, from connecting to the last byte."""
    attempts: int = 6
    first_pause_s: float = 1.0
    """Before the second attempt; doubled each time, up to `longest_pause_s`, with a random part."""
    longest_pause_s: float = 60.0
    budget: Budget = field(default_factory=Budget)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Raises ExpertError on a URL that cannot be used, or not with a key."""
        try:
            parts = urllib.parse.urlsplit(self.url)
            usable = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
            )
        except ValueError:
            usable, parts = False, urllib.parse.urlsplit("")
        if not usable or parts.query or parts.fragment:
            raise ExpertError(
                f"words.url: expected http://HOST/v1 or https://HOST/v1, got {self.without_key(repr(self.url))}"
            )
        if parts.username or parts.password:
            raise ExpertError(
                f"words.url: expected no user or password in it; the key belongs into {self.key_variable}"
            )
        if not 0 < self.timeout_s < threading.TIMEOUT_MAX:
            raise ExpertError(f"words.timeout_s: expected seconds above 0, got {self.timeout_s}")
        if self._key() and parts.scheme == "http" and not _is_this_machine(str(parts.hostname)):
            raise ExpertError(
                f"words.url: {self.key_variable} is set, and would go unencrypted to {parts.hostname}: use https, an ssh "
                "tunnel to this machine, or --set=words.key_variable= to send no key"
            )
        self._proxy = _https_proxy(str(parts.hostname)) if parts.scheme == "https" else ""
        self._random = random.Random()
        self._heard = False

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer to a chat completion request.

        Raises ServerError, BudgetError; ExpertError where nothing has ever answered at this URL.
        """
        reason, after = "", None
        for attempt in range(self.attempts):
            if attempt:
                self.sleep(self._pause(attempt, after))
            self.budget.take()
            try:
                answer = self._attempt(json.dumps(body).encode())
            except _Again as failure:
                reason, after = _short(str(failure)), failure.after
                continue
            except _Refused as failure:
                raise ServerError(_short(str(failure))) from None
            self.budget.add(answer.get("usage"))
            return answer
        if not self._heard:
            raise ExpertError(
                f"no server answers at {self.url} ({reason}); start one, e.g. `vllm serve MODEL`, or set --set=words.url"
            )
        raise ServerError(f"no answer in {self.attempts} attempts; the last: {reason}")

    def _pause(self, attempt: int, after: float | None) -> float:
        grown = min(self.first_pause_s * 2 ** (attempt - 1), self.longest_pause_s)
        # The random part keeps many clients from coming back at the same moment.
        return min(max(grown * (0.5 + self._random.random()), after or 0.0), self.longest_pause_s)

    def _attempt(self, content: bytes) -> dict[str, Any]:
        """One request. Raises _Again, _Refused; no later than `timeout_s` after the call."""
        exchange = _Exchange(
            self.url.rstrip("/") + "/chat/completions", self._headers(), content, self.timeout_s, self._proxy
        )
        try:
            code, headers, data = exchange.result()
        except _TimeOut:
            self._heard = self._heard or exchange.heard
            raise _Again(f"time-out: no whole answer within {self.timeout_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise _Refused(0, f"the server's certificate is not trusted ({error.verify_message})") from None
        except Exception as error:  # time-outs, resets, cut bodies, and whatever else is no HTTP
            self._heard = self._heard or exchange.heard
            raise _Again(self.without_key(f"{type(error).__name__}: {error}")) from None
        self._heard = True
        if code == 200:
            if len(data) > MAX_ANSWER_BYTES:
                raise _Refused(code, f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            return self._json_object(data)
        text = self._text(data)
        if code in RETRIED:
            raise _Again(f"HTTP {code}: {text}", _retry_after(headers.get("Retry-After")))
        raise _Refused(code, text)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _json_object(self, data: bytes) -> dict[str, Any]:
        """The answer with the key blanked out of every text in it. Raises _Again."""
        try:
            content = self._values_without_key(json.loads(data))
        except (ValueError, RecursionError):
            raise _Again(f"the answer is not JSON: {self._text(data)}") from None
        if not isinstance(content, dict) or not isinstance(content.get("choices"), list) or not content["choices"]:
            raise _Again(f"the answer has no choices: {self._text(data)}")
        return content

    def _values_without_key(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.without_key(value)
        if isinstance(value, list):
            return [self._values_without_key(entry) for entry in value]
        if isinstance(value, dict):
            return {self.without_key(name): self._values_without_key(entry) for name, entry in value.items()}
        return value

    def _key(self) -> str:
        """The key, empty where none is set. Raises ExpertError on one that no header can carry, without telling it."""
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise ExpertError(f"{self.key_variable}: expected a key of printable ASCII characters without blanks")
        return key

    def _text(self, data: bytes) -> str:
        """The beginning of what a server sent, for a message. The key goes before anything is shortened, and so does a
        part of it at the end of data that may have been cut there."""
        key, text = self._key(), data.decode(errors="replace")
        part = next((n for n in range(min(len(key), len(text)), 3, -1) if text.endswith(key[:n])), 0)
        return _short(self.without_key(text[: len(text) - part] + (BLANKED if part else "")))

    def without_key(self, text: str) -> str:
        """A text without the key, also where it was quoted for JSON or for a URL."""
        key = self._key()
        forms = (
            {key, json.dumps(key)[1:-1], key.replace("/", "\\/"), urllib.parse.quote(key, safe="")} if key else set()
        )
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, BLANKED)
        return text


# ------------------------------------------------------------------------------------------------ one exchange


class _Exchange:
    """A request and its answer, made by a thread that can be given up at any time."""

    def __init__(self, url: str, headers: Mapping[str, str], content: bytes, timeout_s: float, proxy: str) -> None:
        self.heard = False
        """Whether a status line and headers came back."""
        self._request = (url, dict(headers), content)
        self._timeout_s, self._proxy = timeout_s, proxy
        self._connections: list[HTTPConnection] = []
        self._lock, self._abandoned = threading.Lock(), False
        self._answer: tuple[int, Mapping[str, str], bytes] | None = None
        self._error: BaseException | None = None

    def result(self) -> tuple[int, Mapping[str, str], bytes]:
        """HTTP code, headers, body. Raises _TimeOut, and what the connection raises."""
        thread = threading.Thread(target=self._run, name="http", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            self._abandon()
            raise _TimeOut
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def watch(self, connection: HTTPConnection) -> None:
        """Called by every connection before it connects."""
        with self._lock:
            if self._abandoned:
                raise _TimeOut
            self._connections.append(connection)

    def _abandon(self) -> None:
        """Ends whatever the thread waits for: a socket that is shut down answers at once."""
        with self._lock:
            self._abandoned = True
            for connection in self._connections:
                if (open_socket := connection.sock) is not None:
                    # Not SSLSocket.shutdown: it takes the encryption away under the thread that reads.
                    with contextlib.suppress(OSError):
                        socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    def _run(self) -> None:
        url, headers, content = self._request
        _CURRENT.exchange = self
        try:
            with _pools(self._proxy) as pools:
                response = pools.urlopen(
                    "POST", url, body=content, headers=headers, redirect=False, retries=False, preload_content=False,
                    decode_content=False, timeout=urllib3.Timeout(self._timeout_s),
                )  # fmt: skip
                self.heard = True
                limit = MAX_ANSWER_BYTES + 1 if response.status == 200 else _MAX_ERROR_BYTES
                data = b""
                try:
                    data = _read(response, limit)
                except (urllib3.exceptions.HTTPError, OSError):
                    if response.status == 200:
                        raise
                self._answer = response.status, response.headers, data
        except BaseException as error:
            self._error = _cause(error)


_CURRENT = threading.local()
"""The exchange that the calling thread makes: how a connection that a pool has made finds it."""


class _PlainConnection(HTTPConnection):
    def connect(self) -> None:
        _CURRENT.exchange.watch(self)
        super().connect()


class _EncryptedConnection(HTTPSConnection):
    def connect(self) -> None:
        _CURRENT.exchange.watch(self)
        super().connect()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection  # pyright: ignore[reportAssignmentType]  # urllib3's own class fits no better


class _EncryptedPool(HTTPSConnectionPool):
    ConnectionCls = _EncryptedConnection  # pyright: ignore[reportAssignmentType]


def _pools(proxy: str) -> urllib3.PoolManager:
    """Connections for one exchange; no variable of the environment changes where they go."""
    pools = urllib3.ProxyManager(proxy, proxy_headers=_proxy_headers(proxy)) if proxy else urllib3.PoolManager()
    pools.pool_classes_by_scheme = {"http": _PlainPool, "https": _EncryptedPool}
    return pools


def _read(response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
    """The body, or its first `limit` bytes."""
    parts, size = [], 0
    while size < limit and (part := response.read(min(1 << 16, limit - size))):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _cause(error: BaseException) -> BaseException:
    """A certificate that is not trusted, where urllib3 has wrapped one; else the error itself."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            break
        if isinstance(seen, ssl.SSLCertVerificationError):
            return seen
        seen = next((a for a in seen.args if isinstance(a, BaseException)), None) or seen.__cause__ or seen.__context__
    return error


# ------------------------------------------------------------------------------------------------ small things


def _https_proxy(host: str) -> str:
    """The proxy that the environment names for https connections to a host, empty = none. Raises ExpertError."""
    proxy = urllib.request.getproxies().get("https", "")
    if not proxy or urllib.request.proxy_bypass(host) or _is_this_machine(host):
        return ""
    address = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urllib.parse.urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ExpertError("https_proxy: expected http://HOST:PORT or https://HOST:PORT, or set no_proxy for the server")
    return address


def _proxy_headers(proxy: str) -> dict[str, str] | None:
    parts = urllib.parse.urlsplit(proxy)
    if parts.username is None:
        return None
    user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    return urllib3.make_headers(proxy_basic_auth=f"{user}:{password}")


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _short(text: str) -> str:
    """A line of at most `_SHOWN_CHARACTERS` that a terminal shows as it is."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())[:_SHOWN_CHARACTERS]
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date, as in RFC 9110 section 10.2.3; None where it is neither."""
    if value is None or len(value) > 64:
        return None
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", value.strip(" \t")):
        return float(value)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except Exception:  # on odd texts the parser of dates fails in many ways
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
