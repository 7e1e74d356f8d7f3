"""Values of a head's or of fine-tuning's options that no fit could use."""

from nuner_jax.config import FinetuneConfig, HeadConfig
from nuner_jax.errors import InputError

LEAST = {"num_epochs": 1, "batch_size": 1} | dict.fromkeys(
    (
        "parallel_seeds",
        "num_steps",
        "learning_rate",
        "weight_decay",
        "head_learning_rate",
        "clip_norm",
        "warmup_fraction",
        "dropout",
    ),
    0,
)
MOST = {"warmup_fraction": 1, "dropout": 0.99}
"""The least and the greatest value that can be used."""


def check_ranges(key: str, config: HeadConfig | FinetuneConfig) -> None:
    """Raises InputError "key.option: what is wrong"."""
    for name, value in vars(config).items():
        if name in LEAST and value < LEAST[name]:
            raise InputError(f"{key}.{name} {value} is below {LEAST[name]}")
        if name in MOST and value > MOST[name]:
            raise InputError(f"{key}.{name} {value} is above {MOST[name]}")
