"""An LLM's reply to annotations: what follows the asked format in substance is read, every other line is counted by reason."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from nuner_jax.annotate.align import Annotation, align, locate, occurs
from nuner_jax.annotate.layouts import in_lines, joined, line_of
from nuner_jax.demo import REPLIES
from nuner_jax.schema import AnnotatedText, read_json_lines

MAX_CONCEPT = 100
"""Characters; what is longer is a sentence and no concept."""


@dataclass(frozen=True)
class ParsedReply:
    """The annotations of a reply in its order, its other lines by reason, and whether its end is missing."""

    annotations: tuple[Annotation, ...]
    rejected: Counter[str] = field(default_factory=Counter)
    truncated: bool = False


def annotate_reply(
    text: str, reply: str, *, finish_reason: str = "stop", id: str = "", source: str = ""
) -> tuple[AnnotatedText, Counter[str]]:
    """The text with the mentions of its reply, and what was dropped: `line: reason`, `mention: reason`, `reply: reason`."""
    parsed = parse_reply(reply, text, finish_reason=finish_reason)
    mentions, lost = align(text, parsed.annotations)
    dropped: Counter[str] = Counter({f"line: {reason}": n for reason, n in parsed.rejected.items()})
    dropped.update({f"mention: {reason}": n for reason, n in lost.items()})
    if not reply.strip():
        dropped["reply: empty"] += 1
    elif parsed.truncated:
        dropped["reply: truncated"] += 1
    return AnnotatedText(text, mentions, id, source), dropped


def parse_reply(reply: str, text: str | None = None, *, finish_reason: str = "stop") -> ParsedReply:
    """The annotations of a reply, one a line: `mention <> concept <> description`.

    Tolerated: numbering, bullets, quotes and markdown around the fields, a missing description, other spellings of `<>`, arrows,
    table rows, JSON, a line for each field, HTML tags, chatter, the format line echoed. `text`, the annotated sentence, settles
    what the line alone leaves open (a `<>` or a number that belongs to the mention, brackets that do); `mention: concept`,
    `mention - concept` and tabs are believed only if the text holds the mention and the reply has no line with a proper separator.

    A reply with `finish_reason` "length" loses its last line unless a line break ends it. Without such a mark, a last line that
    lacks its description, where at least two lines and half of all have one, is taken for cut as well.

    Reasons: chatter, format echo, input echo, markup, reasoning, truncated, empty mention, empty concept, long concept.
    """
    rejected: Counter[str] = Counter()
    reply = in_lines(reply)
    lines = list(_entries(reply, rejected))
    truncated = finish_reason == "length"
    if truncated and lines and not reply.endswith(("\n", "\r")):
        lines.pop()
        rejected["truncated"] += 1
    read = [_read_line(line, text) for line in lines]
    if text is not None and not any(isinstance(r, Annotation) for r in read):
        read = [_read_weak_line(line, text) if r == "chatter" else r for line, r in zip(lines, read, strict=True)]
    annotations = [r for r in read if isinstance(r, Annotation)]
    rejected.update(r for r in read if isinstance(r, str))
    if not truncated and read and _looks_cut(annotations, read[-1], reply):
        annotations.pop()
        rejected["truncated"] += 1
        truncated = True
    return ParsedReply(tuple(annotations), rejected, truncated)


def _looks_cut(annotations: list[Annotation], last: Annotation | str, reply: str) -> bool:
    """Whether the last line, which has no line break, ends inside its concept.

    A concept that has its description, or a separator after it, is whole. Of the others one whose last word concepts end with is
    taken for whole, one that is the beginning of such a word for cut; what is neither is cut if most lines have a description.
    """
    if not annotations or last is not annotations[-1] or reply.endswith(("\n", "\r", "<>", "<", "|")):
        return False
    *others, (_, concept, description) = annotations
    if description:
        return False
    word, known = concept.casefold().split()[-1], concept_words()
    if word in known or any(other.concept.casefold().endswith(word) for other in others):
        return False
    place = bisect_right(words := known_in_order(), word)
    if place < len(words) and words[place].startswith(word):
        return True
    return sum(bool(a.description) for a in others) >= max(2, len(others) / 2)


@lru_cache
def concept_words() -> frozenset[str]:
    """The last words of the bundled corpus's concepts: of new concepts of other text, six in seven end with one of them."""
    concepts = [line.split(" <> ")[1] for _, row in read_json_lines(REPLIES) for line in row["reply"].splitlines()]
    return frozenset(concept.casefold().split()[-1] for concept in concepts)


