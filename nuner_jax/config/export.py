"""Options of the export stage."""

from dataclasses import dataclass


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
