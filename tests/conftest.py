"""Eight CPU devices for every test, set before JAX starts, so that multi-device tests always run; programs compiled cheaply."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# The same small programs are compiled by many tests: kept for the length of a session, shared by its worker processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="jax-cache-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None)  # a slow machine is not a failure
settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A random RoBERTa of two layers as a Hugging Face folder, with a byte-level tokenizer."""
    from helpers import make_encoder

    return make_encoder(tmp_path_factory.mktemp("encoder") / "tiny-roberta")


@pytest.fixture
def without_plots(monkeypatch):
    """Reports without figures, for tests about something else: plotting is most of what a tiny evaluation takes."""
    from nuner_jax.evaluate import plots

    monkeypatch.setattr(plots, "curves", lambda *_: [])
    monkeypatch.setattr(plots, "panel_svg", lambda *_: "<svg></svg>")
