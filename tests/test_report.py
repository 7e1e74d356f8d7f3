import json
import sys
from collections import Counter

import pytest

from nuner_jax.annotate import report
from nuner_jax.annotate.report import Statistics, markdown, share_located, write_report
from nuner_jax.schema import AnnotatedText, Mention

RECORDS = [
    AnnotatedText("Paris and Rome", (Mention(0, 5, "city", "large towns"), Mention(10, 14, "city"))),
    AnnotatedText("a | b", (Mention(0, 1, "left|side", "of <a> bar"),)),
    AnnotatedText("nothing here"),
]


def statistics(records=RECORDS):
    s = Statistics()
    assert list(s.watch(records)) == list(records)
    return s


def rows(text):
    return dict(line.strip("| ").split(" | ", 1) for line in text.splitlines() if line.startswith("| ") and " | " in line[2:])


def test_counts():
    s = statistics()
    assert (s.sentences, s.without_mention, s.mentions, s.concepts) == (3, 1, 3, Counter({"city": 2, "left|side": 1}))


def test_share_located_leaves_repetitions_out():
    assert share_located(9, {"mention: not in text": 1, "mention: duplicate": 5, "line: chatter": 7}) == pytest.approx(0.9)
    assert share_located(0, {}) == 1


def test_the_report_says_everything():
    dropped = Counter({"line: chatter": 4, "mention: not in text": 1, "line: markup": 0})
    text = markdown(statistics(), dropped, {"model": "m-1", "cost": "$1.25"}, plot="concepts.png")
    table = rows(text)
    assert table["model"] == "m-1"
    assert table["cost"] == "$1.25"
    assert table["sentences"] == "3"
    assert table["mentions a sentence"] == "1.00"
    assert table["mentions found in their text"].startswith("75.00%")
    assert table["distinct concepts"] == "2"
    assert table["concepts that occur once"] == "1 (50%)"
    assert table["line: chatter"] == "4"
    assert "markup" not in text
    assert table["city"] == "2 | 66.67%"
    assert "| left\\|side | a | of &lt;a> bar |" in text
    assert "](concepts.png)" in text


def test_a_report_about_nothing():
    text = markdown(Statistics(), Counter(), {})
    assert rows(text)["sentences"] == "0"
    assert "Nothing." in text
    assert "Most frequent" not in text


def test_report_and_plot_are_written_and_the_same_for_the_same_data(tmp_path):
    records = [AnnotatedText("word", (Mention(0, 4, f"concept {i % 40 * i % 97}"),)) for i in range(500)]
    contents = []
    for name, order in (("a", records), ("b", records[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        assert write_report(folder, statistics(order), Counter(), {}) == folder / "report.md"
        contents.append([(folder / file).read_bytes() for file in ("report.md", "concepts.png")])
        assert sorted(file.name for file in folder.iterdir()) == ["concepts.png", "report.md"]
    assert contents[0] == contents[1]
    assert contents[0][1].startswith(b"\x89PNG")


def test_without_matplotlib_there_is_a_report_without_plot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = write_report(tmp_path, statistics(), Counter(), {}).read_text(encoding="utf8")
    assert "concepts.png" not in text
    assert not (tmp_path / "concepts.png").exists()


def test_the_sample_of_rare_concepts_is_bounded_and_fair(monkeypatch):
    monkeypatch.setattr(report, "EXAMPLES", 50)
    s = statistics([AnnotatedText("word", (Mention(0, 4, f"c{i}"),)) for i in range(1000)])
    assert len(s._examples) == 50
    rare = [int(name[1:]) for name, _, _ in s.rare(30)]
    assert len(rare) == 30
    assert min(rare) < 300
    assert max(rare) > 700  # neither the first nor the last ones only
    s.add(AnnotatedText("word", (Mention(0, 4, s.rare(1)[0][0]),)))
    assert s.concepts.most_common(1)[0][1] == 2
    assert all(s.concepts[name] == 1 for name, _, _ in s.rare(30))


def test_the_report_is_plain_text_that_json_can_carry():
    assert json.loads(json.dumps(markdown(statistics(), Counter(), {})))


def test_names_that_a_plot_could_stumble_over(tmp_path, recwarn):
    names = ["a $x", "$$", "都市", "{\\frac", "x" * 200]
    assert report.plot_concepts(tmp_path / "p.png", {name: 4**i for i, name in enumerate(names)})
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
