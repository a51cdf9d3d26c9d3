"""What the experts that run in PyTorch share: loading with helpful errors, the device, batches that fit its memory."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import logging
from jaxtyping import UInt8

from annyfit_jax.records.files import sha256
from experts.checkpoint_licences import card_of
from experts.interfaces import Card, ExpertError, is_out_of_memory

INSTALL = "pip install -e '.[experts]', in the folder of this project"
_MEMORY_SHARE = 0.8
_LARGEST_BATCH = 64
_CPU_BATCH = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class TorchExpert:
    """Options of every model that is loaded through PyTorch."""

    checkpoint: str = ""
    """Hub id, or a folder that `save_pretrained` wrote."""
    revision: str = "main"
    """Branch, tag or commit on the hub. What it was when it was loaded goes into the dataset."""
    licence: str = ""
    """Of the checkpoint, where `experts.checkpoint_licences` does not know it."""
    device: str = field(default="auto", metadata={"decides": False})
    """`cuda:1`, `cpu`, ...; `auto`: a GPU where there is one, another one for each process of a machine."""
    dtype: str = "float32"
    """float32, bfloat16 or float16."""
    _model: Any = field(default=None, init=False, repr=False)
    _commit: str = field(default="", init=False, repr=False)
    _batches: Batches | None = field(default=None, init=False, repr=False)
    _process: int = field(default=0, init=False, repr=False)

    NAME = ""

    @property
    def card(self) -> Card:
        """The checkpoint, what of it was loaded, and its licence."""
        return card_of(self.NAME, self.checkpoint, self.version, self.licence)

    @property
    def version(self) -> str:
        """What was loaded: the hub's commit, or a checksum of a folder's files; before that, the revision asked for."""
        return self._commit or self.revision

    def place(self, process: int) -> None:
        """`process`: the number of this process, so that several on one machine take different GPUs."""
        self._process = process

    def load(self) -> None:
        """Loads the model onto the device. Raises ExpertError with the command that helps."""
        torch = import_torch(self.NAME)
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ExpertError(f"{self.NAME}: dtype: expected float32, bfloat16 or float16, got {self.dtype}")
        self._device = choose_device(self.device, self._process, torch.cuda.device_count())
        self._model = self._load_model().to(self._device).eval()
        config = getattr(self._model, "config", None)
        folder = Path(self.checkpoint)
        self._commit = checksum(folder) if folder.is_dir() else getattr(config, "_commit_hash", None) or ""
        self._batches = Batches(self._device)

    def close(self) -> None:
        """Lets go of the model and of the memory it held."""
        self._model = self._batches = None
        gc.collect()
        free_device_memory()

    def _load_model(self) -> Any:
        raise TypeError(f"{type(self).__name__} does not say how its model is loaded")

    def pretrained(self, kind: str, **options: Any) -> Any:
        """`transformers.<kind>.from_pretrained` of the checkpoint."""
        transformers = import_transformers(self.NAME)
        try:
            return getattr(transformers, kind).from_pretrained(self.checkpoint, revision=self.revision, **options)
        except ImportError as error:
            raise ExpertError(f"{self.NAME}: {error}; {INSTALL}") from error
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ExpertError(
                f"{self.NAME}: the checkpoint {self.checkpoint} (revision {self.revision}) cannot be loaded ({first}). "
                f"Where there is a network: hf download {self.checkpoint} --revision {self.revision}; else copy its folder "
                "here and name it with .checkpoint=FOLDER"
            ) from error

    def model(self, kind: str) -> Any:
        """`pretrained` of a model, in the chosen type."""
        import torch

        return self.pretrained(kind, dtype=getattr(torch, self.dtype))

    def tensors(self, batch: Any) -> dict[str, Any]:
        """The tensors of a processor's output on the device, floating ones in the model's type."""
        import torch

        wanted = getattr(torch, self.dtype)
        return {
            key: (value.to(self._device, wanted) if value.is_floating_point() else value.to(self._device))
            for key, value in batch.items()
            if isinstance(value, torch.Tensor)
        }

    def in_batches(self, items: Sequence[Item], function: Callable[[Sequence[Item]], Sequence[Result]]) -> list[Result]:
        """The function's results for all items, in batches that fit the device's memory, without gradients."""
        import torch

        assert self._batches is not None, "load() comes first"
        with torch.inference_mode():
            return self._batches.map(items, function)


def choose_device(wanted: str, process: int, num_gpus: int) -> str:
    """The device of a process: the wanted one, else a GPU by the process's number, else the CPU."""
    if wanted != "auto":
        return wanted
    return f"cuda:{process % num_gpus}" if num_gpus else "cpu"


