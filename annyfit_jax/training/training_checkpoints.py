"""Checkpoints of a run: its state and the place in its data, written by Orbax, complete or not at all.

Beside the state stand sums over its bits, so that a checkpoint that was damaged on the disk is known as such. Whoever reads
gets the newest checkpoint that is whole; what is newer is named in a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from annyfit_jax.training.training_state import TrainState, all_finite

_SUMS = "sums"


class DamagedCheckpoint(ValueError):
    """A checkpoint that does not hold what was written."""


class Checkpoints:
    """The checkpoints in a folder."""

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(folder).resolve(), options=options)
        self._damaged: list[int] = []

    @property
    def latest(self) -> int | None:
        """Steps done at the newest checkpoint; None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: Any | None = None) -> None:
        """Writes in the background; `data` is the Grain iterator."""
        import orbax.checkpoint as ocp
        from grain.checkpoint import CheckpointSave

        parts: dict[str, Any] = {
            "state": ocp.args.StandardSave(state._asdict()),  # pyright: ignore
            _SUMS: ocp.args.JsonSave(_sums(state)),  # pyright: ignore
        }
        if data is not None:
            parts["data"] = CheckpointSave(data)  # pyright: ignore
        self._manager.save(int(state.step), args=ocp.args.Composite(**parts))

    def restore(self, state: TrainState, data: Any | None = None) -> TrainState:
        """The newest checkpoint that is whole; `state` gives shapes and places, and the iterator `data` is moved to where it
        was. Newer ones that cannot be read, or hold something else than was written, are named in a warning.

        Raises FileNotFoundError without a checkpoint, ValueError where none is whole or all are of another network.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise FileNotFoundError(f"{self._manager.directory}: no checkpoint")
        first: Exception | None = None
        self._damaged = []
        for step in steps:
            restored, error = None, None
            try:
                restored = self._restore(step, state, data)
            except Exception as caught:  # a damaged file makes Orbax raise whatever its parser meets first
                error = caught
            if restored is not None and _everywhere(error is None):
                if self._damaged:
                    logging.warning("%s: step %d is the newest that is whole", self._manager.directory, step)
                return restored
            first = first or error
            self._damaged.append(step)
            logging.warning(
                "%s: the checkpoint of step %d cannot be used (%s)", self._manager.directory, step, _first_line(error)
            )
        raise ValueError(
            f"{self._manager.directory}: none of the checkpoints of steps {', '.join(map(str, steps))} can be used by this "
            f"network; the newest: {_first_line(first)}"
        ) from first

    def set_damaged_aside(self) -> None:
        """Moves the checkpoints that the last `restore` could not use to `damaged/` beside the folder, so that their steps
        can be saved again."""
        if not self._damaged:
            return
        if jax.process_index() == 0:
            folder = Path(self._manager.directory)
            kept = folder.parent / "damaged"
            kept.mkdir(exist_ok=True)
            for step in self._damaged:
                place = next(kept / name for name in _names(str(step)) if not (kept / name).exists())
                (folder / str(step)).rename(place)
                logging.warning("%s: moved to %s", folder / str(step), place)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("damaged checkpoints")
        self._damaged = []
        self._manager.reload()

    def wait(self) -> None:
        """Returns once what was saved is on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being written."""
        self.wait()
        self._manager.close()

    def _restore(self, step: int, state: TrainState, data: Any | None) -> TrainState:
        import orbax.checkpoint as ocp
        from grain.checkpoint import CheckpointRestore

        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), state._asdict()
        )
        parts: dict[str, Any] = {"state": ocp.args.StandardRestore(shapes)}  # pyright: ignore
        # Older runs have no sums.
        has_sums = (Path(self._manager.directory) / str(step) / _SUMS).exists()
        if has_sums:
            parts[_SUMS] = ocp.args.JsonRestore()  # pyright: ignore
        if data is not None:
            parts["data"] = CheckpointRestore(data)  # pyright: ignore
        checkpoint = self._manager.restore(step, args=ocp.args.Composite(**parts))
        restored = TrainState(**checkpoint["state"])
        if int(restored.step) != step:
            raise DamagedCheckpoint(f"it holds step {int(restored.step)}")
        if has_sums and checkpoint[_SUMS] != _sums(restored):
            raise DamagedCheckpoint("its values are not those that were written")
        if not bool(all_finite((restored.variables, restored.averaged))):
            raise DamagedCheckpoint("its variables are not finite")
        return restored


def _sums(state: TrainState) -> dict[str, list[int]]:
    """Name of a leaf -> the sum of its 32-bit words, and the sum weighted by their places, both modulo 2^32."""
    leaves = jax.tree_util.tree_leaves_with_path(state._asdict())
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return {
        name: np.asarray(sums).tolist()
        for name, sums in zip(names, jax.device_get(_leaf_sums([leaf for _, leaf in leaves])), strict=True)
    }


@jax.jit
def _leaf_sums(leaves: list[jax.Array]) -> list[jax.Array]:
    def sums(leaf: jax.Array) -> jax.Array:
        words = _words(leaf)
        places = jnp.arange(1, words.size + 1, dtype=jnp.uint32)
        return jnp.stack([words.sum(dtype=jnp.uint32), (words * places).sum(dtype=jnp.uint32)])

    return [sums(jnp.asarray(leaf)) for leaf in leaves]


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of an array as unsigned 32-bit numbers; smaller types one to a number."""
    if leaf.dtype == jnp.bool_:
        return leaf.ravel().astype(jnp.uint32)
    bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32))
    return bits.ravel().astype(jnp.uint32)


def _everywhere(here: bool) -> bool:
    """Whether something holds in every process."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(np.min(multihost_utils.process_allgather(np.array(here))))


def _names(first: str) -> Any:
    yield first
    for k in range(2, 10_000):
        yield f"{first}_{k}"


def _first_line(error: Exception | None) -> str:
    return (
        "another process could not read it"
        if error is None
        else f"{type(error).__name__}: {error}".splitlines()[0][:300]
    )
