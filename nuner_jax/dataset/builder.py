"""The dataset stage: annotated text to a TFDS data set of packed rows, with concept table, manifest and summary.

What happens to the sentences is in sentences.py; local.py and beam.py bring them there, on one machine or on many, and write the
shards; what goes around them is here. Two builds of the same input are byte-equal, whoever has made them.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nuner_jax import files
from nuner_jax.config import DatasetConfig
from nuner_jax.dataset import concepts, records
from nuner_jax.dataset.backend import load_backend
from nuner_jax.dataset.manifest import build_manifest, describe_input, save_manifest
from nuner_jax.dataset.sentences import Built, input_files
from nuner_jax.dataset.summary import write_summary
from nuner_jax.errors import InputError
from nuner_jax.pretrained import resolve

LEAST = {"mentions_per_row": 1, "min_concept_count": 0, "num_concepts": 0, "num_groups": 0, "num_workers": 0, "limit": 0}
"""The least value of options that count something."""


def build(config: DatasetConfig) -> Path:
    """Builds the data set of `config` and returns its folder; nothing is left under its name if the build fails.

    Raises InputError for unreadable input, input without a sentence or a mention to learn from, and settings that contradict each
    other.
    """
    check(config)
    folder = records.dataset_folder(config.out)
    with replaced(folder) as partial_folder:
        write(config, partial_folder, str(partial_folder))
    return folder


def build_remotely(config: DatasetConfig) -> str:
    """As build, where config.out is an address (gs://...) to which the workers of a Beam pipeline write; returns the summary."""
    check(config)
    with uploaded(f"{config.out.rstrip('/')}/{records.NAME}/{records.VERSION}") as (folder, address):
        write(config, folder, address)
        return (folder / "summary.md").read_text(encoding="utf8")


def write(config: DatasetConfig, folder: Path, shards: str) -> None:
    """Writes the shards to the path or address `shards`, and all else to `folder`."""
    paths = input_files(config.input)
    config = config if config.merge != "none" else replace(config, input=paths)  # merged, each word is an annotator
    backend = load_backend(config.tokenizer)
    if config.max_concept_length <= backend.num_special:
        room = f"leaves no room beside the {backend.num_special} special tokens of {config.tokenizer}"
        raise InputError(f"max_concept_length {config.max_concept_length} {room}")
    if config.runner == "beam":
        from nuner_jax.dataset.beam import build_on_beam

        built = build_on_beam(config, backend, shards)
    else:
        from nuner_jax.dataset.local import build_locally

        built = build_locally(config, backend, folder)
    if not built.sentences:
        raise InputError(f"{', '.join(paths)}: no sentence to train on ({dict(built.dropped)})")
    if not built.mentions:
        raise InputError(f"{', '.join(paths)}: no mention to learn from ({dict(built.dropped)})")
    records.write_metadata(folder, config.row_length, config.mentions_per_row, built.shards)
    concepts.save_table(folder / "concepts.jsonl", built.table)
    manifest = build_manifest(
        config,
        backend,
        inputs=[describe_input(path, built.read[path]) for path in paths],
        counts=counts_of(built),
        rows={split: sum(count for count, _ in sizes) for split, sizes in built.shards.items()},
        dropped=built.dropped,
    )
    save_manifest(folder / "manifest.json", manifest)
    write_summary(folder / "summary.md", manifest, built.table)


def counts_of(built: Built) -> dict[str, int]:
    """The counts of the manifest."""
    concepts_, tokens = len(built.table), built.tokens
    return {"sentences": built.sentences, "mentions": built.mentions, "concepts": concepts_, "tokens": tokens}


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` at the end; after an error there is nothing of it.

    Raises InputError where it cannot be written.
    """
    partial_folder = folder.with_name(folder.name + ".partial")
    new = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.held_folder(folder.parent):
            shutil.rmtree(partial_folder, ignore_errors=True)
            try:
                partial_folder.mkdir()
                yield partial_folder
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(partial_folder, folder)
            except BaseException:
                shutil.rmtree(partial_folder, ignore_errors=True)
                raise
    except BaseException as error:
        for parent in new:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None
        raise


@contextmanager
def uploaded(address: str) -> Iterator[tuple[Path, str]]:
    """A local folder and an address to fill, which both end up at `address`; after an error there is nothing of them.

    Raises InputError where it cannot be written.
    """
    system, inner = files.file_system(address)
    partial_folder = f"{inner}.partial"
    with tempfile.TemporaryDirectory() as local:
        try:
            if system.exists(partial_folder):
                system.rm(partial_folder, recursive=True)
            yield Path(local), f"{address}.partial"
            for path in sorted(Path(local).iterdir()):
                system.put_file(str(path), f"{partial_folder}/{path.name}")
            if system.exists(inner):
                system.rm(inner, recursive=True)
            for name in system.ls(partial_folder, detail=False):
                system.mv(name, f"{inner}/{os.path.basename(name)}")
        except OSError as error:
            raise InputError(f"{address}: cannot be written ({error.strerror or error})") from None
        finally:
            if system.exists(partial_folder):
                system.rm(partial_folder, recursive=True)


def check(config: DatasetConfig) -> None:
    """Raises InputError where settings cannot work, before anything is read."""
    if not config.input:
        raise InputError("input: name at least one file (--input FILE ...)")
    if config.merge != "none" and len(config.input) < 2:
        raise InputError(f"merge {config.merge} is about two or more inputs, one an annotator; there is {len(config.input)}")
    if not 8 <= config.row_length <= 32_767:
        raise InputError(f"row_length {config.row_length} is not between 8 and 32767")
    for name, least in LEAST.items():
        if (value := getattr(config, name)) < least:
            raise InputError(f"{name} {value} is below {least}")
    if not 0 <= config.validation_fraction < 1:
        raise InputError(f"validation_fraction {config.validation_fraction} is not in [0, 1)")
    positions = num_positions(resolve(config.tokenizer) / "config.json")
    if positions is not None and config.row_length > positions:
        raise InputError(f"row_length {config.row_length} exceeds the {positions} positions of {config.tokenizer}")
    if files.is_address(config.out):
        if config.runner == "local":
            raise InputError(f"out {config.out}: runner local writes to a folder of this machine, runner beam to an address")
        return
    out = records.dataset_folder(config.out).absolute()
    there = next(folder for folder in [out, *out.parents] if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"out {config.out}: cannot be written ({there} is no folder that this user may write)")


def num_positions(path: Path) -> int | None:
    """Tokens that the longest sentence of an encoder may have, by its config.json: EncoderConfig.max_length, without importing JAX.

    None where the file does not say. Raises InputError.
    """
    try:
        config = json.loads(path.read_text(encoding="utf8"))
        positions = config.get("max_position_embeddings")
        if positions is None or config.get("model_type") not in ("roberta", "xlm-roberta", "camembert"):
            return positions
        return positions - config.get("pad_token_id", 1) - 1
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as an encoder's configuration ({error})") from None