def checksum(folder: Path) -> str:
    """Of the names and contents of a checkpoint's files: what a commit is for the hub."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return f"sha256:{digest.hexdigest()[:16]}"


class Batches:
    """Calls a function on batches of items of equal size, as large as the memory allows.

    The first batch is one item; what it needed at its peak, and what is free, decide the size of the next. Where memory runs
    out all the same, the batch is halved and stays so.
    """

    def __init__(self, device: str, meter: Meter | None = None) -> None:
        self.limit = _LARGEST_BATCH
        self._meter = meter or (CudaMeter(device) if device.startswith("cuda") else None)
        self.size = 1 if self._meter else _CPU_BATCH

    def map(self, items: Sequence[Item], function: Callable[[Sequence[Item]], Sequence[Result]]) -> list[Result]:
        """Results in the order of the items. Raises what the function raises, memory errors only for a single item."""
        results: list[Result] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + self.size]
            if self._meter:
                self._meter.start()
            try:
                made = function(batch)
            except Exception as error:
                if not is_out_of_memory(error) or len(batch) == 1:
                    raise
                self.limit = self.size = len(batch) // 2
                logging.warning("out of memory with %d items, now %d at a time", len(batch), self.size)
                gc.collect()
                free_device_memory()
                continue
            results += made
            if self._meter:
                used, free = self._meter.stop()
                fits = int(_MEMORY_SHARE * (free + used) / max(used / len(batch), 1.0))
                self.size = max(1, min(fits, self.limit))
        return results


class Meter:
    """How much memory a batch takes: `start` before it, `stop` after it gives (bytes at the peak, bytes free)."""

    def start(self) -> None:
        """Begins to measure."""

    def stop(self) -> tuple[int, int]:
        """(bytes the batch took at its peak, bytes free now)."""
        return 1, 0


class CudaMeter(Meter):
    """A CUDA device."""

    def __init__(self, device: str) -> None:
        self._device = device

    def start(self) -> None:
        """Begins to measure."""
        import torch

        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def stop(self) -> tuple[int, int]:
        """(bytes the batch took at its peak, bytes free now)."""
        import torch

        peak = torch.cuda.max_memory_allocated(self._device)
        # What the allocator holds without using it is free as well.
        idle = torch.cuda.memory_reserved(self._device) - peak
        return max(peak - self._before, 1), torch.cuda.mem_get_info(self._device)[0] + max(idle, 0)


def import_torch(expert: str) -> Any:
    """PyTorch. Raises ExpertError with the command that installs it."""
    try:
        import torch
    except ImportError:
        raise ExpertError(f"{expert} needs PyTorch and transformers: {INSTALL}") from None
    return torch


def import_transformers(expert: str) -> Any:
    """transformers. Raises ExpertError with the command that installs it."""
    import_torch(expert)
    try:
        import transformers
    except ImportError:
        raise ExpertError(f"{expert} needs transformers: {INSTALL}") from None
    transformers.utils.logging.set_verbosity_error()
    return transformers


def free_device_memory() -> None:
    """Gives cached memory back to the device, where PyTorch is loaded and has one."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def normalised(
    photos: Sequence[UInt8[np.ndarray, "H W 3"]],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    antialias: bool = True,
) -> Any:
    """Photos stretched to `size` (width, height), as a tensor (n, 3, h, w) of (pixel / 255 - mean) / std, float32.

    For models whose own image processor exists only on top of torchvision. Bilinear; `antialias` widens the filter where it
    shrinks.
    """
    import torch

    result = []
    for photo in photos:
        pixels = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))[None].float() / 255.0
        # Resizing is linear and keeps constants: its order with the normalisation does not matter.
        result.append(
            torch.nn.functional.interpolate(
                pixels, size[::-1], mode="bilinear", align_corners=False, antialias=antialias
            )
        )
    centre, spread = (torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    return (torch.cat(result) - centre) / spread
