"""The lifter as a `Regressor`: network, data, loss and config together."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from flax import nnx, struct
from jaxtyping import Array, Float, UInt32

from annyfit_jax.lifting import lifter_network, lifter_rig, lifter_weights
from annyfit_jax.lifting.lifter_config import LifterConfig
from annyfit_jax.lifting.lifter_network import Lifted
from annyfit_jax.regressors.lifter import lifter_losses, lifter_predictions, lifter_views
from annyfit_jax.regressors.lifter.lifter_bank import Bank, load_bank
from annyfit_jax.regressors.lifter.lifter_losses import LifterLoss
from annyfit_jax.regressors.lifter.lifter_views import LifterData, View
from annyfit_jax.training.protocol import Group, PredictOptions, Regressor
from body_models import anny


@struct.dataclass
class LifterConstants:
    """Bodies and poses."""

    rig: lifter_rig.LifterRig
    bank: Bank


@dataclass(frozen=True)
class LifterRegressor(Regressor[UInt32[Array, "rows"], Lifted]):
    """See `annyfit_jax.training.protocol.Regressor`. A row of a batch is a seed, from which `people` are drawn."""

    config: LifterConfig = field(default_factory=LifterConfig)
    data: LifterData = field(default_factory=LifterData)
    loss_config: LifterLoss = field(default_factory=LifterLoss)
    people: int = 48

    @property
    def score_threshold(self) -> float:
        """Everybody whose keypoints are given is a person."""
        return 0.0

    def init(self, key: jax.Array) -> nnx.State:
        """Variables to train from scratch."""
        return lifter_network.init(self.config, key)

    def constants(self) -> LifterConstants:
        """Anny's keypoints and the bank of poses. Raises FileNotFoundError, ValueError."""
        return LifterConstants(lifter_rig.load_rig(anny.load()), load_bank(self.data.bank))

    def views(self, constants: LifterConstants, batch: UInt32[Array, "rows"]) -> View:
        """The people of a batch of seeds."""
        drawn = jax.vmap(lambda seed: lifter_views.draw(self.data, constants.bank, jax.random.key(seed), self.people))(
            batch
        )
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)
        return lifter_views.look(self.data, constants.rig, flat)

    def loss(
        self, variables: nnx.State, constants: LifterConstants, batch: UInt32[Array, "rows"], key: jax.Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The terms of `lifter_losses.terms`. The seeds decide everything random: `key` is not used."""
        view = jax.lax.stop_gradient(self.views(constants, batch))
        lifted = lifter_network.bind(self.config, variables)(view.seen.features)
        return lifter_losses.terms(lifted, view, self.loss_config)

    def predict(self, variables: nnx.State, batch: Float[Array, "n F"], threshold: float = 0.0) -> Lifted:
        """Hypotheses of n people from their features (`lifter_features.see`)."""
        return lifter_network.bind(self.config, variables)(batch)

    def start_from(self, variables: nnx.State, path: str) -> nnx.State:
        """The variables of a file of weights (`lifter_weights`). Raises ValueError where it is of another network."""
        config, started, _ = lifter_weights.read_weights(path)
        if config != self.config:
            raise ValueError(f"{path}: weights of {config}, the config asks for {self.config}")
        return started

    def shipped_variables(self) -> nnx.State:
        """The weights of the installation. Raises ValueError where the config is of another network."""
        config, variables = lifter_weights.shipped_weights()
        if config != self.config:
            raise ValueError(f"the weights that ship are of {config}, the config asks for {self.config}")
        return variables

    def scene_predictor(
        self, variables: nnx.State, options: PredictOptions | None = None
    ) -> lifter_predictions.ScenePredictor:
        """See `lifter_predictions.ScenePredictor`."""
        return lifter_predictions.ScenePredictor(self.config, variables, options)

    def groups(self, variables: nnx.State) -> nnx.State:
        """All variables are trained with the full step size."""

        def group(_: object) -> Group:
            return "rest"

        flat = [(path, variable.replace(group(path))) for path, variable in nnx.to_flat_state(variables)]
        return nnx.from_flat_state(flat)
