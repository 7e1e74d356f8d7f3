"""Eight CPU devices for every test, set before JAX starts, so that multi-device tests always run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A random RoBERTa of two layers as a Hugging Face folder, with a byte-level tokenizer."""
    from helpers import make_encoder

    return make_encoder(tmp_path_factory.mktemp("encoder") / "tiny-roberta")
