"""How the demo server answers the questions of `evaluate --llms`: by rule, from what the prompt and the recorded replies show.

It is no language model. Asked with solved examples, it finds again the mentions that they hold; asked without, it knows the
mentions of its recorded replies by their concept. So the whole path can be run, and a score above nothing comes out.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from nuner_jax.evaluate.prompts import NO_ENTITIES, plain, read_ner

LONGEST = 6
"""Words of the longest mention that is looked up."""
Concepts = Mapping[str, Sequence[str]]
"""Concept -> mentions."""
_UNIVERSALNER = re.compile(
    r"USER: Text: (.*) ASSISTANT: I've read this text\.</s>USER: What describes (.*) in the text\? ASSISTANT:$", re.DOTALL
)
_PARAGRAPH = re.compile(r"\nParagraph: (.*?)\nAnswer:\n", re.DOTALL)


def subject(message: str) -> tuple[str, str] | None:
    """(sentence, type or empty) that a question of the evaluate stage is about; None for any other message."""
    asked = _UNIVERSALNER.search(message)
    if asked:
        return asked[1], asked[2]
    if not message.endswith("\nAnswer:\n") or "\nQ: " not in message:
        return None
    return _PARAGRAPH.findall(message)[-1], ""


def answer(message: str, concepts: Concepts) -> str:
    """The answer to a question that `subject` knows."""
    text, kind = subject(message) or ("", "")
    if kind:
        return json.dumps([mention for mention, _ in look_up(text, recorded(concepts, [kind]))], ensure_ascii=False)
    labels = re.search(r"(?m)^Each entity has one of these labels: (.*)\.$", message)
    known = labels[1].split(", ") if labels else []
    found = look_up(text, solutions(message, known) or recorded(concepts, known))
    return "\n".join(f"{i}. {m} | True | {label} | is a {label}" for i, (m, label) in enumerate(found, 1)) or NO_ENTITIES


def solutions(message: str, labels: list[str]) -> dict[str, str]:
    """Mention in small letters -> label, of the solved examples in a prompt; the example of the form has other labels."""
    parts = message.split("\nParagraph: ")[1:-1]
    return {
        a.mention.lower(): a.concept for part in parts for a in read_ner(part.partition("\nAnswer:\n")[2], labels).annotations
    }


def concepts(replies: Iterable[str]) -> dict[str, list[str]]:
    """Concept -> its mentions in recorded replies to the annotation prompt, all in small letters."""
    found: dict[str, list[str]] = {}
    for line in (line for reply in replies for line in reply.splitlines()):
        mention, *rest = line.split(" <> ")
        if rest:
            found.setdefault(plain(rest[0]), []).append(mention.lower())
    return found


def recorded(concepts: Concepts, labels: list[str]) -> dict[str, str]:
    """Mention in small letters -> label, for labels that are concepts of the recorded replies."""
    return {mention: label for label in labels for mention in concepts.get(plain(label), [])}


def look_up(text: str, known: Mapping[str, str]) -> list[tuple[str, str]]:
    """(mention, label) from left to right, longest first, of the known mentions that stand in a text of words and blanks."""
    words = text.split(" ")
    found, i = [], 0
    while i < len(words):
        for size in range(min(LONGEST, len(words) - i), 0, -1):
            mention = " ".join(words[i : i + size])
            if mention.lower() in known:
                found.append((mention, known[mention.lower()]))
                i += size - 1
                break
        i += 1
    return found
