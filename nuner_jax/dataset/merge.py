"""Two annotators of the same texts as one: their union, or where they agree."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from nuner_jax.schema import AnnotatedText, Mention

Merge = Literal["union", "agreement"]


def merge_mentions(first: Iterable[Mention], second: Iterable[Mention], how: Merge) -> tuple[Mention, ...]:
    """The mentions of two annotators of one text, in text order.

    union: all of the first, and of the second what adds a span or a concept. agreement: the spans that both have marked; as
    concepts are open, two names for one span are two views of it and both are kept.
    """
    first, second = list(first), list(second)
    if how == "agreement":
        both = {(m.start, m.end) for m in first} & {(m.start, m.end) for m in second}
        first = [m for m in first if (m.start, m.end) in both]
        second = [m for m in second if (m.start, m.end) in both]
    seen = {(m.start, m.end, m.concept.casefold()) for m in first}
    merged = first + [m for m in second if (m.start, m.end, m.concept.casefold()) not in seen]
    return tuple(sorted(merged, key=lambda m: (m.start, -m.end)))


def merge_texts(
    first: Iterable[AnnotatedText], second: Iterable[AnnotatedText], how: Merge, counts: Counter[str]
) -> Iterator[AnnotatedText]:
    """The texts of two annotators, matched by their text; in the order of the first, then what only the second has.

    union keeps a text that one annotator alone has; agreement drops it and the spans that one alone has marked, counted as "text:"
    and "mention: one annotator only". All of the second is held in memory.
    """
    others: dict[str, AnnotatedText] = {}
    for record in second:
        known = others.get(record.text)
        mentions = merge_mentions(known.mentions, record.mentions, "union") if known else record.mentions
        others[record.text] = AnnotatedText(record.text, mentions, record.id, record.source)
    matched: set[str] = set()
    for record in first:
        other = others.get(record.text)
        matched.add(record.text)
        if other is not None:
            mentions = merge_mentions(record.mentions, other.mentions, how)
            if how == "agreement":
                agreed = {(m.start, m.end) for m in mentions}
                lost = sum((m.start, m.end) not in agreed for m in (*record.mentions, *other.mentions))
                counts["mention: one annotator only"] += lost
            yield AnnotatedText(record.text, mentions, record.id, record.source)
        elif how == "union":
            yield record
        else:
            counts["text: one annotator only"] += 1
    for text, record in others.items():
        if text not in matched:
            if how == "union":
                yield record
            else:
                counts["text: one annotator only"] += 1
