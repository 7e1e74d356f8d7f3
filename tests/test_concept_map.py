"""The concept map: projection, room for labels, sources of names, the two commands."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from helpers import write_json_lines
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from nuner_jax.concepts import projection
from nuner_jax.concepts.__main__ import main
from nuner_jax.concepts.names import read_concepts
from nuner_jax.concepts.page import page
from nuner_jax.concepts.picture import draw
from nuner_jax.errors import InputError
from nuner_jax.inference.zero_shot import Concepts


def clusters(count=12, width=16):
    """Three groups of directions."""
    rng = np.random.default_rng(0)
    centres = np.eye(3, width) * 10
    return np.concatenate([c + rng.normal(size=(count, width)) for c in centres])


def test_neighbours_stay_neighbours_on_the_map():
    points = projection.project(clusters())
    assert points.shape == (36, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) // 12 == np.arange(36) // 12).all()


def test_the_same_vectors_give_the_same_map():
    x = clusters()
    np.testing.assert_array_equal(projection.project(x), projection.project(x.copy()))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_few_concepts_have_a_map_too(count):
    points = projection.project(clusters()[:count])
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()


def test_nearest_agrees_with_the_full_sort():
    x = clusters()
    numbers, cosines = projection.nearest(x[:5], x, 4, chunk=2)
    full = projection.unit(x[:5]) @ projection.unit(x).T
    np.testing.assert_array_equal(numbers, np.argsort(-full, axis=1)[:, :4])
    np.testing.assert_allclose(cosines[:, 0], 1, rtol=1e-5)
    assert projection.nearest(x[:1], x[:3], 10)[0].shape == (1, 3)


coordinates = st.floats(0, 100)
BOX = st.tuples(coordinates, coordinates, st.floats(1, 40), st.floats(1, 20))


@given(st.lists(BOX, max_size=30))
def test_labels_lie_inside_and_never_touch(rows):
    array = np.array(rows, float).reshape(-1, 4)
    placed = projection.place_labels(array[:, :2], array[:, 2:], (100.0, 100.0))
    boxes = [(left, bottom, left + array[n, 2], bottom + array[n, 3]) for n, left, bottom in placed]
    for i, (a, b, c, d) in enumerate(boxes):
        assert a >= 0
        assert b >= 0
        assert c <= 100
        assert d <= 100
        assert all(c <= e or g <= a or d <= f or h <= b for e, f, g, h in boxes[:i])


def test_the_first_label_has_its_place_to_the_right():
    points, sizes = np.array([[50.0, 50], [50, 50]]), np.array([[20.0, 10], [20, 10]])
    assert projection.place_labels(points, sizes, (100.0, 100.0)) == [(0, 52.0, 45.0), (1, 28.0, 45.0)]


TABLE = [
    {"id": 0, "name": "city", "description": "a large town", "frequency": 9, "tokens": [0, 2]},
    {"id": 1, "name": "car part", "description": "", "frequency": 4, "tokens": [0, 2]},
]


def test_names_come_from_a_table_a_data_set_a_text_file_or_the_demo(tmp_path):
    folder = tmp_path / "data" / "nuner" / "1.0.0"
    folder.mkdir(parents=True)
    table = write_json_lines(folder / "concepts.jsonl", TABLE)
    for source in (table, folder, tmp_path / "data"):
        concepts, total = read_concepts(str(source))
        assert total == 2
        assert [(c.name, c.description, c.frequency) for c in concepts] == [("city", "a large town", 9), ("car part", "", 4)]
    text = tmp_path / "names.txt"
    text.write_text("The City\n\ncar_part\ncity\n", encoding="utf8")
    assert [c.name for c in read_concepts(str(text))[0]] == ["city", "car part"]
    demo, total = read_concepts("demo", limit=5)
    assert len(demo) == 5
    assert total > 1000
    assert sorted((c.frequency for c in demo), reverse=True) == [c.frequency for c in demo]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("a.txt", b"\n \n", "no concept"), ("a.txt", b"\xff", "not UTF-8"), ("a.jsonl", b"{}", "line 1")],
)
def test_a_source_that_holds_none_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_concepts(str(tmp_path / name))
    with pytest.raises(InputError, match=r"no concepts\.jsonl"):
        read_concepts(str(tmp_path))


def data_of(text):
    """What the page knows."""
    return json.loads(re.search(r"^const DATA = (.*);$", text, re.MULTILINE)[1])


def test_the_page_is_whole_whatever_the_names_are():
    names = ['</script><script>alert("x")</script>', "a\\b", "naïve\u2028東京", "/*DATA*/"]
    text = page(np.eye(4, 2), names, [1, 2, 3, 4], [[1, 2], [0], [], [3]], "T<b>")
    data = data_of(text)
    assert data["names"] == names
    assert data["title"] == "T<b>"
    assert data["neighbours"][0] == [1, 2]
    assert text.count("</script>") == 1
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?:", text)


def test_the_picture_shows_as_many_names_as_it_says(tmp_path):
    points = projection.project(clusters())
    names = [f"concept ${n}$" for n in range(len(points))]
    few = draw(points, names, range(36, 0, -1), tmp_path / "few.png", width=1.5, font_size=9)
    many = draw(points, names, range(36, 0, -1), tmp_path / "many.png", width=6, font_size=5)
    assert 0 < few < many <= 36
    assert (tmp_path / "few.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test writes into the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tiny_encoder, tmp_path_factory):
    """A folder as export writes it, in what these commands read: an encoder, its concept encoder, nuner.json."""
    folder = tmp_path_factory.mktemp("model") / "hf"
    shutil.copytree(tiny_encoder, folder)
    shutil.copytree(tiny_encoder, folder / "concept_encoder")
    about = {"logit": {"kind": "cosine", "scale": 10.0, "bias": -5.0}, "concept_encoder": "concept_encoder", "layers": [-1, -2]}
    (folder / "nuner.json").write_text(json.dumps(about))
    return folder


def run(words, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code or 0, out, err


def test_the_map_command_writes_picture_and_page(model, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"{a} {b}" for a in ("alpha", "beta", "gamma") for b in ("city", "dish", "movie", "food")))
    status, out, err = run(["map", "--model", model, "--concepts", names, "--limit", 10, "--out", tmp_path / "map"], capsys)
    assert (status, err) == (0, "")
    assert "10 of 12 concepts" in out
    data = data_of((tmp_path / "map" / "concept_map.html").read_text(encoding="utf8"))
    assert len(data["names"]) == 10
    assert all(len(near) == 8 and i not in near for i, near in enumerate(data["neighbours"]))
    assert (tmp_path / "map" / "concept_map.png").stat().st_size > 1000


@pytest.mark.parametrize("missing", ["matplotlib", "sklearn"])
def test_a_map_without_the_extra_says_how_to_get_it(tmp_path, capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    status, _, err = run(["map", "--model", tmp_path], capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert "pip install 'nuner-jax[plots]'" in err


def test_the_nearest_concept_is_the_phrase_itself(model, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("city\ncar part\nfood dish\n")
    status, out, err = run(["nearest", "The car_part", "--model", model, "--concepts", names, "--top", 2], capsys)
    assert (status, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0] == ["1.000", "0", "car part"]
    assert len(rows) == 2
    assert float(rows[1][0]) < 1


def test_a_table_is_embedded_once_for_many_phrases(model, tmp_path, capsys, monkeypatch):
    names, asked = tmp_path / "names.txt", []
    names.write_text("city\ncar part\nfood dish\n")
    embed = Concepts.embed
    monkeypatch.setattr(Concepts, "embed", lambda self, texts: asked.append(list(texts)) or embed(self, texts))
    other = shutil.copytree(model, tmp_path / "other")
    weights = other / "concept_encoder" / "model.safetensors"
    save_file({name: x * 2 for name, x in load_file(weights).items()}, weights)

    def nearest(phrase, folder=model):
        asked.clear()
        status, out, _ = run(["nearest", phrase, "--model", folder, "--concepts", names], capsys)
        assert status == 0
        return out, len(asked)

    first = nearest("city")
    assert first[1] == 2
    assert nearest("city") == (first[0], 1)  # only the phrase
    for file in (tmp_path / "cache").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:50])
    assert nearest("city") == (first[0], 2)  # a broken file is no table
    assert nearest("city", other)[1] == 2  # nor is that of another encoder
    names.write_text("city\n")
    assert nearest("city")[1] == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "there are map and nearest"),
        (["draw"], "there are map and nearest, no draw"),
        (["nearest", "--top", "3"], "name a phrase"),
        (["nearest", "...", "--model", "x"], "nothing is left of it"),
        (["nearest", "a", "--top", "0"], "top 0 is not 1 or more"),
        (["map", "--limit=-1"], "limit has to be 0 or more"),
        (["map", "--colour", "red"], "there is no option --colour"),
    ],
)
def test_bad_input_is_one_line(words, line, capsys):
    status, out, err = run(words, capsys)
    assert (status, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1


def test_a_model_without_concept_encoder_is_told(tiny_encoder, capsys):
    status, _, err = run(["nearest", "city", "--model", tiny_encoder], capsys)
    assert status == 2
    assert "concept encoder" in err
    assert err.count("\n") == 1
