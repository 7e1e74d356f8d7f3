"""README and docs: every command shown is accepted, those of the inference page are run, the reference is up to date, links lead
somewhere."""

import dataclasses
import importlib
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from nuner_jax import cli, config, docs, options
from nuner_jax.__main__ import COMMANDS, module_of
from nuner_jax.run import LENGTH

CLONE = Path(__file__).resolve().parent.parent
DOCS = sorted((CLONE / "docs").rglob("*.md"))
PAGES = [CLONE / "README.md", *DOCS]
TEXTS = {str(page.relative_to(CLONE)): page.read_text(encoding="utf8") for page in PAGES}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def lines_of(text):
    """The commands of a page, each on one line."""
    shown = [line.strip() for block in blocks(text, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in shown if line and not line.startswith("#")]


SHOWN = sorted({line for text in TEXTS.values() for line in lines_of(text)})


def accepted(command, words, capsys):
    """A command of ours takes these options."""
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module_of(command)).main([*words, "--print_config"])
    assert (end.value.code or 0, capsys.readouterr().err) == (0, "")


def ours(words):
    """The command and its options, if it is one of ours; environment variables before it aside."""
    words = words[next(i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)) :]
    if words[0] == "nuner":
        return words[1], words[2:]
    if words[:2] == ["python", "-m"] and words[2].startswith("nuner_jax."):
        return words[2].removeprefix("nuner_jax."), words[3:]
    return None


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_is_accepted(line, capsys):
    words = shlex.split(line, comments=True)
    words = words[: words.index("<")] if "<" in words else words
    files = [word for word in words if word.startswith("launch/")]
    assert all((CLONE / file).is_file() for file in files)
    if found := ours(words):
        accepted(*found, capsys)
    elif words[0] in ("python", "sbatch") or words[0] in files:  # a launcher: its options are those of train
        start = words.index("--") + 1 if "--" in words else words.index(files[0]) + 1
        assert files
        accepted("train", [] if words[start:] == ["delete"] else words[start:], capsys)
    elif words[0] in ("kubectl", "sky"):
        assert files
        assert all(options.config_path(word.removeprefix("CONFIG=")) for word in words if word.startswith("CONFIG="))
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (CLONE / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    elif words[0] == "pip":
        extras = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf8"))["project"]["optional-dependencies"]
        asked = re.findall(r"\[([\w,]+)\]", line)
        assert asked
        assert set(asked[0].split(",")) <= set(extras)
    elif words[0] == "curl":
        from nuner_jax.serve.app import PredictRequest

        assert PredictRequest(**json.loads(words[words.index("-d") + 1])).texts
    else:
        assert words[0] == "export", f"no test knows how to check: {line}"


@pytest.mark.parametrize("line", [line for line in SHOWN if "--compile_only" in line])
def test_a_shown_compilation_is_told_what_it_cannot_see_in_data(line):
    words = shlex.split(line, comments=True)[3:]
    train = cli.parse(config.TrainConfig, words, prog="train", recipes=config.recipes("train"), alternatives=LENGTH)
    assert train.data.max_concepts > 0


def test_every_command_has_its_place_in_the_readme_and_in_the_docs():
    for pages in ([TEXTS["README.md"]], [text for name, text in TEXTS.items() if name != "README.md"]):
        told = {found[0] for text in pages for line in lines_of(text) if (found := ours(shlex.split(line, comments=True)))}
        assert told - {"demo.llm_server"} == set(COMMANDS)


def test_the_reference_is_up_to_date():
    assert (CLONE / "docs" / "configuration.md").read_text(encoding="utf8") == docs.reference(), "run: make docs"


def test_the_reference_has_every_command_and_every_option_with_an_explanation():
    classes = {c for name in config.__all__ if isinstance(c := getattr(config, name), type) and dataclasses.is_dataclass(c)}
    parts = {kind for c in classes for kind in get_type_hints(c).values() if dataclasses.is_dataclass(kind)}
    inner = {config.CutConfig, config.StagesConfig, config.Published, config.ServerConfig}  # values of an option, another program
    assert classes - parts - inner == set(docs.COMMANDS.values()) - inner
    unexplained = [(c.__name__, name) for c in docs.COMMANDS.values() for name, _, _, about in docs.rows(c) if not about]
    assert unexplained == []


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", TEXTS[page], flags=re.DOTALL)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (CLONE / page).parent / path if path else CLONE / page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, link


def test_the_example_of_annotated_text_is_read(tmp_path):
    from nuner_jax.schema import read_annotated

    [block] = blocks(TEXTS["docs/howto/my-data.md"], "json")
    (tmp_path / "a.jsonl").write_text(block, encoding="utf8")
    [record] = read_annotated(tmp_path / "a.jsonl")
    assert [(record.text[m.start : m.end], m.concept) for m in record.mentions] == [("Curie", "scientist"), ("Warsaw", "city")]


@pytest.fixture
def desk(tiny_encoder, tmp_path, monkeypatch):
    """A directory as the inference page supposes it: an exported run, examples, texts."""
    hf = shutil.copytree(tiny_encoder, tmp_path / "runs" / "demo" / "hf")
    shutil.copytree(tiny_encoder, hf / "concept_encoder")
    about = {"logit": {"kind": "cosine", "scale": 10.0, "bias": -5.0}, "concept_encoder": "concept_encoder", "layers": [-1, -2]}
    (hf / "nuner.json").write_text(json.dumps(about))
    (tmp_path / "examples.txt").write_text(blocks(TEXTS["docs/inference.md"], "text")[0], encoding="utf8")
    (tmp_path / "texts.txt").write_text("Whisk the eggs.\nA copper bowl.\n", encoding="utf8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.slow
def test_the_inference_page_works_from_top_to_bottom(desk, monkeypatch, capsys):
    import nuner_jax.spacy  # noqa: F401  where nuner_jax is not installed no entry point registers the component

    space: dict = {}
    text = TEXTS["docs/inference.md"]
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(block, space)
            continue
        for line in lines_of(f"```bash\n{block}```"):
            words = shlex.split(line)
            if words[0] in ("pip", "curl") or words[1] == "serve":  # the service has its own tests
                continue
            if "<" in words:
                monkeypatch.setattr("sys.stdin", (desk / words[words.index("<") + 1]).open(encoding="utf8"))
                words = words[: words.index("<")]
            with pytest.raises(SystemExit) as end:
                importlib.import_module(module_of(words[1])).main(words[2:])
            out, err = capsys.readouterr()
            assert (line, end.value.code or 0) == (line, 0), err
            assert out or words[1] == "concepts", line
    for made in ("my-model/head.json", "my-pipeline/meta.json", "portable-hf/config.json", "concepts/concept_map.html"):
        assert (desk / made).is_file()
    assert list((desk / "portable-onnx").glob("**/*.onnx"))
