"""What imports what: the package opens instantly, heavy libraries stay where architecture puts them, data moves forward only."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nuner_jax

PACKAGE = Path(nuner_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Top-level package -> the only files and folders that may import it.
PLACES = {
    "openai": {"annotate/client.py", "evaluate/llm.py"},
    "orbax": {"checkpoint.py"},
    "grain": {"dataset/", "annotate/corpus.py", "checkpoint.py"},
    "torch": set(),
    "onnx": {"export/onnx.py", "export/onnx_graph.py"},
    "onnxruntime": {"export/onnx.py"},
    "tensorflow": set(),
    "transformers": {"pretrained.py", "export/"},
    "jsonargparse": {"cli.py"},
    "fastapi": {"serve/"},
    "spacy": {"spacy.py"},
}
STAGES = ["annotate", "dataset", "train", "export", "evaluate"]
# A later stage's module that an earlier stage may use all the same: the few-shot probe of the training loop.
EXCEPTIONS = {("train", "nuner_jax.evaluate.probe")}
FOUNDATION = [
    "errors",
    "lists",
    "options",
    "cli",
    "memory",
    "config",
    "schema",
    "pretrained",
    "tracking",
    "model",
    "optim",
    "parallel",
    "checkpoint",
]


def imported(path: Path) -> set[str]:
    """Every module name that a file imports at run time, inside functions too; `from a import b` counts as a and a.b."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    """train.py -> train, dataset/loader.py -> dataset."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def run(code: str, *, path: Path | None = None) -> str:
    python_path = [str(path)] if path else []
    python_path += filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(python_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_of_the_package_loads_nothing_but_the_standard_library():
    code = "import sys; before = set(sys.modules); import nuner_jax; print(*sorted(set(sys.modules) - before))"
    tops = {name.split(".")[0] for name in run(code).split()}
    assert tops - sys.stdlib_module_names == {"nuner_jax"}


@pytest.mark.parametrize("stage", [*STAGES, "report", "fit", "predict", "serve", "concepts"])
def test_a_command_loads_no_array_library_before_it_has_read_its_options(stage):
    module = f"nuner_jax.{stage}" + (".__main__" if (PACKAGE / stage).is_dir() else "")
    loaded = {name.split(".")[0] for name in run(f"import sys, {module}; print(*sys.modules)").split()}
    heavy = {
        "jax",
        "flax",
        "torch",
        "tensorflow",
        "transformers",
        "tensorflow_datasets",
        "orbax",
        "grain",
        "openai",
        "matplotlib",
    }
    assert not loaded & heavy


WALK = """
import importlib, pkgutil, sys
import nuner_jax
names = [m.name for m in pkgutil.walk_packages(nuner_jax.__path__, "nuner_jax.")]
for name in names:
    if not name.startswith(("nuner_jax.export.onnx", "nuner_jax.spacy")):  # need an extra; spaCy imports torch where it is installed
        importlib.import_module(name)
print(len(names), "torch" in sys.modules)
"""


def test_no_module_imports_tensorflow_even_where_it_is_installed(tmp_path):
    fake, witness = tmp_path / "tensorflow", tmp_path / "was_imported"
    fake.mkdir()
    (fake / "__init__.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    count, torch = run(WALK, path=tmp_path).split()[-2:]
    assert int(count) > 20
    assert torch == "False"
    assert not witness.exists()
    run("import tensorflow", path=tmp_path)  # the witness does testify
    assert witness.exists()


@pytest.mark.parametrize("library", PLACES)
def test_a_library_is_imported_only_where_it_belongs(library):
    users = {str(path.relative_to(PACKAGE)) for path in FILES if any(name.split(".")[0] == library for name in imported(path))}
    assert {user for user in users if not user.startswith(tuple(PLACES[library]))} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_a_later_one(stage):
    later = {f"nuner_jax.{name}" for name in STAGES[STAGES.index(stage) + 1 :]}
    for path in FILES:
        if part_of(path) == stage:
            wrong = {n for n in imported(path) if ".".join(n.split(".")[:2]) in later}
            wrong = {n for n in wrong if not any(s == stage and n.startswith(m) for s, m in EXCEPTIONS)}
            assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"


@pytest.mark.parametrize("part", FOUNDATION)
def test_what_the_stages_stand_on_imports_no_stage(part):
    paths = [path for path in FILES if part_of(path) == part]
    assert paths
    stages = {f"nuner_jax.{stage}" for stage in STAGES}
    for path in paths:
        wrong = {name for name in imported(path) if ".".join(name.split(".")[:2]) in stages}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {sorted(wrong)}"
