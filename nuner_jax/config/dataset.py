"""Options of the dataset stage."""

from dataclasses import dataclass
from typing import Literal

from nuner_jax.config.recipes import Recipe
from nuner_jax.lists import Strs


@dataclass(frozen=True)
class DatasetConfig:
    """Annotated text to a packed training set: a TFDS data set in ArrayRecord shards, with concept table and manifest."""

    ADDRESSES = ("input", "out")  # may be of another file system than this machine's

    input: Strs = Strs()
    """Files, patterns or addresses (gs://...): annotated JSON lines, recorded replies ({"text", "reply"}), NuNER CSV, Pile-NER, GLiNER
    JSON, CoNLL; demo: the bundled corpus. Each kind's licence goes into the manifest."""
    merge: Literal["none", "union", "agreement"] = "none"
    """Where each input (a file, or a pattern for several) is another annotator of the same texts: all that any of them marked, or the
    spans that all of them marked."""
    out: str = "data"
    """TFDS data_dir to write; the data set is OUT/nuner/1.0.0."""
    recipe: Recipe = "nuner_jax"
    """Named set of defaults: nuner_jax (what measures best) or paper."""
    tokenizer: str = "minilm"
    """Encoder whose tokenizer to use: minilm, a Hugging Face folder, or a hub name."""
    row_length: int = 128
    """Tokens in a packed row, special tokens included."""
    mentions_per_row: int = 64
    """Capacity of a packed row in mentions."""
    max_concept_length: int = 24
    """Tokens of a concept's text at most, special tokens included."""
    concept_text: Literal["name", "name_and_description"] = "name"
    """What the concept encoder reads."""
    filter: Literal["none", "paper"] = "none"
    """paper: drop a sentence if one of its concepts is "concept"."""
    min_concept_count: int = 1
    """Concepts with fewer mentions are dropped."""
    num_concepts: int = 0
    """Concepts that are kept; the mentions of others are dropped and counted. 0: all."""
    concept_choice: Literal["frequent", "random"] = "frequent"
    """Which num_concepts are kept: the most frequent, or any, by concept_seed."""
    concept_seed: int = 0
    """Other seed, other choice of random concepts."""
    validation_fraction: float = 0.02
    """Share of the sentences held out as split "validation", chosen by hash."""
    num_groups: int = 0
    """Hash groups that sentences are packed in, a shard each; 0: one for each 20,000 sentences."""
    num_workers: int = 0
    """Processes; 0: one a core."""
    runner: Literal["local", "beam"] = "local"
    """local: the cores of this machine. beam: an Apache Beam pipeline (extra beam) that writes the same bytes; input and out are then
    addresses, or paths, that all its workers can open. Training reads a local copy of an out at an address."""
    beam_args: Strs = Strs()
    """Flags of the pipeline, with or without their dashes: runner=FlinkRunner flink_master=localhost:8081; none: DirectRunner. Workers
    need nuner_jax: for Dataflow requirements_file=FILE or sdk_container_image=IMAGE."""
    limit: int = 0
    """Only the first N sentences of the input; 0: all."""
