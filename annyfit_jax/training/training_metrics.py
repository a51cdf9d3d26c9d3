"""Metrics of a run: `metrics.jsonl` with a line per logged step, TensorBoard where asked for, and the speed of the run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from annyfit_jax.records.encoded_pictures import encoded
from annyfit_jax.records.files import write_bytes

TIMING = ("seconds", "images_per_second", "tflops", "mfu")
"""Entries of a line that differ from run to run."""

PEAK_TFLOPS = {
    "NVIDIA H100": 989.0, "NVIDIA H200": 989.0, "NVIDIA A100": 312.0, "NVIDIA L4": 121.0, "TPU v4": 275.0,
    "TPU v5 lite": 197.0, "TPU v5e": 197.0, "TPU v5p": 459.0, "TPU v6 lite": 918.0,
}  # fmt: skip
"""Dense bfloat16 peak of a device by the beginning of its name, from the vendors' data sheets, 10^12 operations a second."""


def peak_tflops(device_kind: str) -> float | None:
    """The peak of a device; None where it is not known (CPUs)."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if device_kind.startswith(name)), None)


class Log:
    """Writes metrics. Only the first process writes files."""

    def __init__(self, folder: str | Path, *, first_step: int = 0, tensorboard: bool = False) -> None:
        """`first_step`: steps done at the checkpoint from which the run continues; later lines are dropped."""
        self.path = Path(folder) / "metrics.jsonl"
        self._writes = jax.process_index() == 0
        self._board: Any = None
        if not self._writes:
            return
        kept = [line for line in read(self.path) if line["step"] <= first_step]
        write_bytes(self.path, b"".join(_encoded(line) for line in kept))
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                raise ValueError("TensorBoard needs the package tensorboardX: pip install tensorboardX") from None

            self._board = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line."""
        if not self._writes:
            return
        with self.path.open("ab") as file:
            file.write(_encoded({"step": step, **values}))
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def pictures(self, step: int, drawn: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
        """Writes pictures/<step>_<k>.jpg beside the metrics."""
        if not self._writes:
            return
        for index, picture in enumerate(drawn):
            write_bytes(self.path.parent / "pictures" / f"{step:07d}_{index}.jpg", encoded(picture))
            if self._board is not None:
                self._board.add_image(f"pictures/{index}", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Ends TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that was cut off is left out. None where there is no file."""
    path = Path(path)
    lines = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _encoded(line: Mapping[str, Any]) -> bytes:
    """A line of JSON, which knows no NaN: numbers that are not finite become null."""
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in line.items()}
    return (json.dumps(finite, allow_nan=False) + "\n").encode()


class Clock:
    """Images and operations per second since the last look."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._images, self._flops = 0, 0.0

    def add(self, images: int, flops: float) -> None:
        """Counts a step."""
        self._images += images
        self._flops += flops

    def look(self) -> dict[str, float]:
        """`TIMING` of the steps since the last look; `mfu` is the share of the devices' peak, where that is known."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        tflops = self._flops / seconds / 1e12
        timing = {"seconds": seconds, "images_per_second": self._images / seconds, "tflops": tflops}
        devices = jax.devices()
        peak = peak_tflops(devices[0].device_kind)
        if peak is not None:
            timing["mfu"] = tflops / (peak * len(devices))
        self.__init__()
        return timing
