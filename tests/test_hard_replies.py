"""150 replies written by hand to be hard: scripts, quotes, code, separators and instructions inside the sentence, cuts, noise."""

from pathlib import Path

import pytest

from nuner_jax.annotate.align import locate
from nuner_jax.annotate.parse import annotate_reply
from nuner_jax.schema import read_json_lines

CASES = [case for _, case in read_json_lines(Path(__file__).parent / "data" / "hard_replies.jsonl")]


def test_there_are_enough_of_them():
    assert len({case["name"] for case in CASES}) == len(CASES) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_hard_reply(case):
    """`mentions` are [string of the text, its number among the occurrences of this string, concept, description]."""
    annotated, dropped = annotate_reply(case["text"], case["reply"], finish_reason=case.get("finish_reason", "stop"))
    found = []
    for m in annotated.mentions:
        mention = case["text"][m.start : m.end]
        found.append([mention, locate(case["text"], mention).index(m.start), m.concept, m.description])
    assert sorted(found) == sorted(case["mentions"])
    assert dropped == case["dropped"]
