"""configs/paper: each says what it reproduces and on what, is understood, and can be laid out on its machine."""

import re
from pathlib import Path

import pytest

from nuner_jax import cli
from nuner_jax.compile_only import KNOWN
from nuner_jax.config import TrainConfig, recipes
from nuner_jax.run import LENGTH

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs" / "paper").glob("*.yaml"))
DEVICES = {"v5e-8": 8, "v5e-256": 256, "v6e-8": 8, "h100-8": 8, "gpu-24gb": 1}


def test_both_sizes_for_every_machine():
    assert {path.stem for path in CONFIGS} == {f"nuner_{size}_{machine}" for size in ("base", "large") for machine in DEVICES}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_the_paper(path, capsys):
    words = ["--config", f"paper/{path.stem}"]
    config = cli.parse(TrainConfig, words, prog="train", recipes=recipes("train"), alternatives=LENGTH)
    devices = DEVICES[path.stem.split("_")[-1]]
    assert (config.recipe, config.model.logit, config.model.freeze_layers) == ("paper", "dot", "half")
    assert config.init_from.removeprefix("FacebookAI/") in KNOWN
    assert config.batch_size % devices == 0
    assert devices % (config.mesh.fsdp * config.mesh.tensor) == 0
    assert config.model.max_negatives % config.data.max_concepts == 0  # the cap is a number of whole shards
    assert path.stem in config.workdir
    header = re.match(r"(#.*\n)+", path.read_text(encoding="utf8"))
    assert header
    for word in ("1 M sentences, 10 epochs", "Expected", "Hardware", "Memory", f"--config paper/{path.stem}\n"):
        assert word in header[0]
    with pytest.raises(SystemExit):
        cli.parse(TrainConfig, [*words, "--print_config"], prog="train", recipes=recipes("train"), alternatives=LENGTH)
    assert f"batch_size: {config.batch_size}" in capsys.readouterr().out
