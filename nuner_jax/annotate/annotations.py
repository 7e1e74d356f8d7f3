"""Stored replies to annotated sentences: the part of the stage that can be done again whenever the parser has improved."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.parse import annotate_reply
from nuner_jax.annotate.prompt import last_section, split_reply
from nuner_jax.annotate.records import Answered
from nuner_jax.errors import InputError
from nuner_jax.schema import AnnotatedText, write_json_lines

SHARD = 100_000
"""Sentences in a file."""
_WORTHLESS = ("garbled", "huge", "filtered")


def annotate(answered: Answered, dropped: Counter[str]) -> AnnotatedText | None:
    """The annotated sentence of a kept reply, None if the reply says nothing about it. Counts what is dropped by reason."""
    section = split_reply(answered.reply, answered.count)[answered.position]
    if section is None:
        dropped["sentence: no section in the reply"] += 1
        return None
    cut = answered.finish_reason == "length" and answered.position == last_section(answered.reply, answered.count)
    text, identity, source = answered.sentence
    record, lost = annotate_reply(text, section, finish_reason="length" if cut else "stop", id=identity, source=source)
    dropped.update(lost)
    if answered.state in _WORTHLESS and not record.mentions:
        dropped[f"sentence: reply {answered.state}"] += 1
        return None
    return record


def records(ledger: Ledger, dropped: Counter[str]) -> Iterator[AnnotatedText]:
    """Every annotated sentence of the ledger's last scan, in the order of the corpus."""
    for answered in ledger.answered():
        record = annotate(answered, dropped)
        if record is not None:
            yield record


def write(texts: Iterator[AnnotatedText], folder: Path, total: int) -> list[Path]:
    """Writes annotations-*.jsonl for at most `total` texts, each file whole or not at all; removes those of an earlier run."""
    files = max(1, -(-total // SHARD))
    written = []
    try:
        for number in range(files):
            target = folder / f"annotations-{number:05d}-of-{files:05d}.jsonl"
            shard = (text.to_json() for _, text in zip(range(SHARD), texts, strict=False))
            write_json_lines(target, shard)
            written.append(target)
    except OSError as error:
        for partial in folder.glob("annotations-*.partial"):
            partial.unlink(missing_ok=True)
        raise InputError(f"{folder}: cannot be written ({error.strerror}); the replies are safe in the ledger") from None
    for old in set(folder.glob("annotations-*-of-*.jsonl")) - set(written):
        old.unlink()
    return written
