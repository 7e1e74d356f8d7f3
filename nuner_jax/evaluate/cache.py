"""What is computed once: word features of sentences, in memory and on disk by (encoder hash, data hash, layers); XLA programs."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nuner_jax.config import EvaluateConfig
from nuner_jax.evaluate.encoders import NamedEncoder
from nuner_jax.evaluate.tasks import Split, Task

Progress = Callable[[int], Any]


def cache_folder(config: EvaluateConfig) -> Path | None:
    """Where a run keeps what it has computed; None: nowhere."""
    return {"": Path(config.out) / "features", "none": None}.get(config.cache, Path(config.cache))


def keep_programs(folder: Path) -> None:
    """Lets JAX keep compiled programs in the folder, and find them there; a cache that is set already stays as it is."""
    import jax

    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)  # those of a small head count too: there are many


class FeatureStore:
    """The features of one split of a task under one encoder; a sentence is encoded when it is first asked for."""

    def __init__(self, encoder: NamedEncoder, task: Task, split: Split, layers: tuple[int, ...], folder: Path | None):
        self.encoder, self.split, self.layers = encoder, split, layers
        self.vectors: dict[int, np.ndarray] = {}  # sentence -> [words, D]
        which = "train" if split is task.train else "test"
        key = hashlib.sha256(f"{encoder.hash} {task.fingerprint} {layers} {which}".encode()).hexdigest()[:24]
        self.folder = folder / f"{encoder.name}-{task.name}-{which}-{key}".replace("/", "_") if folder else None
        for path in sorted(self.folder.glob("*.ids.npy")) if self.folder else []:
            self._keep(np.load(path), np.load(str(path).replace(".ids.npy", ".npy"), mmap_mode="r"))

    def _keep(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        lengths = np.diff(self.split.offsets)[ids]
        ends = np.cumsum(lengths)
        for i, start, end in zip(ids.tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True):
            self.vectors[i] = vectors[start:end]

    def missing(self, indices: Sequence[int]) -> int:
        """Words of the sentences at `indices` that have yet to be encoded."""
        lengths = np.diff(self.split.offsets)
        return int(sum(lengths[i] for i in set(indices) if i not in self.vectors))

    def compute(self, indices: Sequence[int], progress: Progress = lambda words: None) -> None:
        """Encodes those of the sentences that are not there yet, and stores them."""
        ids = np.array(sorted({i for i in indices if i not in self.vectors}), np.int64)
        if not len(ids):
            return
        sentences = [self.split.sentences[i].words for i in ids]
        vectors = self.encoder.loaded.word_features(sentences, self.layers, progress)
        self._keep(ids, vectors)
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(ids.tobytes()).hexdigest()[:16]  # of its own for each set of ids, as runs may share the folder
            _save(self.folder / f"{name}.npy", vectors)
            _save(self.folder / f"{name}.ids.npy", ids)  # last: a file of vectors without its ids is not read

    def get(self, indices: Sequence[int]) -> np.ndarray:
        """[W, D] float16: the words of the sentences at `indices`, in that order; compute() has been called for them."""
        return np.concatenate([self.vectors[i] for i in indices])


def _save(path: Path, array: np.ndarray) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with open(partial, "wb") as file:
        np.save(file, array)
    os.replace(partial, path)
