"""Readers of tagged sentences in data sets of other libraries: Hugging Face datasets, and TFDS prepared on disk."""

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nuner_jax.errors import InputError
from nuner_jax.evaluate.readers import sentence_of
from nuner_jax.schema import TaggedSentence


def read_hf(
    path: str, config: str, split: str, words: str, tags: str, tag_names: Sequence[str], scheme: str, notes: Counter[str]
) -> list[TaggedSentence]:
    """A split of a data set on the hub, of a folder of data files, or of one that `save_to_disk` wrote. Raises InputError."""
    if importlib.util.find_spec("datasets") is None:
        raise InputError("reader hf needs the library datasets: pip install 'nuner-jax[hf]'")
    import datasets

    where = f"{path}{f' ({config})' if config else ''}, split {split}"
    saved = (Path(path) / "dataset_dict.json").is_file() or (Path(path) / "dataset_info.json").is_file()
    try:
        loaded = datasets.load_from_disk(path) if saved else datasets.load_dataset(path, config or None)
        rows = loaded[split] if isinstance(loaded, dict) else None
    except Exception as error:  # the library's errors share no base class; all of them mean: it could not be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{where}: cannot be loaded ({reason})") from None
    if rows is None:
        raise InputError(f"{where}: the folder holds one data set without splits; save a DatasetDict of train and test")
    features = rows.features or {}
    names = tag_names or getattr(getattr(features.get(tags), "feature", None), "names", None) or ()
    return _sentences(where, rows, features, words, tags, names, scheme, notes)


def read_tfds(
    path: str, split: str, words: str, tags: str, tag_names: Sequence[str], scheme: str, notes: Counter[str]
) -> list[TaggedSentence]:
    """A split of a TFDS data set that stands prepared (ArrayRecord) in a directory; no TensorFlow. Raises InputError."""
    import tensorflow_datasets as tfds

    where = f"{path}, split {split}"
    try:
        builder: Any = tfds.builder_from_directory(path)
        rows = builder.as_data_source(split)
    except Exception as error:  # as above
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{where}: cannot be opened as a prepared TFDS data set ({reason})") from None
    features = dict(builder.info.features or {})
    names = tag_names or getattr(getattr(features.get(tags), "feature", None), "names", None) or ()
    return _sentences(where, rows, features, words, tags, names, scheme, notes)


def _sentences(
    where: str,
    rows: Iterable[Any],
    features: dict[str, Any],
    words: str,
    tags: str,
    names: Sequence[str],
    scheme: str,
    notes: Counter[str],
) -> list[TaggedSentence]:
    for name in (words, tags):
        if name not in features:
            raise InputError(f"{where}: has no feature {name}; it has {', '.join(features)}")
    sentences = []
    for number, row in enumerate(rows):
        place = f"{where}, row {number}"
        texts = [word.decode() if isinstance(word, bytes) else str(word) for word in row[words]]
        found = [_tag(place, tag, names) for tag in row[tags]]
        if len(texts) != len(found):
            raise InputError(f"{place}: {len(texts)} words but {len(found)} tags")
        if texts:
            sentences.append(sentence_of(place, texts, found, scheme, notes))
    return sentences


def _tag(where: str, tag: Any, names: Sequence[str]) -> str:
    """A tag as text: a number is looked up in `names`."""
    if isinstance(tag, bytes | str):
        return tag.decode() if isinstance(tag, bytes) else tag
    if not names:
        raise InputError(f"{where}: the tags are numbers without names; give tag_names")
    if not 0 <= int(tag) < len(names):
        raise InputError(f"{where}: tag {int(tag)} is not in 0..{len(names) - 1}")
    return names[int(tag)]
