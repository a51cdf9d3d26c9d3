"""A client of OpenAI-compatible chat servers (vLLM, SGLang, Ollama, hosted ones) that expects them to misbehave.

Every request has a deadline. Time-outs, cut or unreadable answers, 408, 409, 425, 429 and 5xx are tried again with growing
pauses (or after the pause the server asks for); other errors are not. Requests and tokens are counted against a budget. The
key comes from an environment variable, travels only in its header, only over https or to this machine, never across a redirect,
and is blanked out of every message.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from experts.interfaces import ExpertError

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""HTTP codes after which the same request may succeed."""
MAX_ANSWER_BYTES = 4 << 20
_LOCAL = {"localhost", "127.0.0.1", "::1"}


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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key must not follow a redirect to another machine."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


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
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ExpertError(f"words.url: expected http://HOST/v1 or https://HOST/v1, got {self.url!r}")
        if parts.username or parts.password:
            raise ExpertError(
                f"words.url: expected no user or password in it; the key belongs into {self.key_variable}"
            )
        if self._key() and parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise ExpertError(
                f"words.url: {self.key_variable} is set, and would go unencrypted to {parts.hostname}: use https, an ssh "
                "tunnel to this machine, or --set=words.key_variable= to send no key"
            )
        self._opener = urllib.request.build_opener(_NoRedirect)
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
                reason, after = str(failure), failure.after
                continue
            except _Refused as failure:
                raise ServerError(self._clean(str(failure))) from None
            self.budget.add(answer.get("usage"))
            return answer
        if not self._heard:
            raise ExpertError(
                self._clean(
                    f"no server answers at {self.url} ({reason}); start one, e.g. `vllm serve MODEL`, or set --set=words.url"
                )
            )
        raise ServerError(self._clean(f"no answer in {self.attempts} attempts; the last: {reason}"))

    def _pause(self, attempt: int, after: float | None) -> float:
        grown = min(self.first_pause_s * 2 ** (attempt - 1), self.longest_pause_s)
        # The random part keeps many clients from coming back at the same moment.
        return min(max(grown * (0.5 + self._random.random()), after or 0.0), self.longest_pause_s)

    def _attempt(self, content: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url.rstrip("/") + "/chat/completions", content, headers, method="POST")
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._opener.open(request, timeout=self.timeout_s) as response:
                self._heard = True
                return _json_object(_read(response, deadline))
        except urllib.error.HTTPError as error:
            self._heard = True
            text = _short(_read_quietly(error))
            if error.code in RETRIED:
                raise _Again(f"HTTP {error.code}: {text}", _retry_after(error.headers.get("Retry-After"))) from None
            raise _Refused(error.code, text) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise _Refused(0, f"the server's certificate is not trusted ({error.reason.verify_message})") from None
            raise _Again(f"{type(error.reason).__name__}: {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:  # time-outs, resets, cut bodies
            raise _Again(f"{type(error).__name__}: {error}") from None

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip() if self.key_variable else ""

    def _clean(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "[key]") if key else text


def _read(response: Any, deadline: float) -> bytes:
    """The body; the deadline holds for all of it, also where it trickles. Raises _Again, OSError."""
    parts, size = [], 0
    while True:
        if time.monotonic() > deadline:
            raise _Again("time-out while the answer was arriving")
        part = response.read1(1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise _Refused(200, f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    announced = response.headers.get("Content-Length")
    if announced is not None and announced.isdigit() and size < int(announced):
        raise _Again(f"the answer was cut: {size} of {announced} bytes")
    return b"".join(parts)


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise _Again(f"the answer is not JSON: {_short(data)}") from None
    if not isinstance(content, dict) or not isinstance(content.get("choices"), list) or not content["choices"]:
        raise _Again(f"the answer has no choices: {_short(data)}")
    return content


def _read_quietly(error: Any) -> bytes:
    try:
        return error.read(2000)
    except Exception:
        return b""


def _short(data: bytes) -> str:
    return " ".join(data.decode(errors="replace").split())[:200]


def _retry_after(value: str | None) -> float | None:
    """Seconds, or a date, as in RFC 9110 section 10.2.3."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
