"""What lies beside the shards: manifest (counts, inputs with their licences, drops by reason) and the hashes that tell data apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nuner_jax import __version__
from nuner_jax.cli import as_dict
from nuner_jax.config import DatasetConfig
from nuner_jax.dataset.backend import Backend
from nuner_jax.dataset.importers import describe
from nuner_jax.errors import InputError
from nuner_jax.files import open_raw

NOT_IN_THE_MANIFEST = (
    "input",
    "out",
    "runner",
    "beam_args",
    "num_workers",
    "tokenizer",
)  # told otherwise, or without influence on a single byte


def describe_input(path: str, sentences: int) -> dict[str, Any]:
    """Name, hash, format, licence and source of an input file, and how many of its sentences were read."""
    return {**describe(path), "sentences": sentences, "sha256": file_hash(path)}


def build_manifest(
    config: DatasetConfig,
    backend: Backend,
    *,
    inputs: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    rows: Mapping[str, int],
    dropped: Mapping[str, int],
) -> dict[str, Any]:
    """The manifest of a data set; `counts` has sentences, mentions, concepts and tokens, `rows` the rows of each split."""
    manifest = {
        "format": 1,
        "nuner_jax": __version__,
        **counts,
        "text_tokens": counts["tokens"] - backend.num_special * counts["sentences"],
        "rows": dict(rows),
        "row_length": config.row_length,
        "mentions_per_row": config.mentions_per_row,
        "fill": counts["tokens"] / (config.row_length * sum(rows.values())),
        "special_token_ids": sorted(backend.special_ids - {backend.unk_id}),
        "pad_token_id": backend.pad_id,
        "tokenizer": backend.fingerprint,
        "inputs": list(inputs),
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        "config": {key: value for key, value in as_dict(config).items() if key not in NOT_IN_THE_MANIFEST},
    }
    return manifest | {"fingerprint": fingerprint(manifest)}


def fingerprint(manifest: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def save_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest as indented JSON."""
    path.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def file_hash(path: str) -> str:
    """SHA-256 of a file's bytes. Raises InputError."""
    try:
        with open_raw(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
