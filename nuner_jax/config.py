"""One frozen dataclass a stage: every option of nuner_jax, with its default. Loaded by cli.parse."""

from dataclasses import dataclass, field
from typing import Any, Literal

from nuner_jax.cli import Floats, Ints, Strs

Recipe = Literal["nuner_jax", "paper"]


@dataclass(frozen=True)
class CorpusConfig:
    """The sentences that are annotated."""

    path: str = "demo"
    """File, glob, prepared TFDS directory, gs:// or other fsspec path, or hub name; demo: the bundled sentences."""
    format: Literal["auto", "c4", "jsonl", "text", "tfds", "hf"] = "auto"
    """auto: by the name of the path."""
    split: Literal["sentences", "none"] = "sentences"
    """none: every text of the corpus is one sentence as it stands."""
    filters: Literal["default", "none"] = "default"
    """default: length, likeness to language, exact and near duplicates, and per_document."""
    per_document: int = 1
    """Sentences taken from one document, chosen by hash; 0: all."""
    limit: int = 0
    """Only the first N sentences that are left; 0: all."""
    seed: int = 0
    """Other seed, other choice of sentences."""
    on_corrupt: Literal["skip", "fail"] = "fail"
    """What happens at a file that cannot be read to its end; skipped ones are named and counted."""


@dataclass(frozen=True)
class LlmConfig:
    """The server, the model, and how it is asked."""

    base_url: str = ""
    """OpenAI-compatible server; empty: $OPENAI_BASE_URL or api.openai.com; demo: the packaged server of recorded replies."""
    model: str = "gpt-4o-mini"
    """Model name as the server knows it."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key. Local servers need none."""
    temperature: float = 0.0
    """Sampling temperature."""
    max_tokens: int = 1024
    """Tokens of a reply at most, for each sentence of the request."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the server calls that limit; reasoning models of OpenAI want max_completion_tokens."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """More fields for each request, such as {"seed": 1}."""
    sentences_per_request: int = 1
    """More than 1 saves prompt tokens and costs some quality."""
    concurrency: int = 32
    """Requests under way at once."""
    requests_per_minute: float = 0
    """0: no limit of ours."""
    tokens_per_minute: float = 0
    """Input and output together; 0: no limit of ours."""
    connect_timeout: float = 10.0
    """Seconds until a connection must stand. A server that nobody has reached by then ends the run."""
    read_timeout: float = 60.0
    """Seconds without a byte from the server."""
    total_timeout: float = 180.0
    """Seconds for one request from first to last."""
    max_tries: int = 20
    """Sendings of one request that meet errors (429, 5xx, time-outs, broken connections) before it is left to the next run."""
    max_bad_replies: int = 8
    """Replies of one request that are empty, garbled, oversized or cut before the best of them is kept."""
    price_in: float | None = None
    """Dollars per million input tokens; none: from the table of genai-prices."""
    price_out: float | None = None
    """Dollars per million output tokens."""


@dataclass(frozen=True)
class BudgetConfig:
    """Limits on everything ever paid with one ledger, checked before each request."""

    usd: float | None = None
    """Dollars; none: no limit."""
    tokens: int | None = None
    """Tokens, input and output together; none: no limit."""


@dataclass(frozen=True)
class BatchConfig:
    """The Batch API: files of requests, answered within a day at a discount."""

    max_requests: int = 50_000
    """Requests in a file at most."""
    max_bytes: int = 200_000_000
    """Bytes of a file at most."""
    discount: float = 0.5
    """Price of a batched request as a share of a direct one's."""
    poll_seconds: float = 0.0
    """batch poll: ask again every so many seconds until all batches have ended; 0: ask once."""


@dataclass(frozen=True)
class AnnotateConfig:
    """Text to annotated sentences: an LLM labels every sentence with open concepts; a ledger keeps every paid reply."""

    corpus: CorpusConfig = CorpusConfig()
    llm: LlmConfig = LlmConfig()
    budget: BudgetConfig = BudgetConfig()
    batch: BatchConfig = BatchConfig()
    out: str = "annotated"
    """Directory for ledger.sqlite, annotations-*.jsonl, report.md and config.yaml. The same command again resumes."""
    dry_run: bool = False
    """Print the forecast for the whole corpus; send and write nothing."""
    results: Strs = Strs()
    """batch merge: result files of an offline runner."""


@dataclass(frozen=True)
class DatasetConfig:
    """Annotated text to a packed training set: a TFDS data set in ArrayRecord shards, with concept table and manifest."""

    input: Strs = Strs()
    """Files: annotated JSON lines, recorded replies ({"text", "reply"}), NuNER CSV, Pile-NER, GLiNER JSON, CoNLL; demo: the bundled
    corpus. Each kind's licence goes into the manifest."""
    merge: Literal["none", "union", "agreement"] = "none"
    """Where each input is another annotator of the same texts: all that any of them marked, or the spans that all of them marked."""
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

    path: Strs = Strs(("data",))
    """TFDS data_dir that the dataset stage has written; several are mixed, their concepts merged by name."""
    weights: Floats = Floats()
    """Of several data sets: how often rows of each are seen, against each other; empty: by size, each row once an epoch."""
    max_concepts: int = 0
    """Concepts of a batch that are encoded, a data shard; more are left out and counted. 0: sized from the data."""
    concept_group: int = 256
    """Concepts that are encoded at once; more of a batch are encoded group by group, in the memory of one."""
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
    middle_loss: float = 0.0
    """Weight of the same loss on the hidden state of the middle layer, which few-shot heads read too."""
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
class OptimConfig:
    """AdamW with warm-up and decay."""

    learning_rate: float = 2e-4
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


