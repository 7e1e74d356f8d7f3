"""One thread that predicts, with a bounded queue before it: requests that ask for the same go through the model together."""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from nuner_jax.inference.entities import Entity

Labels = Sequence[str] | Mapping[str, str]


class Recogniser(Protocol):
    """What the service needs of NuNER."""

    def predict(
        self, texts: list[str], labels: Any = None, threshold: float | None = None, flat: bool = True
    ) -> "list[list[Entity]]":
        """The entities of each text."""
        ...


class Busy(Exception):
    """The queue is full."""


@dataclass(frozen=True)
class Job:
    """The texts of a request and how they are to be read."""

    texts: list[str]
    labels: Labels | None = None
    threshold: float | None = None
    flat: bool = True
    future: "Future[list[list[Entity]]]" = field(default_factory=Future)

    def asks_the_same(self, other: "Job") -> bool:
        """Whether both can go through the model in one call; the order of labels with descriptions counts."""
        mine, theirs = (list(j.labels.items()) if isinstance(j.labels, Mapping) else j.labels for j in (self, other))
        return (mine, self.threshold, self.flat) == (theirs, other.threshold, other.flat)


class Worker:
    """Predicts in a thread of its own until it is closed."""

    def __init__(self, recogniser: Recogniser, max_waiting: int, max_texts: int):
        self._recogniser = recogniser
        self._max_waiting, self._max_texts = max_waiting, max_texts
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._jobs)

    def submit(self, job: Job) -> "Future[list[list[Entity]]]":
        """The future of the job's entities. Raises Busy if the queue is full or closed."""
        with self._changed:
            if self._closed or len(self._jobs) >= self._max_waiting:
                raise Busy
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Ends the thread after the jobs that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]  # whoever hung up needs no answer
            if jobs:
                self._predict(jobs)

    def _next(self) -> list[Job]:
        """The first job in the queue and those right behind it that go with it; nothing when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            jobs: list[Job] = []
            count = 0
            while self._jobs and (not jobs or jobs[0].asks_the_same(self._jobs[0])):
                count += len(self._jobs[0].texts)
                if jobs and count > self._max_texts:
                    break
                jobs.append(self._jobs.popleft())
            return jobs

    def _predict(self, jobs: list[Job]) -> None:
        first = jobs[0]
        try:
            texts = [text for job in jobs for text in job.texts]
            found = iter(self._recogniser.predict(texts, labels=first.labels, threshold=first.threshold, flat=first.flat))
            answers = [[next(found) for _ in job.texts] for job in jobs]
        except Exception as error:  # belongs to a request, not to the thread, and not to the requests beside it
            if len(jobs) == 1:
                first.future.set_exception(error)
            else:
                for job in jobs:
                    self._predict([job])
        else:
            for job, answer in zip(jobs, answers, strict=True):
                job.future.set_result(answer)