@lru_cache
def known_in_order() -> list[str]:
    """concept_words, sorted, so that a beginning is looked up quickly."""
    return sorted(concept_words())


# Lines

_BLANK = (
    " \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff\u2060"
    + "".join(map(chr, range(0x2000, 0x200C)))  # blanks of every width
    + "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # marks of writing direction
)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_PRIMARY = re.compile(r"<[ \-=|]?>|&lt; ?&gt;|＜ ?＞")
_STRONG = re.compile(_PRIMARY.pattern + r"|[-=–—]{1,2}>|[→⇒➔➜↦⟶⟹↔]")
_WEAK = re.compile(r"\t+| :: |: | [-–—] ")
_MARKUP = re.compile(r"(?:```|~~~).*|#+ .*|[\W_]*")
_ROW_NUMBER = re.compile(r"(?:\d+\.?|#|no\.?|)", re.IGNORECASE)

_WORDS = r"[^\W_](?:[^<>\n]*[^\W_])?"  # from a letter or digit to a letter or digit
_CLEAN = re.compile(rf"({_WORDS}) <> ([^\W_](?:[\w \-/'&]*[^\W_])?) <> ({_WORDS})")


def _entries(reply: str, rejected: Counter[str]) -> Iterator[str]:
    """The non-blank lines after the model's reasoning (`<think>`); entries that share a line, divided by `;`, become lines."""
    lines = [line_of(line.strip(_BLANK)) for line in _LINE_BREAK.split(reply)]
    closing = next((i for i, line in enumerate(lines) if line.endswith("</think>")), None)
    if closing is None and any(line.startswith("<think>") for line in lines[:1]):
        closing = len(lines) - 1  # cut while it was thinking
    if closing is not None:
        rejected["reasoning"] += sum(map(bool, lines[: closing + 1]))
        lines = lines[closing + 1 :]
    for line in joined(filter(None, lines)):
        pieces = line.split(";") if ";" in line and line.count("<>") > 1 else ()
        if len(pieces) > 1 and all("<>" in piece for piece in pieces):
            yield from (piece.strip(_BLANK) for piece in pieces)
        else:
            yield line


def _read_line(line: str, text: str | None) -> Annotation | str:
    """The line's annotation, or the reason why it has none."""
    if (clean := _CLEAN.fullmatch(line)) and text is not None and "<" not in text and occurs(text, clean[1]):
        concept = clean[2]
        if len(concept) <= MAX_CONCEPT and concept.casefold() not in _LABELS:
            return Annotation(*clean.groups())  # nothing to undo: most lines by far
    row = line.strip("|" + _BLANK) if line.startswith("|") else line
    separators = list(_PRIMARY.finditer(row))
    if len(separators) < 2:
        separators = list(_STRONG.finditer(row))
    if not separators and _MARKUP.fullmatch(line):
        return "markup"
    if text is not None and _is_echo(line, text, bool(separators)):
        return "input echo"
    if not separators:
        return _annotation(*_cells(row), text) if "|" in row else "chatter"
    at = _end_of_mention(row, separators, text)
    rest = row[at.end() :]
    after = next((s for s in separators if s.start() >= at.end()), None)
    if after is not None:
        return _annotation(row[: at.start()], row[at.end() : after.start()], row[after.end() :], text)
    return _annotation(row[: at.start()], *_divide(rest), text)


