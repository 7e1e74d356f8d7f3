"""NuNER in JAX: entity recognition encoders, pre-trained on what an LLM says is an entity.

from nuner_jax import NuNER
ner = NuNER.from_pretrained("minilm").fit(["I ate [sushi](dish) with [chopsticks](utensil)."])
ner.predict(["She ordered ramen."])
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuner_jax.inference.entities import Entity
    from nuner_jax.inference.nuner import NuNER

__version__ = "0.1.0"
__all__ = ["Entity", "NuNER", "__version__"]


def __getattr__(name: str) -> Any:
    """The inference API, imported when it is first used."""
    if name == "NuNER":
        from nuner_jax.inference.nuner import NuNER

        return NuNER
    if name == "Entity":
        from nuner_jax.inference.entities import Entity

        return Entity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
