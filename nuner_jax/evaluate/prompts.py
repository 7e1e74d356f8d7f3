"""What prompted models are asked about a sentence, and what their answers say. Pure.

Two ways of asking. `ner`: one question with all labels, answered in numbered lines `span | True or False | label | reason` (the
form of spaCy-LLM's NER prompt, version 3, in words of our own), with or without solved examples. `universalner`: one question a
type in the conversation template that UniversalNER (arXiv 2308.03279) was trained with, answered by a JSON list of strings.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nuner_jax.annotate.align import Annotation, locate

NONE = "==NONE=="
NO_ENTITIES = "(no entities)"


class Example(NamedTuple):
    """A solved sentence: its text and (mention, label), left to right."""

    text: str
    mentions: Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """What a reply says. `verdict`: ok, cut (its whole lines count), filtered, declined, malformed; `notes`: lines left out."""

    verdict: str
    annotations: tuple[Annotation, ...]
    notes: Counter[str]


_TASK = """You are an expert in named entity recognition (NER).
You are given a paragraph and find the named entities in it.
Each entity has one of these labels: {labels}.
A span that one might take for an entity but that is none has the label {none}.
"""
_DEFINITIONS = "\nThe labels are defined as follows; keep to the definitions:\n{definitions}\n"
_FORMAT = """
The paragraph below shows the form of an answer, with other labels than yours. Use its form and your labels.
Answer in this form only, with the entities in the order in which they stand in the paragraph.
"""
_QUESTION = "\nQ: List the entities of the paragraph, and say for each why it is or is not an entity.\n"
_SHOWN = Example("The night ferry to Oban was cancelled after strong winds had damaged its bow door.", ())
_SHOWN_ANSWER = f"""1. night ferry | True | VEHICLE | is a ship that carries people
2. Oban | True | PLACE | is the town that the ferry goes to
3. strong winds | False | {NONE} | is weather, no thing with a label
4. bow door | True | PART | is a part of the ferry"""


def ner_prompt(text: str, labels: Mapping[str, str], examples: Sequence[Example] = ()) -> str:
    """The question about one sentence. `labels`: label -> definition, empty where there is none."""
    prompt = _TASK.format(labels=", ".join(labels), none=NONE)
    defined = {label: definition for label, definition in labels.items() if definition}
    if defined:
        prompt += _DEFINITIONS.format(definitions="\n".join(f"{label}: {definition}" for label, definition in defined.items()))
    if examples:
        shown = [(example.text, _solution(example.mentions)) for example in examples]
    else:
        prompt += _FORMAT
        shown = [(_SHOWN.text, _SHOWN_ANSWER)]
    solved = "".join(f"\nParagraph: {shown_text}\nAnswer:\n{answer}\n" for shown_text, answer in shown)
    return f"{prompt}{_QUESTION}{solved}\nParagraph: {text}\nAnswer:\n"


def _solution(mentions: Sequence[tuple[str, str]]) -> str:
    lines = [f"{i}. {mention} | True | {label} | is a {label}" for i, (mention, label) in enumerate(mentions, start=1)]
    return "\n".join(lines) or NO_ENTITIES


_NUMBER = re.compile(r"^\s*(?:\d+[.):]\s*|[-*•]\s+)?")
_NOTHING = re.compile(
    r"(?i)^\W*(?:none|n/a|nothing|empty)\W*$|\bno (?:\w+ ){0,2}(?:entit|mention)|\b(?:not|n't) (?:\w+ ){0,3}any\b.*entit"
)
_DECLINES = re.compile(r"(?i)\b(?:sorry|apologi[sz]e|cannot|can't|can’t|unable|not able|won't|as an ai)\b")


def read_ner(reply: str, labels: Sequence[str], finish_reason: str = "stop") -> Answer:
    """The entities of an answer to ner_prompt, in its order. Lines that are no entity (False) count as read."""
    known = {plain(label): label for label in labels}
    notes: Counter[str] = Counter()
    annotations: list[Annotation] = []
    lines = [line for line in reply.splitlines() if line.strip()]
    if finish_reason == "length":
        lines = lines[:-1]  # the last one is not whole
    read = 0
    for line in lines:
        fields = [field.strip() for field in _NUMBER.sub("", line, count=1).split("|")]
        said = next((i for i, field in enumerate(fields) if i and plain(field) in ("true", "false")), 0)
        if not said or said + 1 >= len(fields):
            notes["line in another form"] += not _NOTHING.search(line)
            continue
        read += 1
        label = fields[said + 1]
        if plain(fields[said]) == "false" or label == NONE:
            continue
        if plain(label) not in known:
            notes["label that the task does not have"] += 1
            continue
        annotations.append(Annotation(" | ".join(fields[:said]), known[plain(label)]))
    verdict = _verdict(reply, finish_reason, bool(read))
    return Answer(verdict, tuple(annotations), +notes if verdict in ("ok", "cut") else Counter())


def universalner_prompt(text: str, kind: str) -> str:
    """The prompt (a plain completion) about one type, token for token as the model has seen it in training."""
    return (
        "A virtual assistant answers questions from a user based on the provided text. "
        f"USER: Text: {text} ASSISTANT: I've read this text.</s>USER: What describes {kind} in the text? ASSISTANT:"
    )


def read_universalner(reply: str, kind: str, finish_reason: str = "stop") -> Answer:
    """The strings of the reply's JSON list, each once, as annotations of one type."""
    strings: list[str] | None = None
    if "[" in reply:
        try:
            value, _ = json.JSONDecoder().raw_decode(reply, reply.index("["))
            strings = list(dict.fromkeys(value)) if all(isinstance(item, str) for item in value) else None
        except (ValueError, RecursionError):  # a model that is caught in a loop may open brackets without end
            strings = None
    verdict = _verdict(reply, finish_reason, strings is not None)
    if strings is None and verdict == "ok":  # plain words in place of a list: this model never says it so
        verdict = "malformed"
    return Answer(verdict, tuple(Annotation(s, kind) for s in strings or ()), Counter())


