"""The bundled demo data is whole, is what its card says, and can be named instead of given by path."""

import json
import re
from collections import Counter
from importlib import resources

import pytest

from nuner_jax.config import DatasetConfig
from nuner_jax.dataset.builder import build
from nuner_jax.dataset.importers import read_any
from nuner_jax.demo import REPLIES
from nuner_jax.evaluate.tasks import BUNDLED, load_task
from nuner_jax.lists import Strs

CARD = (resources.files("nuner_jax.demo") / "DATA_CARD.md").read_text(encoding="utf8")
NUMBERS = [int(n.replace(",", "")) for n in re.findall(r"\b\d[\d,]*\b", CARD)]


@pytest.fixture(scope="module")
def corpus():
    dropped: Counter[str] = Counter()
    return list(read_any(REPLIES, counts=dropped)), dropped


def test_the_corpus_is_what_the_card_says(corpus):
    records, dropped = corpus
    words = sum(len(record.text.split()) for record in records)
    mentions = [mention for record in records for mention in record.mentions]
    for count in (len(records), words, len(mentions), len({mention.concept for mention in mentions})):
        assert count in NUMBERS, count
    assert f"{len(mentions) / len(records):.1f} a sentence" in CARD
    assert not dropped  # "every mention can be located"


def test_reply_lines_and_mentions_are_one_to_one(corpus):
    records, _ = corpus
    rows = [json.loads(line) for line in REPLIES.read_text(encoding="utf8").splitlines()]
    assert [row["text"] for row in rows] == [record.text for record in records]
    assert len({row["text"] for row in rows}) == len(rows)
    assert [len(row["reply"].split("\n")) for row in rows] == [len(record.mentions) for record in records]
    for record in records:
        assert all(record.text[m.start : m.end].strip() and m.concept and m.description for m in record.mentions)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_task_is_what_the_card_says(name, corpus):
    task = load_task(name)
    assert f"**{name}**: {', '.join(task.types)}." in CARD
    line = next(line for line in CARD.splitlines() if f"{name}_" in line)
    sizes = [len(task.train), len(task.test)]
    mentions = [sum(map(len, split.spans)) for split in (task.train, task.test)]
    assert "{} + {} sentences, {} + {} mentions".format(*sizes, *mentions) in line
    for split in (task.train, task.test):
        counts = sum(split.mention_counts, Counter())
        assert set(counts) == set(task.types)
        assert min(counts.values()) >= 16  # the largest k of the demo


@pytest.mark.parametrize("name", BUNDLED)
def test_no_test_sentence_was_seen_before(name, corpus):
    task = load_task(name)
    train = {" ".join(words).lower() for words in task.train.words}
    test = {" ".join(words).lower() for words in task.test.words}
    squeezed = {"".join(record.text.lower().split()) for record in corpus[0]}
    assert not train & test
    assert not {text.replace(" ", "") for text in test} & squeezed


def test_the_name_demo_stands_for_the_bundled_corpus(tmp_path):
    small = {"tokenizer": "minilm", "limit": 40, "num_workers": 1}
    by_name = build(DatasetConfig(input=Strs(("demo",)), out=str(tmp_path / "a"), **small))
    by_path = build(DatasetConfig(input=Strs((str(REPLIES),)), out=str(tmp_path / "b"), **small))
    files = sorted(path.name for path in by_name.iterdir())
    assert files == sorted(path.name for path in by_path.iterdir())
    assert all((by_name / file).read_bytes() == (by_path / file).read_bytes() for file in files)
