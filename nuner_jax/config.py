"""One frozen dataclass a stage: every option of nuner_jax, with its default. Loaded by cli.parse."""

from dataclasses import dataclass
from typing import Any, Literal

from nuner_jax.cli import Strs

Recipe = Literal["nuner_jax", "paper"]


@dataclass(frozen=True)
class DatasetConfig:
    """Annotated text to a packed training set: a TFDS data set in ArrayRecord shards, with concept table and manifest."""

    input: Strs = Strs()
    """Files: annotated JSON lines, or recorded replies ({"text", "reply"})."""
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
    validation_fraction: float = 0.02
    """Share of the sentences held out as split "validation", chosen by hash."""
    num_groups: int = 0
    """Hash groups that sentences are packed in, a shard each; 0: one for each 20,000 sentences."""
    num_workers: int = 0
    """Processes; 0: one a core."""
    limit: int = 0
    """Only the first N sentences of the input; 0: all."""


@dataclass(frozen=True)
class DataConfig:
    """The training set and how it is fed."""

    path: str = "data"
    """TFDS data_dir that the dataset stage has written."""
    max_concepts: int = 0
    """Concepts of a batch that are encoded, a data shard; more are left out and counted. 0: sized from the data."""
    num_threads: int = 2
    """Threads that read and assemble batches ahead of the step."""


@dataclass(frozen=True)
class ModelConfig:
    """The two towers and their logit."""

    freeze_layers: int | Literal["half"] = 0
    """Of the text encoder: the embeddings and the bottom N layers; 0: embeddings only; -1: nothing; half: half of its layers."""
    freeze_concept_layers: int | Literal["half"] = 0
    """The same for the concept encoder."""
    logit: Literal["cosine", "dot"] = "cosine"
    """cosine: learned scale * cosine + learned bias; dot: plain dot product (the paper)."""
    logit_scale: float = 7.4
    """Initial scale of the cosine."""
    logit_bias: float = -5.0
    """Initial bias of the cosine."""
    dropout: float = 0.0
    """Dropout on hidden states of trained layers, in both encoders."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the encoders compute in; parameters, loss and softmax stay in float32."""
    attention: Literal["xla", "cudnn"] = "xla"
    """Attention implementation; cudnn needs an NVIDIA GPU and bfloat16."""
    remat: Literal["none", "layer", "dots"] = "none"
    """What the backward pass recomputes instead of keeping: nothing, whole layers, all but matrix products."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and decay."""

    learning_rate: float = 3e-4
    """Peak learning rate of the encoders."""
    logit_learning_rate: float = 1e-3
    """Peak learning rate of logit scale and bias."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the decay after warm-up."""
    final_fraction: float = 0.02
    """Learning rate at the end, as a share of the peak."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices; norms, biases and the logit have none."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_norm: float = 1.0
    """Global gradient norm is cut to this; 0: never."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one axis may be -1: what is left."""

    data: int = -1
    """Batch split, parameters replicated."""
    fsdp: int = 1
    """Batch split, parameters split."""
    tensor: int = 1
    """Attention heads and MLP split."""


@dataclass(frozen=True)
class TrainConfig:
    """Contrastive pre-training of a text encoder against a concept encoder."""

    recipe: Recipe = "nuner_jax"
    """Named set of defaults: nuner_jax (what measures best) or paper."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    init_from: str = "minilm"
    """Encoder that both towers start from: minilm, a Hugging Face folder, or a hub name."""
    workdir: str = "runs/train"
    """Run directory: config, metrics, checkpoints. The same command again resumes."""
    num_train_steps: int | None = None
    """Length of the run in steps; or num_epochs."""
    num_epochs: float | None = None
    """Length of the run in passes over the data; or num_train_steps."""
    batch_size: int = 16
    """Packed rows a step, over all devices."""
    seed: int = 0
    """Of data order, dropout and new parameters."""
    log_every_steps: int = 10
    """Steps between rows of metrics.jsonl."""
    eval_every_steps: int = 0
    """Steps between held-out losses; 0: at the end only."""
    eval_batches: int = 16
    """Batches of the validation split at most, for the held-out loss."""
    probe_every_steps: int = 0
    """Steps between few-shot probes on the bundled tasks; 0: none."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints; one is always written at the end."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept."""
    extend: bool = False
    """Lets a finished or stopped run go on to a larger number of steps."""


RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "nuner_jax": {"dataset": {}, "train": {}, "evaluate": {}},
    "paper": {
        "dataset": {"filter": "paper"},
        "train": {"model.logit": "dot", "model.freeze_layers": "half"},
        "evaluate": {},
    },
}
"""recipe -> stage -> dotted key -> value: what a recipe changes against the defaults of the stage's config."""


def recipes(stage: str) -> dict[str, dict[str, Any]]:
    """The recipes as one stage sees them."""
    return {name: stages.get(stage, {}) for name, stages in RECIPES.items()}
