"""A reading of the corpus into the ledger: which sentences are to be asked about, and which requests are new."""

import itertools
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable

from nuner_jax.annotate.ledger import Ledger
from nuner_jax.annotate.records import Sentence, Terms
from nuner_jax.schema import is_unicode

Group = dict[str, tuple[Sentence, int]]
"""A request in the making: sentence key -> sentence, place in the corpus."""


def scan(ledger: Ledger, sentences: Iterable[Sentence], terms: Terms, per_request: int = 1, chunk: int = 2000) -> Counter[str]:
    """Makes the sentences of a corpus the ones that are asked about; known ones keep their row. Memory does not grow with it.

    Counts `sentences`, `new`, `repeated` (a text that came before in this corpus is asked about once) and `not_unicode`.
    """
    number = ledger.scan_number() + 1
    ledger.set_note("scan", str(number))
    counts: Counter[str] = Counter()
    group: Group = {}
    iterator = iter(sentences)
    while part := list(itertools.islice(iterator, chunk)):  # read outside of the transaction
        with ledger.transaction() as db:
            for sentence in part:
                _place(db, sentence, terms, number, counts, group)
                if len(group) == per_request:
                    _add(db, terms, group, number)
                    group = {}
    if group:
        with ledger.transaction() as db:
            _add(db, terms, group, number)
    return counts


def _place(db: sqlite3.Connection, sentence: Sentence, terms: Terms, number: int, counts: Counter[str], group: Group) -> None:
    """Marks a known sentence as seen in this scan, or adds a new one to the group."""
    if not is_unicode(sentence.text):
        counts["not_unicode"] += 1
        return
    key = terms.key(sentence.text)
    known = db.execute("SELECT scan, request FROM sentences WHERE key=?", (key,)).fetchone()
    if key in group or (known and known[0] == number):
        counts["repeated"] += 1
        return
    seq = counts["sentences"]
    counts["sentences"] += 1
    if known:
        row = (number, seq, sentence.id, sentence.source, key)
        db.execute("UPDATE sentences SET scan=?, seq=?, id=?, source=? WHERE key=?", row)
        db.execute("UPDATE requests SET scan=? WHERE id=?", (number, known[1]))
    else:
        counts["new"] += 1
        group[key] = (sentence, seq)


def _add(db: sqlite3.Connection, terms: Terms, group: Group, scan: int) -> None:
    texts = [sentence.text for sentence, _ in group.values()]
    row = (terms.group_key(texts), "pending", terms.model, terms.prompt_version, terms.params, scan, time.time())
    columns = "(key, state, model, prompt_version, params, scan, created)"
    request = db.execute(f"INSERT INTO requests {columns} VALUES (?,?,?,?,?,?,?)", row).lastrowid
    rows = [(key, request, i, s.text, s.id, s.source, scan, seq) for i, (key, (s, seq)) in enumerate(group.items())]
    db.executemany("INSERT INTO sentences VALUES (?,?,?,?,?,?,?,?)", rows)
