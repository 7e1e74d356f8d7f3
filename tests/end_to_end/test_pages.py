"""The commands of the stages' pages and the how-tos, run one after the other as they stand there.

The names they use are here: a small encoder goes by the names of the large ones, an LLM server answers as the provider would.
Not here: packaged configs (the demo's and the ablations' have tests of their own), clouds, and what serves until it is stopped.
"""

import gzip
import importlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers import make_dataset, make_encoder, write_json_lines, write_mentions
from llm_serving import demo_rows, serve

from nuner_jax import pretrained
from nuner_jax.__main__ import module_of

CLONE = Path(__file__).resolve().parent.parent.parent
STAGES = ["annotate", "dataset", "train", "export", "evaluate"]
NOT_HERE = re.compile(r"--config|--runner beam|demo\.llm_server|^pip |batch merge|--step 2000|^python -m nuner_jax\.figures")

pytestmark = pytest.mark.slow


def commands(page: str) -> list[str]:
    """Those of a page that are run here."""
    text = (CLONE / "docs" / f"{page}.md").read_text(encoding="utf8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not NOT_HERE.search(line)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder") / "encoder", positions=514)


@pytest.fixture
def desk(tmp_path, encoder, monkeypatch):
    """A directory with the files that the pages name; the packaged server takes the provider's place."""
    for name in ("FacebookAI/roberta-base", "path/to/encoder"):
        shutil.copytree(encoder, tmp_path / name)
    rows = demo_rows(60)
    with gzip.open(tmp_path / "c4-train.00000-of-00001.json.gz", "wt", encoding="utf8") as file:
        for row in rows:
            file.write(json.dumps({"text": row["text"], "url": "https://example.org", "timestamp": ""}) + "\n")
    write_json_lines(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in rows])
    for folder in ("notes", "annotated", "gpt"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notes" / "monday.txt").write_text("".join(row["text"] + "\n" for row in rows), encoding="utf8")
    for name in ("gpt/annotations-00000-of-00001.jsonl", "gemma.jsonl", "annotated/annotations-00000-of-00001.jsonl"):
        write_mentions(tmp_path / name, count=60)
    bio = "".join(f"alpha\tB-name\n{word}\tO\n\nbeta\tB-food\neats\tO\n\n" for word in ("eats", "food", "city", "movie") * 8)
    for name in ("train.bio", "test.bio"):
        (tmp_path / name).write_text(bio, encoding="utf8")
    monkeypatch.setattr(pretrained, "_minilm", lambda: encoder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield tmp_path


def expanded(word: str) -> list[str]:
    """What a shell makes of a word."""
    return sorted(map(str, Path().glob(word))) or [word] if "*" in word else [word]


def run(line: str, capsys) -> None:
    """Runs the command as typed; it must end with 0."""
    line = re.sub(r"http://localhost:\d+/v1", os.environ["OPENAI_BASE_URL"], re.sub(r"^[A-Z_]+=\S+ ", "", line))
    words = shlex.split(line, comments=True)
    assert words[:2] == ["python", "-m"]
    quoted = set(re.findall(r"'([^']*)'", line))
    words = [found for word in words[2:] for found in ([word] if word in quoted else expanded(word))]
    with pytest.raises(SystemExit) as end:
        importlib.import_module(module_of(words[0].removeprefix("nuner_jax."))).main(words[1:])
    assert (line, end.value.code or 0) == (line, 0), capsys.readouterr().err


def test_the_stages_pages_work_one_after_the_other(desk, capsys):
    for line in [line for page in STAGES for line in commands(page)]:
        run(line, capsys)
    for made in ("annotated/report.md", "nuner-roberta/model.safetensors", "results/report.html", "runs/probed/checkpoints"):
        assert (desk / made).exists()


@pytest.mark.parametrize("page", ["my-llm", "my-data", "my-encoder"])
def test_the_how_tos_work(page, desk, encoder, capsys):
    for name, seed in (("general-data", 3), ("my-data", 4)) if page == "my-data" else ():
        shutil.copytree(make_dataset(desk / name, "minilm", seed=seed), desk / name, dirs_exist_ok=True)
    for line in commands(f"howto/{page}"):
        run(line, capsys)
