"""Options of the evaluate stage."""

from dataclasses import dataclass, field
from typing import Literal

from nuner_jax.config.annotate import BudgetConfig, ServerConfig
from nuner_jax.config.recipes import Recipe
from nuner_jax.lists import Ints, Strs

Labels = Literal["io", "iob2"]
Sampling = Literal["k_to_2k", "exact_k", "words"]
TaskReader = Literal["auto", "columns", "brackets", "gliner", "hf", "tfds"]


@dataclass(frozen=True)
class HeadConfig:
    """How a few-shot head is fitted on the support set."""

    kind: Literal["discriminant", "linear", "prototype", "prototype_linear"] = "discriminant"
    """discriminant: linear discriminant with shrunken covariance, in closed form; linear: softmax regression (the paper);
    prototype: nearest class mean; prototype_linear: softmax regression from the class means."""
    learning_rate: float = 1e-2
    """Of softmax regression: AdamW on all words of the support set at once."""
    weight_decay: float = 1e-2
    """AdamW's decoupled weight decay."""
    num_steps: int = 300
    """Steps of AdamW."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same, however many words it has."""


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
    """Support sets trained side by side in one program; 0: one on CPU, as many as fit the memory elsewhere. Which bits dropout draws
    for a set depends on those beside it; 1: on nothing but the set and its seed."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Few-shot entity recognition with frozen or fine-tuned encoders, and language models beside them: systems x tasks x k x seeds."""

    encoders: Strs = Strs(("minilm",))
    """NAME=DIR_OR_NAME each, or just a name; the first is the baseline that gains are counted from; none: no encoder."""
    tasks: Strs = Strs(("kitchen", "helpdesk"))
    """NAME=TRAIN,TEST each (.bio, .conll, .txt bracket markup, .json/.jsonl GLiNER), a bundled task (kitchen, helpdesk), a preset
    (mit_movie, mit_restaurant, jnlpba, ontonotes5, crossner, wnut17, few_nerd), or FILE.yaml with rows like theirs."""
    task_data: str = "data"
    """Folder that holds the files of preset tasks."""
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
    llms: Strs = Strs()
    """NAME=KIND:MODEL each, or NAME=KIND:MODEL@URL (whose key may be in NAME_API_KEY); kind zero or few (examples in the prompt) or
    universalner (one query a type)."""
    llm: ServerConfig = ServerConfig()
    budget: BudgetConfig = BudgetConfig()
    prompt_examples: int = 0
    """Support sentences that a prompt of kind few shows; 0: all."""
    limit_test: int = 0
    """Test sentences of each task, always the same ones, to bound the cost; 0: all."""
    predictions: Strs = Strs()
    """NAME=FILE.jsonl each: what other systems predicted, lines of {"task", "k", "seed", "index", "entities"}."""
    export: str = ""
    """Directory for the test sentences and the support sets as GLiNER JSON files, for systems that run elsewhere; empty: none."""
    samples: str = ""
    """JSON lines of {"task", "k", "seed", "indices"} to use in place of drawing samples."""
    cache: str = ""
    """Where features and compiled programs are kept between runs; empty: OUT/features; none: nowhere."""
    expected: dict[str, dict[int, float]] = field(default_factory=dict)
    """System -> k -> published points of expected_metric, mean of the tasks; printed beside what was measured."""
    expected_metric: str = "token_macro_f1"
    """The score that `expected` is about."""
