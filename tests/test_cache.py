"""Compiled programs are kept beside the features, unless somebody has said where."""

import jax
import pytest

from nuner_jax.config import EvaluateConfig
from nuner_jax.evaluate.cache import cache_folder, keep_programs

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def unset():
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_and_a_setting_of_the_user_holds(unset, tmp_path):
    keep_programs(tmp_path / "one")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "one")
    keep_programs(tmp_path / "two")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "one")


def test_where_things_are_kept(tmp_path):
    assert cache_folder(EvaluateConfig(out="results")).as_posix() == "results/features"
    assert cache_folder(EvaluateConfig(cache="elsewhere")).as_posix() == "elsewhere"
    assert cache_folder(EvaluateConfig(cache="none")) is None
