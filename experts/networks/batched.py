"""A network compiled for a few sizes of batch, its pictures shared out over the local devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from experts.networks import frozen_graph

CPU_SIZES = (1,)
"""On CPUs a batch costs as much as its pictures one by one, and every size costs a compilation."""
ACCELERATOR_SIZES = (4, 32)
Decode = Callable[[dict[str, Array]], Any]
Prepare = Callable[[Float[Array, "batch height width 3"]], Array]


class BatchedNetwork:
    """RGB pictures in, what `decode` makes of the network's outputs out, for any number of pictures."""

    def __init__(
        self, network: frozen_graph.Network, prepare: Prepare, decode: Decode, sizes: Sequence[int] | None = None
    ) -> None:
        """`prepare` takes (batch, height, width, 3) values of 0..255 to what the network wants; both are traced.

        `sizes` are pictures per device and call; the last batch of a call is filled up to the smallest that holds it.
        """
        devices = jax.local_devices()
        cpu = devices[0].platform == "cpu"
        self._sizes = [size * len(devices) for size in sizes or (CPU_SIZES if cpu else ACCELERATOR_SIZES)]
        mesh = Mesh(np.array(devices), ("picture",))
        self._pictures = NamedSharding(mesh, PartitionSpec("picture"))
        self._weights = jax.device_put(list(network.weights), NamedSharding(mesh, PartitionSpec()))
        graph, self._compiled = network.graph, set()
        self._name, self.shape = graph.name, graph.input_shape

        def program(weights: list[Array], pictures: Array) -> Any:
            return decode(frozen_graph.run(graph, weights, prepare(pictures.astype(jnp.float32))))

        self._program = jax.jit(program)

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "height width 3"]]) -> Any:
        """The decoded outputs, numpy, with the pictures as first axis; None for no pictures."""
        results, start = [], 0
        while start < len(pictures):
            left = len(pictures) - start
            size = next((size for size in self._sizes if size >= left), self._sizes[-1])
            part = np.stack(pictures[start : start + size])
            count = len(part)
            filled = (
                np.concatenate([part, np.zeros((size - count, *part.shape[1:]), part.dtype)]) if size > count else part
            )
            if size not in self._compiled:  # JAX compiles in the call
                logging.info(
                    "%s: compiling for %d %s at a time", self._name, size, "picture" if size == 1 else "pictures"
                )
                self._compiled.add(size)
            results.append((count, self._program(self._weights, jax.device_put(filled, self._pictures))))
            start += count
        if not results:
            return None
        parts = [jax.tree.map(lambda value, n=count: np.asarray(value)[:n], result) for count, result in results]
        return jax.tree.map(lambda *values: np.concatenate(values), *parts)