@dataclass(frozen=True)
class TrainConfig:
    """Contrastive pre-training of a text encoder against a concept encoder."""

    recipe: Recipe = "nuner_jax"
    """Named set of defaults: nuner_jax (what measures best) or paper."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
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


@dataclass(frozen=True)
class ExportConfig:
    """A run's checkpoint to a verified Hugging Face folder: text encoder, tokenizer, model card, concept encoder, nuner.json."""

    workdir: str = "runs/train"
    """Run directory of the train stage."""
    step: int | None = None
    """Checkpoint to export; by default the newest."""
    out: str = "hf"
    """Folder to write; an earlier export there is replaced, anything else is left alone and refused."""
    results: str = ""
    """results.jsonl of the evaluate stage whose scores go into the model card."""


Labels = Literal["io", "iob2"]
Sampling = Literal["k_to_2k", "exact_k", "words"]


@dataclass(frozen=True)
class HeadConfig:
    """How a few-shot head is fitted on the support set."""

    kind: Literal["linear", "prototype", "prototype_linear"] = "linear"
    """linear: softmax regression; prototype: nearest class mean; prototype_linear: softmax regression from the class means."""
    learning_rate: float = 1e-2
    """AdamW on all words of the support set at once."""
    weight_decay: float = 1e-2
    """AdamW's decoupled weight decay."""
    num_steps: int = 300
    """Steps of AdamW."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss, however many words it has."""


@dataclass(frozen=True)
class FinetuneConfig:
    """How an encoder with a two-layer head is fine-tuned on the support set."""

    num_epochs: int = 30
    """Passes over the support set."""
    batch_size: int = 8
    """Sentences a step."""
    learning_rate: float = 1e-4
    """Peak learning rate of the encoder (AdamW)."""
    head_learning_rate: float = 1e-3
    """Peak learning rate of the head."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the learning rates rise from 0; then they fall linearly to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices."""
    dropout: float = 0.1
    """Dropout on the encoder's hidden states and the head's."""
    clip_norm: float = 1.0
    """Global gradient norm is cut to this."""
    parallel_seeds: int = 0
    """Support sets trained side by side in one program; 0: one on CPU, as many as fit the memory elsewhere."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Few-shot entity recognition with frozen or fine-tuned encoders: systems x tasks x k x seeds."""

    encoders: Strs = Strs(("minilm",))
    """NAME=DIR_OR_NAME each, or just a name; the first is the baseline that gains are counted from."""
    tasks: Strs = Strs(("kitchen", "helpdesk"))
    """NAME=TRAIN,TEST each (.bio, .conll, .txt bracket markup, .json/.jsonl GLiNER), or a bundled task: kitchen, helpdesk."""
    out: str = "results"
    """Directory for results.jsonl, samples.jsonl, tables and plots. The same command again resumes."""
    recipe: Recipe = "nuner_jax"
    """Named set of defaults: nuner_jax (what measures best) or paper."""
    protocol: Literal["frozen", "finetune"] = "frozen"
    """frozen: features once, a head on top; finetune: the whole encoder and a two-layer head."""
    ks: Ints = Ints((1, 4, 16))
    """Support sizes k."""
    seeds: int = 5
    """Support sets for each k: seeds 0 to N - 1."""
    sampling: Sampling = "k_to_2k"
    """k_to_2k: k to 2k mentions of each type; exact_k: k mentions; words: k to 2k words of each type."""
    layers: Ints = Ints()
    """Hidden states that are concatenated (-1 the last); empty: last and middle by the encoder's depth."""
    labels: Labels = "io"
    """What a head predicts: a type or O; or with iob2 also where a mention begins."""
    head: HeadConfig = HeadConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    samples: str = ""
    """JSON lines of {"task", "k", "seed", "indices"} to use in place of drawing samples."""
    cache: str = ""
    """Where features are kept between runs; empty: OUT/features; none: nowhere."""


RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "nuner_jax": {"dataset": {}, "train": {}, "evaluate": {}},
    "paper": {
        "dataset": {"filter": "paper"},
        "train": {"model.logit": "dot", "model.freeze_layers": "half"},
        "evaluate": {"layers": [-1]},
    },
}
"""recipe -> stage -> dotted key -> value: what a recipe changes against the defaults of the stage's config."""


def recipes(stage: str) -> dict[str, dict[str, Any]]:
    """The recipes as one stage sees them."""
    return {name: stages.get(stage, {}) for name, stages in RECIPES.items()}
