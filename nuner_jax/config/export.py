"""Options of the export stage."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ExportConfig:
    """To a verified folder: a run's checkpoint as Hugging Face encoders with model card and nuner.json; or, with --model, a fitted
    recogniser as a token classifier of Transformers, or any encoder or recogniser as ONNX."""

    workdir: str = "runs/train"
    """Run directory of the train stage."""
    step: int | None = None
    """Checkpoint to export; by default the newest."""
    out: str = "hf"
    """Folder to write; an earlier export there is replaced, anything else is left alone and refused."""
    model: str = ""
    """A recogniser of `nuner fit --portable`, or an encoder (folder, hub name, minilm), to export in the place of a run."""
    format: Literal["hf", "onnx"] = "hf"
    """hf: a Hugging Face folder; onnx: float32 and int8 files for ONNX Runtime (needs --model)."""
    push_to_hub: str = ""
    """OWNER/NAME on the Hugging Face hub that the verified folder is uploaded to, with the token of HF_TOKEN or `hf auth login`. A
    repository that is not there yet is made, and is public unless its owner's default is private."""
    results: str = ""
    """results.jsonl of the evaluate stage whose scores go into the model card."""
