"""The optimizer: AdamW with warm-up and decay, matrices decayed; logit and classifier at rates of their own."""

from collections.abc import Hashable

import jax
import optax

from nuner_jax.config import OptimConfig
from nuner_jax.model.encoder import Params


def schedule(config: OptimConfig, peak: float, num_steps: int) -> optax.Schedule:
    """Learning rate by number of completed steps: linear warm-up to `peak`, then the configured decay to its final share."""
    warmup = max(1, round(config.warmup_fraction * num_steps))
    rest = max(1, num_steps - warmup)
    final = config.final_fraction * peak
    decay = {
        "linear": optax.linear_schedule(peak, final, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, decay], [warmup])


def optimizer(config: OptimConfig, num_steps: int) -> optax.GradientTransformation:
    """For the trained parameters as a nested dict; raises nothing, changes nothing outside what it is given."""

    def adamw(peak: float, weight_decay: float) -> optax.GradientTransformation:
        rate = schedule(config, peak, num_steps)
        return optax.adamw(rate, config.b1, config.b2, config.eps, weight_decay=weight_decay, mask=is_matrix)

    groups: dict[Hashable, optax.GradientTransformation] = {
        "encoder": adamw(config.learning_rate, config.weight_decay),
        "logit": adamw(config.logit_learning_rate, 0.0),
        "head": adamw(config.head_learning_rate, 0.0),
    }
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, optax.multi_transform(groups, group_of))


def group_of(params: Params) -> Params:
    """The name of each parameter's group."""
    names = {"text": "encoder", "concept": "encoder", "logit_scale": "logit", "logit_bias": "logit", "head": "head"}
    return jax.tree.map_with_path(lambda path, _: names[path[0].key], params)


def is_matrix(params: Params) -> Params:
    """True at kernels and embedding tables, which are decayed; biases of several axes are not."""
    return jax.tree.map_with_path(lambda path, x: x.ndim >= 2 and path[-1].key != "bias", params)
