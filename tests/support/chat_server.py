"""A chat server on this machine that says and does what a test tells it to."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

KEY = "sk-very-secret-0123456789"


class Server:
    """A chat server on this machine: `answer(request, count)` returns (code, headers, body) or does as it likes."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[Any, int], tuple[int, dict[str, str], bytes] | None] = lambda *_: (200, {}, said("{}"))
        self.active = self.most_active = 0
        lock, outer = threading.Lock(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    outer.active += 1
                    outer.most_active = max(outer.most_active, outer.active)
                    outer.requests.append(json.loads(body))
                    outer.headers.append({**dict(self.headers.items()), "path": self.path})
                    count = len(outer.requests)
                try:
                    try:
                        reply = outer.answer(self, count)
                    finally:  # before the answer is sent: whoever has it may ask the next question
                        with lock:
                            outer.active -= 1
                    if reply is not None:
                        code, headers, content = reply
                        self.send_response(code)
                        for name, value in {"Content-Length": str(len(content)), **headers}.items():
                            self.send_header(name, value)
                        self.end_headers()
                        self.wfile.write(content)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    self.close_connection = True

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def said(text: str, tokens: list[tuple[str, dict[str, float]]] | None = None, usage: int = 100) -> bytes:
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if tokens is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": float(np.log(others[token])),
                    "top_logprobs": [{"token": t, "logprob": float(np.log(p))} for t, p in others.items()],
                }
                for token, others in tokens
            ]
        }
    return json.dumps({"choices": [choice], "usage": {"total_tokens": usage}}).encode()
