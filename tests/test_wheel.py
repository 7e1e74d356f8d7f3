"""The built wheel is complete: unpacked elsewhere, it passes the tests that need only the package and its data."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parent.parent
# Tests that touch every kind of packaged file: configs, demo corpus, demo tasks; and the pure parts of the stages.
TESTS = ["cli", "config", "imports", "schema", "demo_data", "prompt", "parse", "align", "packing", "concepts", "tasks", "k_shot"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this clone, built without a network."""
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(CLONE)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("nuner_jax-*-py3-none-any.whl")
    return path


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "nuner_jax", "configs"], cwd=CLONE, capture_output=True, text=True, check=True)
    wanted = {name if name.startswith("nuner_jax/") else f"nuner_jax/{name}" for name in tracked.stdout.splitlines()}
    assert wanted <= names
    assert {name.split("/")[0] for name in names} == {"nuner_jax", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".safetensors", ".sqlite"))]


def test_the_tests_pass_against_the_unpacked_wheel(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.copytree(CLONE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CLONE / "pyproject.toml", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = [sys.executable, "-c", "import nuner_jax; print(nuner_jax.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).parent == site / "nuner_jax"
    words = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    words += [f"tests/test_{name}.py" for name in TESTS]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert " passed" in done.stdout.splitlines()[-1]
