"""Model FLOPs of training, counted from the encoder's shape: what the mathematics needs, not what a program happens to execute.

Padding costs nothing here, attention only reaches inside a segment, recomputation is not counted; a multiply-add is two operations.
FLOPs are linear in five sums over a batch, so the sums of many steps give the FLOPs of all of them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nuner_jax.model.encoder import EncoderConfig

Costs = dict[str, float]
"""Name of a sum over a batch -> FLOPs of a training step for each unit of it.

positions, concept_positions: tokens in use, special ones included; attended, concept_attended: pairs (token, token of its segment);
pairs: (text token, concept or class) that are scored.
"""


def training_costs(config: "EncoderConfig", freeze_text: int, freeze_concept: int | None) -> Costs:
    """What a step costs. `freeze_*`: -1 nothing, 0 the embeddings, N and the bottom N layers; those cost their forward pass only.

    `freeze_concept` None: no concept encoder but a linear classifier, which is trained.
    """
    text = tower_costs(config, freeze_text)
    concept = (0.0, 0.0) if freeze_concept is None else tower_costs(config, freeze_concept)
    trained_sides = sum(freeze is None or freeze < config.num_hidden_layers for freeze in (freeze_text, freeze_concept))
    return {
        "positions": text[0],
        "attended": text[1],
        "concept_positions": concept[0],
        "concept_attended": concept[1],
        "pairs": 2.0 * config.hidden_size * (1 + trained_sides),
    }


def tower_costs(config: "EncoderConfig", freeze: int) -> tuple[float, float]:
    """(FLOPs a token, FLOPs an attended pair) of one encoder, forward and backward.

    A trained layer costs three forward passes: its own, the gradients of its weights, those of its input; the lowest trained layer
    above frozen ones needs no gradient of its input, which saves the product behind queries, keys and values.
    """
    D, F, L = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    trained = L - max(freeze, 0)
    passes = L + 2 * trained
    saved = 2 * D * 3 * D if freeze >= 0 and trained else 0
    return float(passes * 2 * (4 * D * D + 2 * D * F) - saved), float(passes * 2 * 2 * D)


def total(costs: Costs, sums: Mapping[str, float]) -> float:
    """FLOPs of the steps whose sums these are."""
    return sum(cost * float(sums[name]) for name, cost in costs.items())
