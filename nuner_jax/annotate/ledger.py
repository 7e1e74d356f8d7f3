"""The ledger of an annotation: SQLite, one row a request, every paid reply durable before anything is made of it.

A request is known by its key, the hash of what the reply depends on: model, prompt version, parameters, text. `requests.state`:

    pending   no reply yet
    received  a reply is stored (in `attempts`), nobody has looked at it
    ok, cut, ...   the verdict under which its reply is kept (verdict.py); others than ok only after the last try
    refused   the server will not answer this input

Every reply goes to the table `attempts` first; the one that is kept moves to `requests`, and its request is never sent again.
Nothing paid is ever deleted. `sentences` holds what the requests ask about; `scan` and `seq` there say in which reading of the
corpus (scan.py), and where, a sentence was last seen.
"""

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nuner_jax.annotate.records import Answered, Reply, Request, Sentence, Terms
from nuner_jax.errors import InputError
from nuner_jax.files import held

VERSION = 1
RESERVE_BYTES = 4 << 20
OPEN = ("pending", "received")
UNSEEN = ""
"""Verdict in `attempts` of a reply that nobody has looked at."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, state TEXT NOT NULL, model TEXT NOT NULL, prompt_version TEXT NOT NULL,
    params TEXT NOT NULL, reply TEXT, finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER, cost REAL,
    attempts INTEGER NOT NULL DEFAULT 0, error TEXT, batch INTEGER, scan INTEGER NOT NULL, created REAL, answered REAL);
CREATE INDEX IF NOT EXISTS requests_by_state ON requests (scan, state, batch, id);
CREATE TABLE IF NOT EXISTS sentences (
    key TEXT PRIMARY KEY, request INTEGER NOT NULL, position INTEGER NOT NULL, text TEXT NOT NULL, id TEXT NOT NULL,
    source TEXT NOT NULL, scan INTEGER NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sentences_by_request ON sentences (request, position);
CREATE INDEX IF NOT EXISTS sentences_in_order ON sentences (scan, seq);
CREATE TABLE IF NOT EXISTS attempts (
    request INTEGER NOT NULL, verdict TEXT NOT NULL, reply TEXT, finish_reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, cost REAL, answered REAL);
CREATE INDEX IF NOT EXISTS attempts_by_request ON attempts (request);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, path TEXT NOT NULL, state TEXT NOT NULL, input_file TEXT, remote TEXT,
    output_file TEXT, error_file TEXT, cost REAL, tokens INTEGER, note TEXT, created REAL);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Ledger:
    """An open ledger; one process at a time. Methods may be called from any thread, one at a time.

    Raises InputError with one line if it is in use, is no ledger, or the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reserve = path.with_name(path.name + ".reserve")
        with self._told(), contextlib.ExitStack() as undo:
            path.parent.mkdir(parents=True, exist_ok=True)
            undo.enter_context(held(path))
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            undo.callback(self._db.close)
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-4096", "temp_store=MEMORY"):
                self._db.execute(f"PRAGMA {pragma}")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise InputError(f"{path}: a ledger of form {version}; this version reads form {VERSION}")
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            self._reserve.write_bytes(bytes(RESERVE_BYTES))  # what a full disk gives back, to store what is under way then
            self._opened = undo.pop_all()

    def close(self) -> None:
        """Folds the write-ahead log into the file and lets go of it."""
        with contextlib.suppress(sqlite3.Error):  # everything is committed already
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._reserve.unlink(missing_ok=True)
        self._opened.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Says in one line what a failing disk or a broken file means."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "full" in str(error):
                raise InputError(f"{self.path}: the disk is full; free some space and run the same command again") from error
            raise InputError(f"{self.path}: {error}; what it holds is kept") from error
        except OSError as error:
            raise InputError(f"{self.path}: {(error.strerror or str(error)).lower()}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and durable when it is left."""
        with self._told(), self._transaction() as db:
            yield db

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a failed COMMIT may have ended the transaction already
                self._db.execute("ROLLBACK")
            raise

    def write(
        self,
        replies: Sequence[tuple[int, int, Reply]],
        verdicts: Sequence[tuple[int, str, bool]] = (),
        note: tuple[str, str] | None = None,
    ) -> None:
        """One durable transaction. Replies: (request, times sent, reply). Verdicts: (request, verdict, whether to ask again)."""
        with self._told():
            try:
                self._write(replies, verdicts, note)
            except sqlite3.OperationalError:
                if not self._reserve.exists():
                    raise
                self._reserve.unlink()
                self._write(replies, verdicts, note)
                raise  # stored, but there is no room for more

    def _write(
        self,
        replies: Sequence[tuple[int, int, Reply]],
        verdicts: Sequence[tuple[int, str, bool]],
        note: tuple[str, str] | None,
    ) -> None:
        now = time.time()
        with self._transaction() as db:
            for request, verdict, again in verdicts:
                _settle(db, request, verdict, again)
            for request, sent, reply in replies:
                expected = db.execute(
                    "UPDATE requests SET state='received', attempts=attempts+?, error=NULL WHERE id=? AND state='pending'",
                    (sent, request),
                ).rowcount
                # Answered twice (a batch beside a direct run): the first one counts, but this one was paid as well.
                verdict = UNSEEN if expected else "late"
                db.execute("INSERT INTO attempts VALUES (?,?,?,?,?,?,?,?)", (request, verdict, *reply, now))
            if note is not None:
                _note(db, *note)

    def refuse(self, failures: Sequence[tuple[int, str, bool]]) -> None:
        """Notes why requests got no reply: (request, error, final). A final one is not sent again."""
        rows = [("refused" if final else "pending", error, request) for request, error, final in failures]
        with self.transaction() as db:
            db.executemany("UPDATE requests SET state=?, error=? WHERE id=? AND state='pending'", rows)

    def note(self, name: str) -> str | None:
        """A remembered value, such as the fingerprint of the corpus that was read to its end."""
        row = self._db.execute("SELECT value FROM notes WHERE name=?", (name,)).fetchone()
        return row[0] if row else None

    def set_note(self, name: str, value: str) -> None:
        """Remembers a value durably."""
        with self.transaction() as db:
            _note(db, name, value)

    def requests(self, state: str, after: int = 0, limit: int = 256, batched: bool = False) -> list[Request]:
        """The next requests of the last scan in a state, in order of id; without those of a batch under way, unless asked for."""
        free = "" if batched else " AND r.batch IS NULL"
        return self._requests(f"r.scan=? AND r.state=? AND r.id>?{free}", (self.scan_number(), state, after), limit)

    def by_keys(self, keys: Sequence[str]) -> dict[str, Request]:
        """Requests by key, whatever their state; unknown keys are left out."""
        marks = ",".join("?" * len(keys))
        return {r.key: r for r in self._requests(f"r.key IN ({marks})", tuple(keys), len(keys))}

    def _requests(self, where: str, values: tuple[Any, ...], limit: int) -> list[Request]:
        rows = self._db.execute(
            f"SELECT r.id, r.key FROM requests r WHERE {where} ORDER BY r.id LIMIT ?", (*values, limit)
        ).fetchall()
        return [self._request(*row) for row in rows]

    def _request(self, identity: int, key: str) -> Request:
        texts = self._db.execute("SELECT text FROM sentences WHERE request=? ORDER BY position", (identity,)).fetchall()
        query = "SELECT COUNT(*) FROM attempts WHERE request=? AND verdict NOT IN ('late', ?)"
        bad = self._db.execute(query, (identity, UNSEEN)).fetchone()[0]
        return Request(identity, key, tuple(t[0] for t in texts), bad)

    def reply(self, request: int) -> Reply:
        """The reply of a request that has one: the one that nobody has looked at, else the one that was kept."""
        columns = "reply, finish_reason, prompt_tokens, completion_tokens, cost"
        query = f"SELECT {columns} FROM attempts WHERE request=? AND verdict=?"
        unseen = self._db.execute(query, (request, UNSEEN)).fetchone()
        return Reply(*(unseen or self._db.execute(f"SELECT {columns} FROM requests WHERE id=?", (request,)).fetchone()))

    def kept(self, keys: Sequence[str], chunk: int = 500) -> dict[str, tuple[str, Reply]]:
        """(state, kept reply) by request key, of the settled requests among `keys`; a refused one has the error as its reply."""
        found: dict[str, tuple[str, Reply]] = {}
        columns = "key, state, COALESCE(reply, error, ''), COALESCE(finish_reason, ''), prompt_tokens, completion_tokens, cost"
        for start in range(0, len(keys), chunk):
            part = keys[start : start + chunk]
            marks = ",".join("?" * len(part))
            query = f"SELECT {columns} FROM requests WHERE key IN ({marks}) AND state NOT IN ('pending', 'received')"
            found |= {key: (state, Reply(*reply)) for key, state, *reply in self._db.execute(query, part)}
        return found

    def states(self) -> Counter[str]:
        """How many requests of the last scan are in each state; `batched`: pending, but in a batch that is under way."""
        rows = self._db.execute(
            "SELECT CASE WHEN batch IS NOT NULL AND state='pending' THEN 'batched' ELSE state END, COUNT(*) FROM requests"
            " WHERE scan=? GROUP BY 1",
            (self.scan_number(),),
        )
        return Counter(dict(rows.fetchall()))

    def spent(self) -> tuple[float, int, int]:
        """(dollars, prompt tokens, completion tokens) of every reply ever paid with this ledger, kept or not."""
        sums = "SELECT COALESCE(SUM(cost),0), COALESCE(SUM(prompt_tokens),0), COALESCE(SUM(completion_tokens),0) FROM "
        kept, other = (self._db.execute(sums + table).fetchone() for table in ("requests", "attempts"))
        return kept[0] + other[0], kept[1] + other[1], kept[2] + other[2]

    def priced(self) -> bool:
        """Whether the price of every kept reply of the last scan was known."""
        query = "SELECT COUNT(*) FROM requests WHERE scan=? AND reply IS NOT NULL AND cost IS NULL"
        return not self._db.execute(query, (self.scan_number(),)).fetchone()[0]

    def num_answered(self) -> int:
        """How many sentences of the last scan have a kept reply."""
        query = (
            "SELECT COUNT(*) FROM requests r JOIN sentences s ON s.request=r.id WHERE r.scan=?1 AND s.scan=?1"
            " AND r.state NOT IN ('pending', 'received', 'refused')"
        )
        return self._db.execute(query, (self.scan_number(),)).fetchone()[0]

    def terms(self) -> Terms | None:
        """What the requests of the last scan depend on besides their texts; None if there are none."""
        query = "SELECT model, prompt_version, params FROM requests WHERE scan=? LIMIT 1"
        row = self._db.execute(query, (self.scan_number(),)).fetchone()
        return Terms(*row) if row else None

    def errors(self) -> list[tuple[str, str, int]]:
        """(state, error, count) of the requests of the last scan that have an error, most frequent first."""
        query = (
            "SELECT state, error, COUNT(*) FROM requests WHERE scan=? AND error IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        )
        return self._db.execute(query, (self.scan_number(),)).fetchall()

    def answered(self, chunk: int = 1000) -> Iterator[Answered]:
        """The sentences of the last scan whose request has a kept reply, in the order of the corpus."""
        counts = "(SELECT COUNT(*) FROM sentences o WHERE o.request=s.request)"
        query = (
            f"SELECT s.text, s.id, s.source, s.position, {counts}, r.state, r.reply, r.finish_reason, s.seq FROM sentences s"
            " JOIN requests r ON r.id=s.request WHERE s.scan=? AND s.seq>? AND s.seq<=? ORDER BY s.seq"
        )
        last = self._db.execute("SELECT COALESCE(MAX(seq),-1) FROM sentences WHERE scan=?", (self.scan_number(),)).fetchone()[0]
        for start in range(-1, last, chunk):
            for row in self._db.execute(query, (self.scan_number(), start, start + chunk)).fetchall():
                if row[6] is not None and row[5] not in OPEN:
                    yield Answered(Sentence(*row[:3]), row[3], row[4], row[5], row[6], row[7] or "")

    def scan_number(self) -> int:
        """Which reading of the corpus was the last one."""
        return int(self.note("scan") or 0)


def _note(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT INTO notes VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value=excluded.value", (name, value))


_REPLY = "reply, finish_reason, prompt_tokens, completion_tokens, cost, answered"


def _settle(db: sqlite3.Connection, request: int, verdict: str, again: bool) -> None:
    """Keeps the received reply under its verdict, or leaves it aside and frees the request for another try.

    If no try gave a good reply, the one that came most often is kept, of several such the longest: two runs then agree on it.
    """
    new = db.execute("SELECT rowid FROM attempts WHERE request=? AND verdict=?", (request, UNSEEN)).fetchone()
    if new is None:
        return  # settled before
    db.execute("UPDATE attempts SET verdict=? WHERE rowid=?", (verdict, new[0]))
    if again:
        db.execute("UPDATE requests SET state='pending' WHERE id=?", (request,))
        return
    best = new if verdict == "ok" else db.execute(_BEST, (request,)).fetchone()
    state, *reply = db.execute(f"SELECT verdict, {_REPLY} FROM attempts WHERE rowid=?", best).fetchone()
    columns = ", ".join(f"{name}=?" for name in _REPLY.split(", "))
    db.execute(f"UPDATE requests SET state=?, {columns} WHERE id=?", (state, *reply, request))
    db.execute("DELETE FROM attempts WHERE rowid=?", best)


_BEST = """
SELECT rowid FROM attempts a WHERE request=?1 AND verdict<>'late' ORDER BY
    (SELECT COUNT(*) FROM attempts b WHERE b.request=?1 AND b.reply=a.reply AND b.verdict=a.verdict) DESC,
    verdict IN ('cut', 'partial') DESC, LENGTH(reply) DESC, rowid LIMIT 1
"""
