"""Checkpoints of a run: its state and the place in its data, written by Orbax, complete or not at all.

Beside the state stand sums over its bits, so that a checkpoint that was damaged on the disk is known as such. Whoever reads
gets the newest checkpoint that is whole; what is newer is named in a warning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from annyfit_jax.training.training_state import TrainState, all_finite

_SUMS = "sums"
_PLACES = "places"
"""Places in the data of all processes, where process 0 writes alone."""


class DamagedCheckpoint(ValueError):
    """A checkpoint that does not hold what was written."""


class Checkpoints:
    """The checkpoints in a folder.

    With several processes it is one that all see, and each writes its part; or each has a folder of its own (`apart`), all with
    the same checkpoints: then process 0 writes everything, which is why states must be the same on every device.
    """

    def __init__(self, folder: str | Path, keep: int = 3, *, apart: bool = False) -> None:
        import orbax.checkpoint as ocp

        self._apart = apart
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=not apart)
        if apart:
            Path(folder).mkdir(parents=True, exist_ok=True)
            own = jax.process_index()
            options.multiprocessing_options = ocp.options.MultiprocessingOptions(own, {own}, f"process{own}")
        self._manager = ocp.CheckpointManager(Path(folder).resolve(), options=options)
        self._damaged: list[int] = []
        if apart and len({*map(tuple, _gathered(sorted(self._manager.all_steps())))}) > 1:
            raise ValueError(f"{folder}: the processes have read different checkpoints; start all of them again")

    @property
    def latest(self) -> int | None:
        """Steps done at the newest checkpoint; None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: Any | None = None) -> None:
        """Writes in the background; `data` is the Grain iterator."""
        import orbax.checkpoint as ocp
        from grain.checkpoint import CheckpointSave

        if self._apart:
            places = _gathered(data.get_state()) if data is not None else None
            if jax.process_index() == 0:
                state = _on_host(state)
                alone: dict[str, Any] = {
                    "state": ocp.args.StandardSave(state._asdict()),  # pyright: ignore
                    _SUMS: ocp.args.JsonSave(_sums(state)),  # pyright: ignore
                    _PLACES: ocp.args.JsonSave({"places": places}),  # pyright: ignore
                }
                self._manager.save(int(state.step), args=ocp.args.Composite(**alone))
            return
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
        if self._apart or jax.process_index() == 0:
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

        if self._apart:
            return self._restore_apart(step, state, data)
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
        _check(restored, step, checkpoint[_SUMS] if has_sums else None)
        return restored

    def _restore_apart(self, step: int, state: TrainState, data: Any | None) -> TrainState:
        import orbax.checkpoint as ocp

        parts: dict[str, Any] = {
            "state": ocp.args.StandardRestore(_on_host(state)._asdict()),  # pyright: ignore
            _SUMS: ocp.args.JsonRestore(),  # pyright: ignore
            _PLACES: ocp.args.JsonRestore(),  # pyright: ignore
        }
        checkpoint = self._manager.restore(step, args=ocp.args.Composite(**parts))
        restored = TrainState(**checkpoint["state"])
        _check(restored, step, checkpoint[_SUMS])
        if data is not None:
            places = checkpoint[_PLACES]["places"]
            if len(places or ()) != jax.process_count():
                raise ValueError(f"it is of {len(places or ())} processes, these are {jax.process_count()}")
            data.set_state(places[jax.process_index()])
        return jax.tree.map(lambda x, like: jax.make_array_from_process_local_data(like.sharding, x), restored, state)


def _check(restored: TrainState, step: int, sums: Any | None) -> None:
    """Raises DamagedCheckpoint where a state is not that of a step, or not what was written."""
    if int(restored.step) != step:
        raise DamagedCheckpoint(f"it holds step {int(restored.step)}")
    if sums is not None and sums != _sums(restored):
        raise DamagedCheckpoint("its values are not those that were written")
    if not bool(all_finite((restored.variables, restored.averaged))):
        raise DamagedCheckpoint("its variables are not finite")


def _on_host(state: TrainState) -> TrainState:
    """The values of arrays that are the same on every device."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), state)


def _gathered(here: Any) -> list[Any]:
    """JSON of every process, in their order."""
    from jax.experimental import multihost_utils

    content = np.frombuffer(json.dumps(here).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(content)))
    padded = np.zeros(int(np.max(lengths)), np.uint8)
    padded[: len(content)] = content
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(bytes(row[:length])) for row, length in zip(rows, np.ravel(lengths), strict=True)]


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
