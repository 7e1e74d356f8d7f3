"""What the demo server replies: what is recorded for a text, else something made up by rule."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nuner_jax.demo import llm_ner
from nuner_jax.errors import InputError
from nuner_jax.schema import read_json_lines


@dataclass(frozen=True)
class Scripted:
    """A recorded reply, with the finish_reason that it ends with, or (status above 0) the HTTP error that comes in its place."""

    reply: str
    finish_reason: str = "stop"
    status: int = 0


def load_replies(path: str) -> dict[tuple[str, str], Scripted]:
    """(text, type that is asked for or empty) -> recorded reply. Raises InputError with file and line."""
    if not path:
        from importlib.resources import files

        path = str(files("nuner_jax.demo") / "data" / "replies.jsonl")
    replies = {}
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("reply"), str):
            raise InputError(f'{path}, line {number}: expected {{"text", "reply"}}')
        more = {key: row[key] for key in ("finish_reason", "status") if key in row}
        replies[row["text"], row.get("type", "")] = Scripted(row["reply"], **more)
    return replies


def make_up(sentence: str) -> str:
    """A reply by rule for a sentence that nobody recorded: capitalised words are names, digits quantities, long words topics."""
    lines = []
    for mention in dict.fromkeys(re.findall(r"\b[A-Z]\w+(?: [A-Z]\w+)*|\b\d[\d,.]*\b|\b[a-z]{8,}\b", sentence)):
        if mention[0].isdigit():
            concept = "quantity <> numbers and amounts that are stated"
        elif mention[0].isupper():
            concept = "name <> names of people, places, bodies and works"
        else:
            concept = "topic <> subjects that a text is about"
        lines.append(f"{mention} <> {concept}")
    return "\n".join(lines) or "There are no entities in this text."


def sentences_of(message: str) -> list[str]:
    """The sentences that a request asks about: by this version's prompt, else what follows its last line `Input:`."""
    from nuner_jax.annotate import prompt

    try:
        return prompt.sentences_of(message)
    except ValueError:
        return [re.split(r"(?m)^Input:[ \n]", message)[-1]]


def message_of(body: dict[str, Any]) -> str:
    """What a request asks: the prompt of a plain completion, the last message of a chat."""
    return str(body["prompt"] if "prompt" in body else body["messages"][-1]["content"])


def name_of(message: str) -> str:
    """What a message counts under: the sentences of an annotation, any other message as a whole."""
    return message if llm_ner.subject(message) else "\n".join(sentences_of(message))


class Replies:
    """Recorded replies by (text, type that is asked for or empty); other messages get one by rule."""

    def __init__(self, recorded: Mapping[tuple[str, str], Scripted]) -> None:
        self.recorded = recorded
        self.concepts = llm_ner.concepts(script.reply for script in recorded.values())

    def to(self, message: str) -> Scripted:
        """The reply to a message, as a model without faults would give it."""
        subject = llm_ner.subject(message)
        if subject:
            return self.recorded.get(subject) or Scripted(llm_ner.answer(message, self.concepts))
        parts = [self.recorded.get((s, ""), Scripted(make_up(s))) for s in sentences_of(message)]
        if len(parts) == 1:
            return parts[0]
        return Scripted("\n".join(f"### {number}\n{part.reply}" for number, part in enumerate(parts, start=1)))
