"""The ledger's table of batches: what was sent as a file, how far it is, and which requests belong to it."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from nuner_jax.annotate.ledger import Ledger


class BatchTable:
    """The batches of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def next_name(self) -> str:
        """A name for a new batch that no other ledger uses, by which the server's list shows whether it got there."""
        owner = self._ledger.note("name")
        if owner is None:
            owner = uuid.uuid4().hex[:12]
            self._ledger.set_note("name", owner)
        return f"nuner-{owner}-{len(self.rows(open_only=False)):05d}"

    def add(self, name: str, path: str, requests: Sequence[int], cost: float | None, tokens: int) -> dict[str, Any]:
        """Notes a batch file and that its requests are under way with it. Returns the batch's row."""
        with self._ledger.transaction() as db:
            columns = "(name, path, state, cost, tokens, created)"
            values = (name, path, "written", cost, tokens, time.time())
            row = db.execute(f"INSERT INTO batches {columns} VALUES (?,?,?,?,?,?)", values).lastrowid
            db.executemany("UPDATE requests SET batch=? WHERE id=?", [(row, request) for request in requests])
        return next(batch for batch in self.rows() if batch["id"] == row)

    def update(self, batch: int, **columns: str) -> None:
        """Sets columns of a batch."""
        with self._ledger.transaction() as db:
            names = ", ".join(f"{name}=?" for name in columns)
            db.execute(f"UPDATE batches SET {names} WHERE id=?", (*columns.values(), batch))

    def end(self, batch: int, note: str) -> int:
        """Closes a batch; its requests without a reply become free again. Returns how many those are."""
        with self._ledger.transaction() as db:
            db.execute("UPDATE batches SET state='merged', note=? WHERE id=?", (note, batch))
            left = db.execute("SELECT COUNT(*) FROM requests WHERE batch=? AND state='pending'", (batch,)).fetchone()[0]
            db.execute("UPDATE requests SET batch=NULL WHERE batch=?", (batch,))
        return left

    def rows(self, open_only: bool = True) -> list[dict[str, Any]]:
        """The batches, oldest first."""
        with self._ledger.transaction() as db:
            cursor = db.execute("SELECT * FROM batches" + (" WHERE state<>'merged'" if open_only else "") + " ORDER BY id")
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
