"""Options of `nuner fit` and `nuner predict`."""

from dataclasses import dataclass
from typing import Literal

from nuner_jax.config.evaluate import FinetuneConfig, HeadConfig
from nuner_jax.lists import Ints, Strs


@dataclass(frozen=True)
class FitConfig:
    """A recogniser from a few examples: an encoder and a head on it, in one folder for `nuner predict`."""

    model: str = "minilm"
    """Encoder: minilm, a Hugging Face folder (an exported run), or a hub name."""
    examples: str = ""
    """File of examples: .txt bracket markup, .bio, .conll, .json (GLiNER), .jsonl (GLiNER, or {"text", "entities"})."""
    out: str = "recogniser"
    """Folder to write; an earlier one written by this command is replaced."""
    head: Literal["frozen", "finetune"] = "frozen"
    """frozen: a head on the encoder as it is (seconds); finetune: encoder and head together (minutes)."""
    layers: Ints = Ints()
    """Hidden states that the head reads (-1 the last); empty: last and middle by the encoder's depth."""
    portable: bool = False
    """A head that can be exported to a Transformers token classifier: linear, on the last hidden state."""
    seed: int = 0
    """Seed of fine-tuning."""
    frozen: HeadConfig = HeadConfig()
    finetune: FinetuneConfig = FinetuneConfig()


@dataclass(frozen=True)
class PredictConfig:
    """Entities in text: one text a line, or JSON lines with "text"; FILE ... or - for standard input."""

    model: str = "recogniser"
    """Folder that `nuner fit` wrote; with --labels any exported run with a concept encoder."""
    input: Strs = Strs(("-",))
    """Files, or - for standard input; may also be given without --input."""
    labels: str = ""
    """Zero-shot: labels by commas (dish,utensil), or a .json file of {label: description}. Empty: the types of the fitted head."""
    threshold: float | None = None
    """Least probability of a word's label; by default a label has to be likelier than no label."""
    flat: bool = True
    """A word has one label at most; false: entities may overlap."""
    format: Literal["auto", "jsonl", "color"] = "auto"
    """jsonl: {"text", "entities"} a line; color: text with marked entities; auto: color on a terminal."""
