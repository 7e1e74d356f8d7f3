"""The training step as a pure function, and the compiled programs of a run on a mesh."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from nuner_jax import optim, parallel
from nuner_jax.config import TrainConfig
from nuner_jax.errors import InputError
from nuner_jax.model.classifier import TokenClassifier
from nuner_jax.model.encoder import EncoderConfig, Params, init_params
from nuner_jax.model.losses import PLAIN
from nuner_jax.model.text_tower import Batch, Metrics, combine, partition
from nuner_jax.model.two_tower import TwoTower

Model = TwoTower | TokenClassifier
State = dict[str, Any]
"""{"params": nested dict, "opt_state": of the trained parameters, "step": completed updates}"""


def make_train_step(model: Model, tx: optax.GradientTransformation, seed: int) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """(state, batch) -> (state, metrics), pure: one update of the trained parameters; metrics are scalars."""

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        trained, frozen = partition(state["params"], model.is_trained)
        key = (
            jax.random.fold_in(jax.random.key(seed), state["step"]) if model.config.dropout or model.config.mention_mask else None
        )

        def loss_fn(trained: Params) -> tuple[jax.Array, Metrics]:
            return model.loss(combine(trained, frozen), batch, key)

        grads, metrics = jax.grad(loss_fn, has_aux=True)(trained)
        updates, opt_state = tx.update(grads, state["opt_state"], trained)
        trained: Params = optax.apply_updates(trained, updates)  # type: ignore[assignment]
        metrics["grad_norm"] = optax.tree.norm(grads)
        return {"params": combine(trained, frozen), "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return train_step


@dataclass(frozen=True)
class Program:
    """What a run compiles: everything that depends on config, encoder and mesh, and on no array."""

    model: Model
    tx: optax.GradientTransformation
    abstract_state: State  # jax.ShapeDtypeStruct with shardings
    train_step: Any  # jitted (state, batch) -> (state, metrics); the state is donated
    eval_step: Any  # jitted (params, batch) -> loss

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        encoder_config: EncoderConfig,
        mesh: Mesh,
        num_steps: int,
        mask_token_id: int | None = None,
        num_concepts: int | None = None,
    ) -> "Program":
        """`num_concepts` are those of the data, where it is known. Raises InputError where the config does not fit the encoder."""
        model = make_model(config, encoder_config, mesh, mask_token_id, num_concepts)
        tx = optim.optimizer(config.optim, num_steps)
        shapes = jax.eval_shape(lambda: fresh_state(model, tx, init_params(encoder_config, jax.random.key(0))))
        shardings = parallel.param_shardings(shapes, mesh)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
        replicated, batch = NamedSharding(mesh, P()), NamedSharding(mesh, parallel.BATCH)
        train_step = jax.jit(
            make_train_step(model, tx, config.seed),
            in_shardings=(shardings, batch),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        )
        eval_step = jax.jit(
            lambda params, batch: model.loss(params, batch)[1]["loss"],
            in_shardings=(shardings["params"], batch),
            out_shardings=replicated,
        )
        return cls(model, tx, abstract, train_step, eval_step)

    @property
    def freeze_concept(self) -> int | None:
        """What is frozen in the concept encoder; None: there is none."""
        return self.model.freeze_concept if isinstance(self.model, TwoTower) else None

    def init_state(self, encoder_params: Params) -> State:
        """The state before the first step, each array put where it lives."""
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state)
        make = jax.jit(lambda params: fresh_state(self.model, self.tx, params), out_shardings=shardings)
        return make(jax.tree.map(jnp.asarray, encoder_params))


def make_model(
    config: TrainConfig, encoder_config: EncoderConfig, mesh: Mesh, mask_token_id: int | None, num_concepts: int | None
) -> Model:
    """The model of the run's objective. Raises InputError."""
    if config.objective == "contrastive":
        return TwoTower.create(encoder_config, config.model, mesh, mask_token_id, config.loss)
    if config.loss != PLAIN:
        raise InputError("loss: its options belong to the contrastive objective, and objective is classification")
    if config.num_types < 1:
        raise InputError(f"num_types {config.num_types} is below 1")
    num_types = min(config.num_types, num_concepts or config.num_types)
    return TokenClassifier.create(encoder_config, config.model, mesh, mask_token_id, num_types)


def fresh_state(model: Model, tx: optax.GradientTransformation, encoder_params: Params) -> State:
    """The model from an encoder, an empty optimizer, step 0."""
    params = model.init(encoder_params)
    return {"params": params, "opt_state": tx.init(partition(params, model.is_trained)[0]), "step": jnp.int32(0)}
