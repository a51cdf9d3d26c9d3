"""Workers of `experiments.benchmarks.benchmark`: one process per program under comparison, each driven by lines of JSON.

Every side gets a process of its own, pinned to the same cores, and does nothing until it is asked: what is compared shares
the machine, takes turns, and needs no common interpreter. Standard library only, so that any interpreter can run it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]


class WorkerError(RuntimeError):
    """A worker could not start, or a command in it failed; the message is its last words."""


class Stopwatch:
    """Process CPU time and wall time of a block, seconds, in `times`.

    On one core of a shared machine the CPU time is what the work costs; the wall time also has the neighbours in it.
    """

    def __init__(self, synchronise: Callable[[], Any] | None = None) -> None:
        self._synchronise = synchronise or (lambda: None)
        self.times: dict[str, float] = {}

    def __enter__(self) -> Stopwatch:
        self._synchronise()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._synchronise()
        self.times = {"cpu_s": time.process_time() - self._cpu, "wall_s": time.perf_counter() - self._wall}


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MB (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def serve(worker: Any) -> None:
    """Answer commands from stdin: `{"do": method, ...arguments}` -> the method's dict, one line each, until EOF.

    Whatever libraries print goes to stderr.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            name = request.pop("do")
            reply = {"peak_memory_mb": peak_memory_mb()} if name == "memory" else getattr(worker, name)(**request)
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


class Worker:
    """A worker process as the benchmark sees it: `worker("fit", scenes=[0])`. A context manager."""

    def __init__(
        self,
        module: str,
        *,
        python: str = sys.executable,
        cores: tuple[int, ...] = (),
        environment: dict[str, str] | None = None,
        log: str | Path = os.devnull,
    ) -> None:
        """
        Args:
          module: run as `python -m <module>` in the repository's root.
          cores: CPU cores it may use (Linux); empty: all.
          log: file that takes its stderr.
        """
        self.name = module.rpartition(".")[2]
        self.log = Path(log)
        pin = (
            f"import os; os.sched_setaffinity(0, {set(cores)!r});" if cores and hasattr(os, "sched_setaffinity") else ""
        )
        code = f"{pin}import runpy; runpy.run_module({module!r}, run_name='__main__')"
        threads = str(len(cores)) if cores else ""
        limits = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if threads else {}
        with open(log, "ab") as stderr:
            self._process = subprocess.Popen(
                [python, "-c", code],
                cwd=REPO,
                env={**os.environ, **limits, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                bufsize=1,
            )

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Run a command and wait for its reply. Raises WorkerError when it fails or the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            raise WorkerError(f"{self.name} ended with code {self._process.returncode}: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self.name}: {do}: {reply['error']}")
        return reply

    def _last_words(self) -> str:
        if not self.log.is_file():
            return "no message"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def close(self) -> None:
        """End the process: its input is closed, which is its signal to stop."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
