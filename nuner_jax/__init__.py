"""NuNER in JAX: entity recognition encoders, pre-trained on what an LLM says is an entity."""

__version__ = "0.1.0"
