"""What the LLM is asked: the paper's prompt word for word, and its form for several sentences in one request."""

import hashlib
import re
from collections.abc import Sequence

PLACEHOLDER = "[INPUT SENTENCE]"

PROMPT = (
    "The goal is to create a dataset for entity recognition. Label as many entities, concepts, and ideas as possible in the "
    "input text. Invent new entity types that may not exist in traditional NER Tasks such as more abstract concepts and ideas. "
    "Make sure the entity concept is not part of speech but something more meaningful. Avoid finding meaningless entities.\n"
    "Output format (separate entities with new line):\n"
    "entity from the text <> entity concept <> description of entity group/concept\n"
    "Input:\n"
    "[INPUT SENTENCE]"
)
"""The prompt of the NuNER paper (arXiv 2402.15343), one sentence a request."""

_FORMAT_LINE = "entity from the text <> entity concept <> description of entity group/concept\n"

PROMPT_SEVERAL = PROMPT.replace(
    _FORMAT_LINE + "Input:\n",
    _FORMAT_LINE
    + "The input consists of several texts, each below a line with its number. Label each text by itself: repeat the line with "
    "its number, then list the entities of that text.\nInput:\n",
)
"""The same for several sentences a request: numbered sections (`### 1`) in the input and in the reply."""


def version(sentences_per_request: int = 1) -> str:
    """Names the prompt in the ledger and in manifests: changes whenever a word of the prompt does."""
    name, prompt = ("nuner", PROMPT) if sentences_per_request == 1 else ("nuner-several", PROMPT_SEVERAL)
    return f"{name}-{hashlib.sha256(prompt.encode()).hexdigest()[:12]}"


def render(sentence: str) -> str:
    """The request's text for one sentence."""
    return PROMPT.replace(PLACEHOLDER, sentence)


def render_several(sentences: Sequence[str]) -> str:
    """The request's text for several sentences; `split_reply` takes the reply apart, `sentences_of` is its inverse."""
    if len(sentences) == 1:
        return render(sentences[0])
    marker = "###"
    while any(re.search(rf"^{marker} \d+$", s, re.MULTILINE) for s in sentences):
        marker += "#"  # no sentence may contain what looks like a section line
    sections = "\n".join(f"{marker} {number}\n{sentence}" for number, sentence in enumerate(sentences, start=1))
    return PROMPT_SEVERAL.replace(PLACEHOLDER, sections)


def sentences_of(request: str) -> list[str]:
    """The sentences that a rendered request holds; ValueError if it is not one of ours."""
    head, _, _ = PROMPT.partition(PLACEHOLDER)
    if request.startswith(head):
        return [request[len(head) :]]
    head, _, _ = PROMPT_SEVERAL.partition(PLACEHOLDER)
    first = re.match(r"(#+) 1\n", request[len(head) :])
    if not request.startswith(head) or first is None:
        raise ValueError("not a request with the prompt of this version")
    body = request[len(head) + first.end() :]
    sentences = []
    for number in range(2, body.count("\n") + 2):
        sentence, separator, rest = body.partition(f"\n{first[1]} {number}\n")
        if not separator:
            break
        sentences.append(sentence)
        body = rest
    return [*sentences, body]


_SECTION = re.compile(r"^[^\w\n#]*#{2,}[^\w\n]*(?:text\s*|input\s*)?(\d{1,6})\b[^\w\n]*$", re.MULTILINE | re.IGNORECASE)


def split_reply(reply: str, num_sentences: int) -> list[str | None]:
    """One reply a sentence, in order; None where the reply has no section for it (to be asked again).

    Tolerates decorated section lines (`**### 2**`, `## Text 2:`); a section that comes twice is joined; lines before the first
    section line belong to sentence 1 if it has no section of its own.
    """
    if num_sentences == 1:
        return [reply]
    sections: dict[int, str] = {}
    marks = [m for m in _SECTION.finditer(reply) if 1 <= int(m[1]) <= num_sentences]
    for mark, end in zip(marks, [*(m.start() for m in marks), len(reply)][1:], strict=True):
        number, body = int(mark[1]), reply[mark.end() : end].removeprefix("\n")
        sections[number] = f"{sections[number]}\n{body}" if number in sections else body
    opening = reply[: marks[0].start()] if marks else ""
    if 1 not in sections and "<>" in opening:
        sections[1] = opening
    return [sections.get(number) for number in range(1, num_sentences + 1)]


def last_section(reply: str, num_sentences: int) -> int:
    """Index (from 0) of the sentence whose section ends the reply: the one that a cut by length has hurt."""
    numbers = [int(m[1]) for m in _SECTION.finditer(reply) if 1 <= int(m[1]) <= num_sentences]
    return numbers[-1] - 1 if numbers else 0
