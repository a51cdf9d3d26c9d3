"""Checkpoints of a run: its state and the place in its data, written by Orbax, complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from annyfit_jax.training.training_state import TrainState


class Checkpoints:
    """The checkpoints in a folder."""

    def __init__(self, folder: str | Path, keep: int = 3) -> None:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(Path(folder).resolve(), options=options)

    @property
    def latest(self) -> int | None:
        """Steps done at the newest checkpoint; None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data: Any | None = None) -> None:
        """Writes in the background; `data` is the Grain iterator."""
        import orbax.checkpoint as ocp
        from grain.checkpoint import CheckpointSave

        parts: dict[str, Any] = {"state": ocp.args.StandardSave(state._asdict())}  # pyright: ignore
        if data is not None:
            parts["data"] = CheckpointSave(data)  # pyright: ignore
        self._manager.save(int(state.step), args=ocp.args.Composite(**parts))

    def restore(self, state: TrainState, data: Any | None = None) -> TrainState:
        """The newest checkpoint; `state` gives shapes and places, and the iterator `data` is moved to where it was.

        Raises FileNotFoundError without a checkpoint, ValueError if it is of another network.
        """
        import orbax.checkpoint as ocp
        from grain.checkpoint import CheckpointRestore

        if self.latest is None:
            raise FileNotFoundError(f"{self._manager.directory}: no checkpoint")
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), state._asdict()
        )
        parts: dict[str, Any] = {"state": ocp.args.StandardRestore(shapes)}  # pyright: ignore
        if data is not None:
            parts["data"] = CheckpointRestore(data)  # pyright: ignore
        checkpoint = self._manager.restore(self.latest, args=ocp.args.Composite(**parts))
        return TrainState(**checkpoint["state"])

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()
