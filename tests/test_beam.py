"""The dataset stage on Apache Beam: the same bytes as on one machine, and what needs no Beam to be found wrong."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import fsspec
import pytest
from helpers import write_json_lines, write_mentions

from nuner_jax import cli, files
from nuner_jax.config import DatasetConfig, recipes
from nuner_jax.dataset.builder import build, build_remotely, uploaded
from nuner_jax.errors import InputError
from nuner_jax.lists import Strs

CLONE = Path(__file__).parents[1]


def folder_bytes(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Beam is installed")
def test_without_the_extra_one_line_says_what_to_install(tmp_path, tiny_encoder):
    path = write_mentions(tmp_path / "a.jsonl", 20)
    config = DatasetConfig(
        input=Strs([str(path)]), out=str(tmp_path / "data"), tokenizer=str(tiny_encoder), row_length=32, runner="beam"
    )
    with pytest.raises(InputError, match=r"runner beam needs the extra beam: pip install 'nuner-jax\[beam\]'"):
        build(config)
    assert not (tmp_path / "data").exists()


def test_an_address_is_written_by_beam_only(tmp_path, tiny_encoder):
    path = write_mentions(tmp_path / "a.jsonl", 20)
    config = DatasetConfig(input=Strs([str(path)]), out="memory://bucket/data", tokenizer=str(tiny_encoder), row_length=32)
    with pytest.raises(InputError, match="out memory://bucket/data: runner local writes to a folder of this machine"):
        build_remotely(config)


def test_the_command_line_takes_addresses():
    words = [
        "--input",
        "gs://bucket/a-*.jsonl",
        "--out",
        "gs://bucket/data",
        "--runner",
        "beam",
        "--beam_args",
        "runner=X",
        "y=1",
    ]
    config = cli.parse(DatasetConfig, words, prog="dataset", recipes=recipes("dataset"))
    assert (config.input, config.out, config.beam_args) == (("gs://bucket/a-*.jsonl",), "gs://bucket/data", ("runner=X", "y=1"))


def test_an_address_without_a_driver_is_named():
    with pytest.raises(InputError, match="nosuch://bucket/a"):
        files.open_raw("nosuch://bucket/a")


def test_input_is_read_from_patterns_and_addresses(tmp_path, tiny_encoder, memory):
    settings = {"tokenizer": str(tiny_encoder), "row_length": 32}
    for n in range(2):
        write_mentions(tmp_path / f"part-{n}.jsonl", 30, seed=n)
        memory.pipe_file(f"/bucket/part-{n}.jsonl", (tmp_path / f"part-{n}.jsonl").read_bytes())
    named = [str(tmp_path / f"part-{n}.jsonl") for n in range(2)]
    kinds = [
        named,
        [str(tmp_path / "part-*.jsonl")],
        ["memory://bucket/part-*.jsonl"],
        ["memory://bucket/part-0.jsonl", named[1]],
    ]
    built = [build(DatasetConfig(input=Strs(kind), out=str(tmp_path / str(n)), **settings)) for n, kind in enumerate(kinds)]
    assert all(folder_bytes(folder) == folder_bytes(built[0]) for folder in built)
    assert json.loads((built[0] / "manifest.json").read_text())["sentences"] > 30


def test_what_is_uploaded_replaces_the_earlier_whole_or_not_at_all(memory):
    def publish(text, fails=False):
        with uploaded("memory://bucket/data") as (folder, shards):
            (folder / "manifest.json").write_text(text)
            memory.pipe_file(f"/{shards.removeprefix('memory://')}/shard", text.encode())
            if fails:
                raise InputError("no")

    def content():
        return {name: memory.cat_file(name) for name in memory.find("/")}

    publish("first")
    assert content() == {"/bucket/data/manifest.json": b"first", "/bucket/data/shard": b"first"}
    with pytest.raises(InputError):
        publish("second", fails=True)
    assert content() == {"/bucket/data/manifest.json": b"first", "/bucket/data/shard": b"first"}
    publish("third")
    assert set(content().values()) == {b"third"}
    assert len(content()) == 2


REMOTE = """
import sys
import fsspec
from nuner_jax.lists import Strs
from nuner_jax.config import DatasetConfig
from nuner_jax.dataset.builder import build_remotely
source, tokenizer, out = sys.argv[1:]
memory = fsspec.filesystem("memory")
memory.pipe_file("/bucket/a.jsonl", open(source, "rb").read())
sizes = {"row_length": 32, "num_groups": 2, "limit": 500}
places = {"input": Strs(["memory://bucket/a.jsonl"]), "out": "memory://bucket/data"}
build_remotely(DatasetConfig(**places, **sizes, tokenizer=tokenizer, runner="beam"))
memory.get("/bucket/data/nuner/1.0.0/", out, recursive=True)
assert not memory.exists("/bucket/data/nuner/1.0.0.partial")
"""


@pytest.fixture(scope="module")
def beam_python(tmp_path_factory):
    """A Python that has Beam before, and all else after, what this one has: Beam asks for older versions of some packages."""
    folder = tmp_path_factory.mktemp("beam") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    paths = {name: sysconfig.get_path(name) for name in ("purelib", "platlib")}
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True
    )
    Path(own.stdout.strip(), "outer.pth").write_text("\n".join(dict.fromkeys(paths.values())) + "\n")
    extra = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["optional-dependencies"]["beam"]
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *extra], check=True)
    return python


@pytest.mark.slow
def test_beam_writes_the_bytes_that_one_machine_writes(beam_python, tmp_path, tiny_encoder):
    first, second = str(write_mentions(tmp_path / "a.jsonl", 1500)), str(write_mentions(tmp_path / "b.jsonl", 200, seed=1))
    doubled = tmp_path / "b.jsonl"
    doubled.write_text(doubled.read_text() * 2)
    broken = str(write_json_lines(tmp_path / "broken.jsonl", [{"text": "alpha", "mentions": []}, {"text": 3}]))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CLONE), os.environ.get("PYTHONPATH", "")])}

    def run(*words):
        return subprocess.run([beam_python, *words], capture_output=True, text=True, env=environment, check=False)

    def on_beam(out, *words):
        command = ["--tokenizer", str(tiny_encoder), "--row_length", "32", "--out", str(out), "--runner", "beam", *words]
        return run("-m", "nuner_jax.dataset", *command, "--beam_args", "runner=DirectRunner")

    settings = {"tokenizer": str(tiny_encoder), "row_length": 32}
    cases = [
        (["--num_groups", "3", "--min_concept_count", "40"], {"num_groups": 3, "min_concept_count": 40}),
        (["--merge", "union", "--mentions_per_row", "9"], {"merge": "union", "mentions_per_row": 9}),
    ]
    for n, (words, values) in enumerate(cases):
        done = on_beam(tmp_path / f"beam{n}", "--input", first, second, *words)
        assert done.returncode == 0, done.stderr
        expected = build(DatasetConfig(input=Strs([first, second]), out=str(tmp_path / f"local{n}"), **settings, **values))
        assert json.loads((expected / "manifest.json").read_text())["dropped"]
        assert folder_bytes(tmp_path / f"beam{n}/nuner/1.0.0") == folder_bytes(expected)

    done = run("-c", REMOTE, first, str(tiny_encoder), str(tmp_path / "fetched"))
    assert done.returncode == 0, done.stderr
    expected = build(DatasetConfig(input=Strs([first]), out=str(tmp_path / "local"), num_groups=2, limit=500, **settings))
    assert folder_bytes(tmp_path / "fetched") == folder_bytes(expected)

    done = on_beam(tmp_path / "none", "--input", first, broken)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        f'nuner_jax.dataset: error: {broken}, line 2: "text" is missing or not a string',
    )
    assert not (tmp_path / "none").exists()
