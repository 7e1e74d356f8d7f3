"""What passes between the parts of an annotation: a sentence, a request, its reply, and what a reply depends on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Terms:
    """What a reply depends on besides the text; another model, prompt or parameter is another key."""

    model: str
    prompt_version: str
    params: str
    """The request's parameters as canonical JSON."""

    def key(self, text: str) -> str:
        """Key of a sentence, and of the request that asks about it alone."""
        return self._hash([text])

    def group_key(self, texts: Sequence[str]) -> str:
        """Key of a request about several sentences."""
        return self._hash(texts)

    def _hash(self, texts: Sequence[str]) -> str:
        fields = json.dumps([self.model, self.prompt_version, self.params, *texts], ensure_ascii=False)
        return hashlib.blake2b(fields.encode("utf8", "surrogatepass"), digest_size=16).hexdigest()


class Sentence(NamedTuple):
    """A text to annotate, with the id and the source that its annotated record will carry."""

    text: str
    id: str = ""
    source: str = ""


class Request(NamedTuple):
    """A row that is to be sent: its sentences in order, and how many unusable replies it has had."""

    id: int
    key: str
    texts: tuple[str, ...]
    bad_replies: int = 0


class Reply(NamedTuple):
    """What a server answered, as it is stored. Token counts are None where the server gave none."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost: float | None


class Answered(NamedTuple):
    """A kept reply with the sentence that it is about (of `count` sentences of its request, number `position`)."""

    sentence: Sentence
    position: int
    count: int
    state: str
    reply: str
    finish_reason: str
