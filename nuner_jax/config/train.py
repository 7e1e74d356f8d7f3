"""Options of the train stage: data, model, optimizer, mesh, processes."""

from dataclasses import dataclass
from typing import Literal

from nuner_jax.config.recipes import Recipe
from nuner_jax.lists import Floats, Strs


@dataclass(frozen=True)
class DataConfig:
    """The training set and how it is fed."""

    path: Strs = Strs(("data",))
    """TFDS data_dir that the dataset stage has written; several are mixed, their concepts merged by name."""
    weights: Floats = Floats()
    """Of several data sets: how often rows of each are seen, against each other; empty: by size, each row once an epoch."""
    max_concepts: int = 0
    """Concepts of a batch that are encoded, a data shard; more are left out and counted. 0: sized from the data."""
    concept_group: int = 256
    """Concepts that are encoded at once; more of a batch are encoded group by group, in the memory of one."""
    balance_rows: int = 1024
    """Rows that are dealt out together, so that all batches have about as many concepts; less than two batches: random order."""
    num_threads: int = 2
    """Threads that read and assemble batches ahead of the step."""
    row_length: int = 128
    """For --compile_only, which sees no data: tokens of a row."""
    mentions_per_row: int = 64
    """For --compile_only: capacity of a row in mentions."""
    concept_length: int = 8
    """For --compile_only: tokens of a concept's text."""


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
    mention_mask: float = 0.0
    """Share of the mentions whose tokens are masked in the input of a training step, so that context must tell what they are."""
    max_negatives: int = 0
    """Concepts that a token is scored against, at most, where the batch spans several devices; 0: all of the global batch."""
    logit_chunk: int = 1024
    """Concepts whose logits are in memory at once."""
    dropout: float = 0.1
    """Dropout on hidden states of trained layers, in both encoders."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type that the encoders compute in; parameters, loss and softmax stay in float32."""
    attention: Literal["xla", "cudnn"] = "xla"
    """Attention implementation; cudnn needs an NVIDIA GPU and bfloat16."""
    remat: Literal["none", "layer", "dots"] = "none"
    """What the backward pass recomputes instead of keeping: nothing, whole layers, all but matrix products."""


@dataclass(frozen=True)
class LossConfig:
    """What a pair of token and concept counts in the contrastive loss; in the paper each counts the same."""

    unlabelled_weight: float = 1.0
    """Of pairs with tokens outside all mentions: below 1 where the annotator misses many."""
    duplicate_cosine: float = 0.0
    """Concepts whose vectors are nearer than this are no negatives of each other's mentions; 0: all are."""
    focal_exponent: float = 0.0
    """Focal loss: a pair counts by the probability of being wrong to this power; 0: each the same."""
    frequency_exponent: float = 0.0
    """Positive pairs count by the frequency of their concept to minus this power, on average 1; 0: each the same."""
    middle_weight: float = 0.0
    """Weight of the same loss on the hidden state of the middle layer, which few-shot heads read too."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and decay."""

    learning_rate: float = 2e-4
    """Peak learning rate of the encoders."""
    logit_learning_rate: float = 1e-3
    """Peak learning rate of logit scale and bias."""
    head_learning_rate: float = 1e-2
    """Peak learning rate of the classifier; a slow one leaves the encoder without gradient for the length of a short run."""
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
class DistributedConfig:
    """How the processes of a multi-host run find each other."""

    kind: Literal["off", "auto", "explicit"] = "off"
    """off: one process; auto: TPU pod, Slurm, Open MPI, Kubernetes; explicit: by the fields below."""
    coordinator_address: str = ""
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    heartbeat_seconds: int = 100
    """A process that gives no sign of life for so long counts as dead, and the others end."""


@dataclass(frozen=True)
class TrainConfig:
    """Pre-training of a text encoder, contrastive against a concept encoder or as a classifier."""

    recipe: Recipe = "nuner_jax"
    """Named set of defaults: nuner_jax (what measures best) or paper."""
    objective: Literal["contrastive", "classification"] = "contrastive"
    """classification: a token classifier over the most frequent concepts, as NER-BERT is trained; the baseline."""
    num_types: int = 315
    """Concepts that the classifier tells apart, the most frequent ones; tokens of others count as no entity."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()
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
    gradient_accumulation_steps: int = 1
    """Only 1: parts of a batch have fewer negatives than the whole, so accumulation would be another loss."""
    seed: int = 0
    """Of data order, dropout and new parameters."""
    log_every_steps: int = 10
    """Steps between rows of metrics.jsonl."""
    eval_every_steps: int = 0
    """Steps between held-out losses; 0: at the end only."""
    eval_batches: int = 16
    """Batches of the validation split at most, for the held-out loss; 0: no such loss."""
    probe_every_steps: int = 0
    """Steps between few-shot probes on the bundled tasks; 0: none."""
    checkpoint_every_steps: int = 1000
    """Steps between checkpoints; one is always written at the end."""
    checkpoint_every_minutes: float = 0
    """Minutes between checkpoints, looked at every log_every_steps; 0: by steps only."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept."""
    keep_every_steps: int = 0
    """Checkpoints of steps divisible by this are kept for good; 0: none."""
    profile: str = ""
    """A:B writes a trace of steps A to B into WORKDIR/profile, for TensorBoard's profile plugin; empty: none."""
    compile_only: str = ""
    """Train nothing: compile the step for a topology such as v5e:16x16 or cpu:8 and print what it needs; exit 3 if it does not fit."""
    extend: bool = False
    """Lets a finished or stopped run go on to a larger number of steps."""