def _is_echo(line: str, text: str, has_separators: bool) -> bool:
    """Whether the line repeats (a line of) the sentence, perhaps behind a word like "Input:"."""
    line = line.strip('"“”' + _BLANK)
    if line in text:
        return has_separators or "|" in line or line in map(str.strip, _LINE_BREAK.split(text))
    return bool(text.strip()) and text in line and not _STRONG.search(line.replace(text, "", 1))


def _cells(row: str) -> tuple[str, str, str]:
    """Mention, concept and description of a table row; a first column of numbers is left out."""
    cells = [cell.strip(_BLANK) for cell in row.split("|")]
    if len(cells) > 3 and _ROW_NUMBER.fullmatch(cells[0]):
        cells = cells[1:]
    return cells[0], cells[1], " ".join(cells[2:])


def _end_of_mention(row: str, separators: list[re.Match[str]], text: str | None) -> re.Match[str]:
    """The separator after the mention: the first, unless the mention itself holds such signs, as the sentence shows."""
    if text is not None and _STRONG.search(text):
        proper = [s for s in separators if _PRIMARY.fullmatch(s[0])]
        three_fields = separators[-2:-1]
        for separator in [*(proper if len(proper) == 1 else ()), *three_fields, *reversed(separators)]:
            if occurs(text, _undecorated(row[: separator.start()])):
                return separator
    return separators[0]


def _divide(rest: str) -> tuple[str, str]:
    """Concept and description where another sign than `<>` or none at all stands between them."""
    rest = _unlabelled(rest.strip(_BLANK))
    weak = _WEAK.search(rest, 0, MAX_CONCEPT + 4)
    return (rest[: weak.start()], rest[weak.end() :]) if weak else (rest, "")


def _read_weak_line(line: str, text: str) -> Annotation | str:
    """A line of the form `mention: concept - description`, believed only if the text holds the mention."""
    for separator in reversed(list(_WEAK.finditer(line[:1000]))):
        mention = _mention(line[: separator.start()], text)
        if occurs(text, mention) and mention.casefold() not in _LABELS:
            concept, description = _divide(line[separator.end() :])
            if len(concept.split()) > 6:
                return "chatter"
            return _annotation(mention, concept, description, text)
    return "chatter"


# Fields

_MENTION_LABELS = {"entity from the text", "entity", "entities", "mention", "entity text", "text", "named entity"}
_CONCEPT_LABELS = {"entity concept", "concept", "entity type", "type", "label", "category", "concept name"}
_LABELS = (
    _MENTION_LABELS | _CONCEPT_LABELS | {"description", "note", "notes", "input", "output", "output format", "reply", "answer"}
)
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("„", "“"), ("«", "»"), ("「", "」"), ("『", "』"), ("`", "`"))
_BRACKETS = (("[", "]"), ("<", ">"), ("{", "}"), ("(", ")"), ("__", "__"), ("*", "*"), ("_", "_"))
_QUOTE_SIGN = re.compile(r'(?<!\d)"')  # no inches, no minutes of arc
_CLOSING_QUOTE = re.compile(r'(?<=\S)"')
_BULLET = re.compile(r"(?:[-–—*+•·▪‣◦●○■□➤]|&bull;)\s+")
_NUMBER = re.compile(
    r"\(?\d{1,3}(?:\.\)|[.)\]])(?!\d)\s*|\[\d{1,3}\]\s*|\d{1,3}:\s+|\d{1,3}\s+[-–—]\s+|#\d{1,3}[.:)]?\s+"
    r"|(?:entity|item|line)\s*\d{1,3}\s*[.:)-]\s*|\(?(?:[a-z]|[ivx]{1,5})[.)]\s+",
    re.IGNORECASE,
)
_TAGS = re.compile(r"^(?:</?[a-z]+>\s*)+|(?:\s*</?[a-z]+>)+$", re.IGNORECASE)
_LABEL = re.compile(r"(?:entity(?: from the text)?|mention|(?:entity )?(?:concept|type)|description)\s*:\s*", re.IGNORECASE)


