"""Seeded damage of the kinds that language models do to an answer's format; used by the parser's tests."""

import random

OPENINGS = [
    "Here are the entities, concepts, and ideas found in the text:",
    "Sure! Below is the labelled list.",
    "Note: some of these entity types are new.",
    "**Output:**",
    "entity from the text <> entity concept <> description of entity group/concept",
    "```",
]
CLOSINGS = ["I hope this helps! Let me know if you need more.", "```", "---", "Note: meaningless entities were left out."]
SEPARATORS = [" -> ", "->", " → ", " => ", "<>", " < > ", "  <>  "]
QUOTES = ['"{}"', "'{}'", "“{}”", "`{}`", "**{}**", '"{}', '{}"', "*{}*"]
NUMBERS = ["{}. ", "{}) ", "({}) ", "[{}] ", "{}: "]
BULLETS = ["- ", "* ", "• ", "– "]


def corrupt(reply: str, rng: random.Random) -> str:
    """One to three kinds of damage to a clean reply; a cut tail loses up to half of the last line."""
    lines = [line.split(" <> ") for line in reply.split("\n") if line]
    kinds = rng.sample(["number", "bullet", "quote", "separator", "chatter", "duplicate", "no_description", "table", "cut"], 3)
    kinds = kinds[: rng.randint(1, 3)]
    if "duplicate" in kinds:
        at = rng.randrange(len(lines))
        lines.insert(rng.randint(at + 1, len(lines)), lines[at])
    if "no_description" in kinds:
        lines = [line[:2] if rng.random() < 0.5 else line for line in lines]
    if "quote" in kinds:
        style = rng.choice(QUOTES)
        lines = [[style.format(line[0]), *line[1:]] if rng.random() < 0.7 else line for line in lines]
    if "table" in kinds:
        rows = ["| " + " | ".join(line) + " |" for line in lines]
        rows = ["| Entity | Concept | Description |", "|---|:---:|---|", *rows]
    else:
        separator = rng.choice(SEPARATORS) if "separator" in kinds else " <> "
        rows = [separator.join(line) for line in lines]
        if "number" in kinds:
            style = rng.choice(NUMBERS)
            rows = [style.format(i) + row for i, row in enumerate(rows, start=1)]
        elif "bullet" in kinds:
            bullet = rng.choice(BULLETS)
            rows = [bullet + row for row in rows]
    if "cut" in kinds:
        rows[-1] = rows[-1][: len(rows[-1]) - rng.randint(1, max(1, len(rows[-1]) // 2))]
    elif "chatter" in kinds:
        rows.append(rng.choice(CLOSINGS))
    if "chatter" in kinds:
        rows.insert(0, rng.choice(OPENINGS))
    return "\n".join(rows)
