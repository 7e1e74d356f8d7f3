"""From annotated text to batches: what is on disk, in which order it is served, and which concepts come along."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import WORDS, write_mentions

from nuner_jax.config import DatasetConfig
from nuner_jax.dataset.builder import build
from nuner_jax.dataset.loader import Batches, ConceptCapacity, ConceptTokens, PackedDataset, prefetched, shuffled
from nuner_jax.errors import InputError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("corpus")
    config = DatasetConfig(
        input=(str(write_mentions(folder / "a.jsonl")),),
        out=str(folder / "data"),
        tokenizer=str(tiny_encoder),
        row_length=32,
        mentions_per_row=12,
    )
    build(config)
    return config


def test_tfds_reads_the_rows_without_tensorflow(corpus):
    import sys

    import tensorflow_datasets as tfds

    rows = tfds.data_source("nuner", data_dir=corpus.out)["train"]
    ours = PackedDataset(corpus.out)
    assert len(rows) == ours.num_rows("train") > 10
    batch = ours.rows("train", range(len(rows)))
    for i, row in enumerate(rows):
        for name, value in batch.items():
            np.testing.assert_array_equal(row[name], value[i])
    assert "tensorflow" not in sys.modules


def test_every_mention_token_decodes_to_its_word(corpus, tiny_encoder):
    from nuner_jax.pretrained import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_encoder))
    data = PackedDataset(corpus.out)
    rows = data.rows("train", range(data.num_rows("train")))
    seen = 0
    for tokens, mentions, count in zip(rows["tokens"], rows["mentions"], rows["num_mentions"], strict=True):
        for first, last, concept in mentions[:count]:
            word = tokenizer.decode(tokens[first : last + 1]).strip().replace(" ", "")
            assert data.concepts[concept].name == f"kind of {word}"
            seen += 1
    assert seen > 100


def test_two_builds_are_byte_equal_whatever_the_order_and_the_workers(corpus, tmp_path):
    import dataclasses

    lines = Path(corpus.input[0]).read_text().splitlines()
    shuffled_file = tmp_path / "a.jsonl"
    shuffled_file.write_text("\n".join(reversed(lines)) + "\n")
    again = build(dataclasses.replace(corpus, out=str(tmp_path / "again"), num_workers=1))
    other = build(dataclasses.replace(corpus, input=(str(shuffled_file),), out=str(tmp_path / "other")))
    first = PackedDataset(corpus.out).folder
    for path in sorted(first.iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
        if "array_record" in path.name or path.name == "concepts.jsonl":
            assert (other / path.name).read_bytes() == path.read_bytes(), path.name


def test_concepts_are_numbered_by_frequency(corpus):
    table = PackedDataset(corpus.out).concepts
    frequencies = [concept.frequency for concept in table]
    assert frequencies == sorted(frequencies, reverse=True)
    assert all(concept.description == f"the {concept.name.removeprefix('kind of ')}" for concept in table)


def test_the_stream_of_rows_loses_and_repeats_none_in_an_epoch():
    order = shuffled(10, seed=3, first=0, count=40)
    for epoch in range(4):
        assert sorted(order[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert not np.array_equal(order[:10], order[10:20])
    np.testing.assert_array_equal(shuffled(10, 3, 7, 9), order[7:16])


def test_a_batch_holds_the_concepts_of_its_mentions_once_each(corpus):
    data = PackedDataset(corpus.out)
    batch = Batches(data, "train", batch_size=4, num_steps=5, seed=1)[2]
    ids = batch["concept_ids"][batch["concept_ids"] >= 0]
    mentioned = batch["mentions"][..., 2]
    assert sorted(ids) == sorted(set(mentioned[mentioned >= 0]))
    for slot, concept in enumerate(ids):
        here = batch["concept_slots"] == slot
        np.testing.assert_array_equal(batch["concept_tokens"][here], data.concepts[concept].tokens)
        np.testing.assert_array_equal(batch["concept_positions"][here], np.arange(here.sum()))
        assert len(set(batch["concept_segment_ids"][here])) == 1
    special = set(data.manifest["special_token_ids"])
    assert not special & set(batch["tokens"][batch["text_mask"]])
    assert special >= set(batch["tokens"][~batch["text_mask"] & (batch["segment_ids"] > 0)])


def test_shards_are_parts_of_the_same_global_batch(corpus):
    data = PackedDataset(corpus.out)
    settings = {"batch_size": 4, "num_steps": 5, "seed": 1}
    whole = Batches(data, "train", **settings)[3]
    capacity = ConceptCapacity(40, 16, 32)
    parts = [Batches(data, "train", **settings, num_shards=2, shards=range(i, i + 1), capacity=capacity)[3] for i in range(2)]
    for name in ("tokens", "segment_ids", "positions", "text_mask", "mentions"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    both = {i for part in parts for i in part["concept_ids"]} - {-1}
    assert both == set(whole["concept_ids"]) - {-1}


def test_positive_pairs_of_rare_concepts_count_more_but_one_on_average(corpus):
    data = PackedDataset(corpus.out)
    frequency = np.array([concept.frequency for concept in data.concepts])
    batch = Batches(data, "train", batch_size=4, num_steps=5, seed=1, frequency_exponent=0.5)[2]
    ids, weights = batch["concept_ids"], batch["concept_weights"]
    expected = frequency**-0.5 * frequency.sum() / (frequency**0.5).sum()
    np.testing.assert_allclose(weights, np.where(ids >= 0, expected[ids], 0), rtol=1e-6)
    assert abs((expected * frequency).sum() / frequency.sum() - 1) < 1e-9
    plain = Batches(data, "train", batch_size=4, num_steps=5, seed=1)[2]
    np.testing.assert_array_equal(plain["concept_weights"], ids >= 0)


@pytest.mark.parametrize("num_shards", [1, 2])
def test_room_for_concepts_is_what_the_batches_of_the_run_need(corpus, num_shards):
    batches = Batches(PackedDataset(corpus.out), "train", batch_size=4, num_steps=9, seed=1, num_shards=num_shards)
    used = np.array([(b["concept_tokens"].any(-1).reshape(num_shards, -1).sum(1)) for b in map(batches.__getitem__, range(9))])
    assert not any(batches[step]["concepts_left_out"].any() for step in range(9))
    assert used.max() == batches.capacity.rows  # rows of tokens, as many as the fullest shard fills


def test_prefetching_starts_at_any_step(corpus):
    batches = Batches(PackedDataset(corpus.out), "train", batch_size=4, num_steps=6, seed=1)
    served = list(prefetched(batches, 4))
    assert len(served) == 2
    np.testing.assert_array_equal(served[0]["tokens"], batches[4]["tokens"])


def test_bad_settings_and_broken_folders_are_named(corpus, tmp_path):
    data = PackedDataset(corpus.out)
    with pytest.raises(InputError, match="batch_size 6 is not divisible by 4 data shards"):
        Batches(data, "train", batch_size=6, num_steps=1, seed=0, num_shards=4)
    with pytest.raises(InputError, match="no data set here"):
        PackedDataset(tmp_path)


def test_texts_too_long_are_cut_at_a_word_and_counted(tmp_path, tiny_encoder):
    text = " ".join(WORDS * 5)
    mentions = [{"start": 0, "end": 5, "concept": "early"}, {"start": len(text) - 5, "end": len(text), "concept": "late"}]
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"text": text, "mentions": mentions}) + "\n")
    folder = build(DatasetConfig(input=(str(path),), out=str(tmp_path / "d"), tokenizer=str(tiny_encoder), row_length=16))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["dropped"] == {"mention: beyond the cut": 1, "sentence: cut to the row length": 1}
    assert manifest["rows"] == {"train": 1}
    assert manifest["mentions"] == 1


def test_batches_without_a_mention_have_room_all_the_same(corpus):
    """As in a sample of steps of a data set with few mentions."""
    concepts = ConceptTokens(PackedDataset(corpus.out).concepts)
    nothing = np.array([], np.int64)
    capacity = concepts.capacity([nothing], group=256, limit=0)
    batch = concepts.pack(nothing, capacity)
    assert (batch["concept_ids"] == -1).all()
    assert batch["concepts_left_out"] == 0
    assert concepts.pack(np.array([0]), capacity)["concepts_left_out"] == 0
