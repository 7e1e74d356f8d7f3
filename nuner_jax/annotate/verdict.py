"""Whether a stored reply is worth keeping or better asked for once more. What is made of it is parse.py's part."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from nuner_jax.annotate.align import locate
from nuner_jax.annotate.parse import parse_reply
from nuner_jax.annotate.prompt import split_reply
from nuner_jax.annotate.records import Reply, Request
from nuner_jax.config import LlmConfig

CHARS_PER_TOKEN = 16
"""No reply of N tokens has more characters than this times N; a longer one did not keep to max_tokens."""
MIN_CHARS_PER_TOKEN = 0.5
"""No reply of N tokens has fewer; a server that counts more did not count this reply."""
MAX_UNREPEATED = 20
"""A reply with more annotations than this, most of them repetitions, comes from a model that went in circles."""


class Verdict(NamedTuple):
    """ok, or what is wrong: cut, empty, garbled, huge, partial, filtered. `final`: asking again would give the same."""

    name: str
    final: bool


_OK = Verdict("ok", True)
_NOTHING = re.compile(r"(?i)\b(?:no|none|not|nothing|cannot|can't|unable|sorry|n/a)\b")
_BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1b\x7f\ufffd]")


def judge(texts: Sequence[str], reply: str, finish_reason: str, completion_tokens: int | None, max_tokens: int) -> Verdict:
    """The verdict on a reply to a request about `texts`.

    A reply cut because it used up max_tokens would be cut again, as what a filter holds back would be; everything else may be an
    accident. Garbled is a reply of which the sentences hold less than half of the mentions, or that repeats itself, or with
    broken characters; a sentence such as "There are no entities." is an answer.
    """
    if len(reply) > CHARS_PER_TOKEN * max_tokens:
        return Verdict("huge", False)
    if finish_reason == "content_filter":
        return Verdict("filtered", True)
    if finish_reason == "length":
        used_up = completion_tokens is not None and completion_tokens >= max_tokens
        return Verdict("cut", used_up and len(reply) >= MIN_CHARS_PER_TOKEN * max_tokens)
    if not reply.strip():
        return Verdict("empty", False)
    if any(all(c not in text for text in texts) for c in set(_BROKEN.findall(reply))):
        return Verdict("garbled", False)
    sections = split_reply(reply, len(texts))
    found = named = 0
    for text, section in zip(texts, sections, strict=True):
        annotations = parse_reply(section, text).annotations if section is not None else ()
        if len(annotations) > max(MAX_UNREPEATED, 2 * len(set(annotations))):
            return Verdict("garbled", False)
        named += len(annotations)
        found += sum(bool(locate(text, a.mention)) for a in annotations)
    if named and 2 * found >= named:
        return Verdict("partial", False) if any(section is None for section in sections) else _OK
    return _OK if not named and _says_nothing(reply) else Verdict("garbled", False)


def decide(request: Request, reply: Reply, config: LlmConfig) -> tuple[int, str, bool]:
    """(request, verdict, whether to ask again) for a stored reply, as the ledger takes it."""
    limit = config.max_tokens * len(request.texts)
    verdict = judge(request.texts, reply.text, reply.finish_reason, reply.completion_tokens, limit)
    return request.id, verdict.name, not verdict.final and request.bad_replies + 1 < config.max_bad_replies


def _says_nothing(reply: str) -> bool:
    """Whether the reply states in plain words that there is nothing to label, or declines."""
    letters = sum(c.isalpha() or c in " \n" for c in reply)
    return len(reply) < 600 and letters > 0.9 * len(reply) and not set(reply) & set("<>|") and bool(_NOTHING.search(reply))
