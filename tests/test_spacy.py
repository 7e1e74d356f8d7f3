"""The spaCy component: ents and spans, batches, a pipeline saved and loaded elsewhere, registration without an import."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import spacy
import srsly
from spacy.tokens import Span

import nuner_jax.spacy
from nuner_jax import NuNER
from nuner_jax.errors import InputError
from nuner_jax.inference.entities import Entity

CLONE = Path(__file__).resolve().parent.parent
EXAMPLES = [
    "[alpha](letter) and beta",
    "the [delta](letter) is gamma",
    "eats a [dish](food)",
    "[alpha](letter) eats [food](food)",
]
TEXTS = ["alpha eats the dish", "", "gamma 🍜 delta, alpha!", "nothing of it"]


@pytest.fixture(scope="module")
def saved(tiny_encoder, tmp_path_factory):
    """A fitted tiny model, saved."""
    return NuNER.from_pretrained(tiny_encoder).fit(EXAMPLES).save(tmp_path_factory.mktemp("saved") / "model")


def pipeline(model, **config):
    nlp = spacy.blank("en")
    nlp.add_pipe("nuner", config={"model": str(model), **config})
    return nlp


def found(doc, key="nuner"):
    return [
        (s.start_char, s.end_char, s.label_, round(score, 6))
        for s, score in zip(doc.spans[key], doc.spans[key].attrs["scores"], strict=True)
    ]


def test_ents_and_spans_are_what_predict_gives(saved):
    nlp, ner = pipeline(saved), NuNER.from_pretrained(saved)
    for text, entities in zip(TEXTS, ner.predict(TEXTS), strict=True):
        doc = nlp(text)
        assert found(doc) == [(e.start, e.end, e.label, round(e.score, 6)) for e in entities]
        assert [(s.start_char, s.end_char, s.label_) for s in doc.ents] == [(e.start, e.end, e.label) for e in entities]
    assert nlp(TEXTS[0]).ents
    assert nlp.get_pipe("nuner").labels == ("food", "letter")


def test_pipe_takes_batches_and_gives_the_same(saved, monkeypatch):
    nlp = pipeline(saved)
    alone = [found(nlp(text)) for text in TEXTS]
    ner, sizes = nlp.get_pipe("nuner").ner, []
    predict = ner.predict
    monkeypatch.setattr(ner, "predict", lambda texts, **options: sizes.append(len(texts)) or predict(texts, **options))
    assert [found(doc) for doc in nlp.pipe(TEXTS, batch_size=3)] == alone
    assert sizes == [3, 1]


def test_a_saved_pipeline_needs_nothing_else(saved, tmp_path):
    model = shutil.copytree(saved, tmp_path / "model")
    nlp = pipeline(model, threshold=0.3, spans_key="mine")
    before = [found(doc, "mine") for doc in nlp.pipe(TEXTS)]
    nlp.to_disk(tmp_path / "pipeline")
    shutil.rmtree(model)
    shutil.move(tmp_path / "pipeline", tmp_path / "elsewhere")
    loaded = spacy.load(tmp_path / "elsewhere")
    assert [found(doc, "mine") for doc in loaded.pipe(TEXTS)] == before
    assert loaded.get_pipe("nuner").options["threshold"] == 0.3


@pytest.fixture(scope="module")
def exported(tiny_encoder, tmp_path_factory):
    """An encoder with a concept encoder, as export leaves them; no head."""
    folder = tmp_path_factory.mktemp("exported") / "hf"
    shutil.copytree(tiny_encoder, folder)
    shutil.copytree(tiny_encoder, folder / "concept_encoder")
    about = {"logit": {"kind": "cosine", "scale": 8.0, "bias": -4.0}, "concept_encoder": "concept_encoder"}
    (folder / "nuner.json").write_text(json.dumps(about))
    return folder


def test_a_zero_shot_pipeline_is_saved_too_and_over_itself(exported, tmp_path):
    nlp = pipeline(exported, labels=["letter", "food"], threshold=0.1)
    before = [found(doc) for doc in nlp.pipe(TEXTS)]
    assert any(before)
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    assert [found(doc) for doc in loaded.pipe(TEXTS)] == before
    loaded.to_disk(tmp_path / "pipeline")
    assert [found(doc) for doc in spacy.load(tmp_path / "pipeline").pipe(TEXTS)] == before
    with pytest.raises(InputError, match="was not written by save"):
        NuNER.from_pretrained(exported).save(exported)


def test_a_pipeline_goes_through_bytes(saved):
    nlp = pipeline(saved, threshold=0.3, spans_key="mine")
    before = [found(doc, "mine") for doc in nlp.pipe(TEXTS)]
    data = nlp.to_bytes()
    again = spacy.blank("en")
    again.add_pipe("nuner")
    again.from_bytes(data)
    assert [found(doc, "mine") for doc in again.pipe(TEXTS)] == before
    assert again.get_pipe("nuner").to_bytes() == nlp.get_pipe("nuner").to_bytes()


def test_bytes_that_lead_out_of_the_folder_are_refused(tmp_path):
    data = srsly.msgpack_dumps({"../../out.txt": b"x"})
    with pytest.raises(InputError, match=r"'\.\./\.\./out\.txt' leads out"):
        component().from_bytes(data)


def component(*entities):
    """A component whose model finds these entities in every text."""
    made = nuner_jax.spacy.Nuner("nuner", "none", {"labels": None, "threshold": None, "flat": False}, "nuner")
    made.__dict__["ner"] = type("Fake", (), {"predict": lambda self, texts, **options: [list(entities) for _ in texts]})()
    return made


def test_ents_never_overlap_and_keep_what_is_there():
    doc = spacy.blank("en").make_doc("New York City Hall opened")
    doc.ents = [Span(doc, 3, 4, "BUILDING")]
    entities = [
        Entity(0, 8, "New York", "city", 0.6),
        Entity(0, 13, "New York City", "city", 0.9),
        Entity(9, 18, "City Hall", "place", 0.8),
    ]
    doc = component(*entities)(doc)
    assert [(s.text, s.label_) for s in doc.ents] == [("New York City", "city"), ("Hall", "BUILDING")]
    assert [s.text for s in doc.spans["nuner"]] == ["New York", "New York City", "City Hall"]


def test_parts_of_a_token_are_widened_to_it_once():
    doc = spacy.blank("en").make_doc("antifreeze")
    doc = component(Entity(0, 4, "anti", "part", 0.4), Entity(4, 10, "freeze", "part", 0.7))(doc)
    assert found(doc) == [(0, 10, "part", 0.7)]


def test_a_model_without_labels_says_so(tiny_encoder):
    nlp = pipeline(tiny_encoder)
    with pytest.raises(InputError, match="no head has been fitted"):
        nlp("alpha")
    with pytest.raises(InputError, match="no concept encoder"):
        pipeline(tiny_encoder, labels=["dish"])("alpha")


def test_the_entry_point_registers_the_component(tmp_path):
    declared = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf8"))["project"]["entry-points"]["spacy_factories"]
    info = tmp_path / "nuner_jax-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nuner-jax\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[spacy_factories]\n" + "".join(f"{k} = {v}\n" for k, v in declared.items()))
    code = "import spacy; nlp = spacy.blank('en'); nlp.add_pipe('nuner', config={'labels': ['a']}); print(nlp.get_pipe('nuner').labels)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(nuner_jax.__file__).parent.parent)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "('a',)\n", done.stderr
