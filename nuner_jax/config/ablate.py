"""Options of the ablate command."""

from dataclasses import dataclass, field
from typing import Any, Literal

from nuner_jax.lists import Ints, Strs

Published = Literal["none", "text_source", "concept_diversity", "data_size", "model_size"]


@dataclass(frozen=True)
class StagesConfig:
    """Options of the stages, under the names that they have there (optim.learning_rate: 1.0e-4)."""

    dataset: dict[str, Any] = field(default_factory=dict)
    """Options of the dataset stage."""
    train: dict[str, Any] = field(default_factory=dict)
    """Options of the train stage."""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Options of the evaluate stage."""


@dataclass(frozen=True)
class AblateConfig:
    """An ablation: points that differ in a few options, each built, trained, exported and evaluated; a table and a figure."""

    title: str = "ablation"
    """What is varied."""
    x_label: str = ""
    """Name and unit of the points' x; empty: the points are categories."""
    log_x: bool = False
    """A logarithmic axis and trend."""
    published: Published = "none"
    """The paper's ablation whose direction is compared."""
    base: StagesConfig = StagesConfig()
    points: dict[str, Any] = field(default_factory=dict)
    """Name of each point: what it changes, as a mapping of dataset, train and evaluate options; with x (a number), recipe (for all
    stages), encoder ({source: NAME, layers: N}: start from that one, cut to its first N layers), untrained: true (evaluated as it
    is). The first point is the baseline that differences are counted from."""
    train_seeds: Ints = Ints((0,))
    """Each point is trained once with each of these."""
    seed_keys: Strs = Strs(("train.seed",))
    """Options that get the training seed."""
    out: str = "ablation"
    """Directory for results.jsonl, table, figure and the commands. The same command again resumes."""
    cache: str = ""
    """Data sets, runs, encoders and results by the hash of what they hang on; several ablations may share it. Empty: OUT/cache."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of runs that have been exported."""
    dry_run: bool = False
    """Print what would be done, and do nothing."""


@dataclass(frozen=True)
class CutConfig:
    """An encoder cut to its first layers, as a Hugging Face folder."""

    source: str = "minilm"
    """Encoder: minilm, a Hugging Face folder, or a hub name."""
    layers: int = 6
    """Layers that are left."""
    out: str = "cut"
    """Folder to write."""
