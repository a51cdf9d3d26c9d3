"""The state of a run and one step of it: gradient, clipping, AdamW by groups, average.

Variables are a flat dictionary, name -> array, whatever pytree the regressor has: that is what optimiser, average and
checkpoints work on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from annyfit_jax.training.protocol import Constants, Group, Regressor, Variables
from annyfit_jax.training.training_config import OptimiserConfig

DATA_AXIS = "data"
_COSINE_END = 0.01
"""Share of the step size that is left at the end of a cosine."""
Flat = dict[str, Array]


class TrainState(NamedTuple):
    """Everything that a step changes."""

    step: Int[Array, ""]
    """Steps done."""
    variables: Flat
    """Frozen ones included."""
    averaged: Flat
    """Exponential averages of the trained ones."""
    optimiser: Any


class Named(NamedTuple):
    """How flat variables make up the regressor's."""

    names: tuple[str, ...]
    structure: Any

    def pack(self, flat: Mapping[str, Any]) -> Variables:
        """The regressor's pytree."""
        return jax.tree.unflatten(self.structure, [flat[name] for name in self.names])


def flatten(tree: Any) -> tuple[dict[str, Any], Named]:
    """Name -> leaf of a pytree, and the way back."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = tuple(jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    if len(set(names)) != len(names):
        raise ValueError("two variables of the regressor have the same name")
    return {name: leaf for name, (_, leaf) in zip(names, leaves)}, Named(names, structure)


def groups_by_name(regressor: Regressor, variables: Variables) -> dict[str, Group]:
    """The group of each flat variable."""
    groups, names = flatten(variables)[0], flatten(variables)[1].names
    labels = dict(zip(names, jax.tree.leaves(regressor.groups(variables))))
    return {name: labels[name] for name in groups}


def schedule(config: OptimiserConfig) -> optax.Schedule:
    """Step size of the group `rest` by step: warm-up, then drops at the milestones, and half a cosine where asked for."""
    drops = optax.piecewise_constant_schedule(config.lr, dict.fromkeys(config.milestones, config.drop))
    factors: list[optax.Schedule] = [drops]
    if config.warmup_steps:
        factors.append(lambda step: jnp.minimum(1.0, (step + 1) / config.warmup_steps))
    if config.cosine_steps:
        factors.append(optax.cosine_decay_schedule(1.0, config.cosine_steps, _COSINE_END))
    if len(factors) == 1:
        return drops
    return lambda step: math.prod(factor(step) for factor in factors)


def optimiser(config: OptimiserConfig, groups: Mapping[str, Group]) -> optax.GradientTransformation:
    """Clipping over all variables, then AdamW with a step size for each group."""
    rate = schedule(config)

    def adamw(share: float) -> optax.GradientTransformation:
        # All variables of a group as one vector: hundreds of small updates take XLA minutes to compile.
        return optax.flatten(
            optax.adamw(lambda step: rate(step) * share, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
        )

    by_group: dict[Any, optax.GradientTransformation] = {
        "frozen": optax.set_to_zero(),
        "backbone": adamw(config.backbone),
        "rest": adamw(1.0),
    }
    # `optax.flatten` cannot make a vector of no variables.
    by_group = {name: transform for name, transform in by_group.items() if name in set(groups.values())}
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.multi_transform(by_group, dict(groups)))


def create(
    regressor: Regressor, variables: Variables, config: OptimiserConfig, mesh: jax.sharding.Mesh | None = None
) -> TrainState:
    """The state before the first step, on every device of the mesh (default: on one), in memory of its own."""
    groups = groups_by_name(regressor, variables)
    transform = optimiser(config, groups)

    def build(flat: Flat) -> TrainState:
        # Copies: the step gives its input's memory away, so nothing may stand in it twice.
        averaged = {name: jnp.copy(value) for name, value in flat.items() if groups[name] != "frozen"}
        return TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, flat), averaged, transform.init(flat))

    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(build, out_shardings=everywhere)(jax.device_get(flatten(variables)[0]))


Step = Callable[[TrainState, Constants, Any], tuple[TrainState, dict[str, Float[Array, ""]]]]


def make_step(
    regressor: Regressor, variables: Variables, config: OptimiserConfig, seed: int, mesh: jax.sharding.Mesh
) -> Step:
    """The compiled step `(state, constants, batch) -> (state, metrics)`; the memory of the optimiser's state is reused.

    State and constants are on every device, the batch is split over `DATA_AXIS`. Random numbers depend on seed and step.
    Metrics: `loss`, `gradient_norm` (before clipping), `skipped`, and the regressor's terms. A step whose loss, gradient or
    new variables are not finite changes nothing but the number of steps; `skipped` is 1 then, else 0.
    """
    _, named = flatten(variables)
    groups = groups_by_name(regressor, variables)
    transform = optimiser(config, groups)

    def step(
        optimiser_state: Any, state: TrainState, constants: Constants, batch: Any
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(flat: Flat) -> tuple[Array, Mapping[str, Array]]:
            return regressor.loss(named.pack(flat), constants, batch, key)

        (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables)
        before = optimiser_state
        updates, optimiser_state = transform.update(gradient, before, state.variables)
        flat: Any = optax.apply_updates(state.variables, updates)
        averaged = {name: config.ema * old + (1.0 - config.ema) * flat[name] for name, old in state.averaged.items()}
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(value) & jnp.isfinite(norm) & all_finite(updates)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)  # noqa: E731
        metrics = {"loss": value, "gradient_norm": norm, "skipped": 1.0 - good, **terms}
        moved = TrainState(
            state.step + 1, keep(flat, state.variables), keep(averaged, state.averaged), keep(optimiser_state, before)
        )
        return moved, metrics

    everywhere, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    # Only the few large vectors are given away: XLA's copy insertion takes minutes over a thousand reused buffers.
    compiled = jax.jit(
        step, in_shardings=(everywhere, everywhere, everywhere, split), out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )  # fmt: skip
    return lambda state, constants, batch: compiled(state.optimiser, state._replace(optimiser=None), constants, batch)


def all_finite(tree: Any) -> Array:
    """Whether every number in a pytree is finite: a boolean scalar."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)] or [jnp.array(True)]).all()


def data_mesh() -> jax.sharding.Mesh:
    """All devices of all processes along `DATA_AXIS`."""
    count = len(jax.devices())
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def on_devices(tree: Any, mesh: jax.sharding.Mesh, *, split: bool) -> Any:
    """Host arrays of this process on the devices: its part of a batch (`split`), or the same values everywhere."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS) if split else PartitionSpec())
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def inference_variables(state: TrainState, variables: Variables) -> Variables:
    """The averaged variables with the frozen ones, as the regressor wants them. `variables` gives the structure."""
    _, named = flatten(variables)
    return named.pack({**state.variables, **state.averaged})