def _annotation(mention: str, concept: str, description: str, text: str | None) -> Annotation | str:
    """The fields without what decorates them, or the reason why they make no annotation."""
    concept = _name(concept)
    description = _unstray(_unquoted(_unlabelled(_untagged(description.strip("|" + _BLANK)))))
    if concept.casefold() in _CONCEPT_LABELS and _name(mention).casefold() in _MENTION_LABELS:
        return "format echo"
    if len(concept) > MAX_CONCEPT:
        return "long concept"
    if not any(map(str.isalnum, concept)):
        return "empty concept"
    mention = _mention(mention, text)
    return Annotation(mention, concept, description) if mention else "empty mention"


def _name(raw: str) -> str:
    """A concept without quotes, brackets, label and final punctuation, in single blanks."""
    raw = _undecorated(raw).rstrip(".,;:<" + _BLANK)
    return " ".join(_unbracketed(_undecorated(_unlabelled(raw))).split())


def _mention(raw: str, text: str | None) -> str:
    """The mention as the text has it: the least undressed form that the text holds, else the most undressed.

    Quotes around a mention are no part of it, even if the text has them; numbers, brackets and apostrophes are if the text does.
    """
    raw = raw.strip(_BLANK)
    if text is not None and raw and raw[0].isalnum() and raw[-1].isalnum() and occurs(text, raw):
        return raw
    forms = [_undecorated(raw)]
    steps = [_unnumbered, _unlabelled, _untagged, _unbracketed, *([_unquoted_at_ends] if text is not None else [])]
    for form in forms:  # grows while it is read
        forms.extend(new for new in (_undecorated(step(form)) for step in steps) if new and new not in forms)
    if text is None:
        return forms[-1]
    forms.append(raw)
    literal = next((form for form in forms if occurs(text, form)), None)
    return literal or next((form for form in forms if locate(text, form)), forms[0])


def _undecorated(raw: str) -> str:
    """Without bullets, pairs of quotes around all of it, and double quotes that have lost their partner."""
    before = None
    while before != raw:
        before = raw
        raw = raw.strip(_BLANK)
        raw = raw[m.end() :] if (m := _BULLET.match(raw)) else raw
        raw = _unquoted(raw)
        raw = _unstray(raw)
    return raw


def _unquoted(raw: str) -> str:
    return _unwrapped(raw.strip(_BLANK), (*_QUOTES, ("**", "**")))


def _unbracketed(raw: str) -> str:
    return _unwrapped(raw, _BRACKETS)


def _unnumbered(raw: str) -> str:
    return raw[m.end() :] if (m := _NUMBER.match(raw)) else raw


def _unlabelled(raw: str) -> str:
    return raw[m.end() :] if (m := _LABEL.match(raw)) else raw


def _untagged(raw: str) -> str:
    return _TAGS.sub("", raw)


def _unquoted_at_ends(raw: str) -> str:
    return raw.strip("'‘’`*_\"")


def _unwrapped(raw: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Without a pair of signs around all of it; `"a" and "b"` is not such a pair, `"the "b" case"` is."""
    for opening, closing in pairs:
        if len(raw) > len(opening) + len(closing) and raw.startswith(opening) and raw.endswith(closing):
            inner = raw[len(opening) : -len(closing)]
            if opening == '"' and (first := _QUOTE_SIGN.search(inner)):
                whole = inner.count('"') % 2 == 0 and inner[: first.start()].endswith(" ")
            else:
                whole = opening == '"' or (opening not in inner and closing not in inner)
            if whole:
                return inner.strip(_BLANK)
    return raw


def _unstray(raw: str) -> str:
    """Without a double quote at either end whose partner is missing; the inch sign of `12"` stays."""
    for opening, closing in ('""', "“”", "«»"):
        if raw.count(opening) % 2 == 0 if opening == closing else raw.count(opening) == raw.count(closing):
            continue
        if raw.startswith((opening, closing)):
            pair = opening == closing == raw[-1] and _CLOSING_QUOTE.search(raw, 1, len(raw) - 1)
            return raw[:-1] if pair else raw[1:]  # `"a" b"`: the first two belong together
        if raw.endswith((opening, closing)) and not raw[-2:-1].isdigit():
            return raw[:-1]
    return raw