def _verdict(reply: str, finish_reason: str, read: bool) -> str:
    """ok: something was read, or the reply says that there is nothing."""
    if finish_reason == "content_filter":
        return "filtered"
    if finish_reason == "length":
        return "cut"
    if read or not reply.strip() or _NOTHING.search(reply):
        return "ok"
    return "declined" if _DECLINES.search(reply) else "malformed"


def every_occurrence(text: str, annotations: Sequence[Annotation]) -> tuple[list[tuple[int, int, str]], Counter[str]]:
    """(start, end, concept) of every place where the text holds a mention: for answers that are sets of strings."""
    spans, notes = [], Counter()
    for mention, concept, _ in annotations:
        mention = as_written(text, mention)
        starts = locate(text, mention)
        notes["not in text"] += not starts
        spans += [(start, start + len(mention), concept) for start in starts]
    return spans, +notes


def as_written(text: str, mention: str) -> str:
    """The mention in the case that the text has it in: models tidy up the case of what they quote."""
    lowered = text.lower()
    if locate(text, mention) or len(lowered) != len(text):
        return mention
    starts = locate(lowered, mention.lower())
    return text[starts[0] : starts[0] + len(mention)] if starts else mention


def plain(label: str) -> str:
    """A label as it is compared: case, underscores and hyphens do not count."""
    return " ".join(re.sub(r"[_-]", " ", label.strip(" *`\"'")).casefold().split())


def version(kind: str) -> str:
    """Names the prompt in the ledger and in result rows: changes whenever a word of it does."""
    text = universalner_prompt("", "") if kind == "universalner" else ner_prompt("", {"": "x"}) + ner_prompt("", {}, [_SHOWN])
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
