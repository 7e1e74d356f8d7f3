"""The configs: every field explained, every packaged file and every recipe valid for its stage."""

import ast
import dataclasses
from pathlib import Path

import pytest
import yaml

from nuner_jax import cli, config, options
from nuner_jax.errors import InputError

CLASSES = {
    "annotate": config.AnnotateConfig,
    "dataset": config.DatasetConfig,
    "train": config.TrainConfig,
    "export": config.ExportConfig,
    "evaluate": config.EvaluateConfig,
}
ALTERNATIVES = {"train": ("num_train_steps", "num_epochs")}
CONFIGS = options.config_path("demo/train").parent.parent
STAGE_FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.stem in CLASSES)


def load(stage, *words):
    options = {"recipes": config.recipes(stage)} if stage in config.RECIPES["paper"] else {}
    return cli.parse(CLASSES[stage], words, prog=stage, alternatives=ALTERNATIVES.get(stage, ()), **options)


def test_every_field_of_every_config_has_its_line_of_documentation():
    missing = []
    sources = [path.read_text(encoding="utf8") for path in Path(config.__file__).parent.glob("*.py")]
    classes = [node for source in sources for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert len(classes) > 10
    for node in classes:
        assert ast.get_docstring(node), node.name
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                group = isinstance(field.value, ast.Call) and str(getattr(field.value.func, "id", "")).endswith("Config")
                if not group and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                    missing.append(f"{node.name}.{field.target.id}")
    assert missing == []


@pytest.mark.parametrize("stage", CLASSES)
def test_configs_are_frozen(stage):
    for part in [CLASSES[stage], *(kind for kind in options.keys_of(CLASSES[stage]).values() if dataclasses.is_dataclass(kind))]:
        assert part.__dataclass_params__.frozen, part


@pytest.mark.parametrize("path", STAGE_FILES, ids=lambda path: str(path.relative_to(CONFIGS).with_suffix("")))
def test_a_packaged_config_is_valid_and_tells_its_command(path):
    name = str(path.relative_to(CONFIGS).with_suffix(""))
    found = load(path.stem, "--config", name)
    assert f"python -m nuner_jax.{path.stem} --config {name}" in path.read_text(encoding="utf8")
    for key, value in yaml.safe_load(path.read_text(encoding="utf8")).items():
        assert key == "recipe" or cli.as_dict(found)[key] == value or isinstance(value, dict), key


@pytest.mark.parametrize("path", sorted((CONFIGS / "eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_packaged_evaluation_is_valid_and_tells_its_command(path):
    found = load("evaluate", "--config", f"eval/{path.stem}")
    assert f"python -m nuner_jax.evaluate --config eval/{path.stem}" in path.read_text(encoding="utf8")
    systems = [spec.partition("=")[0] for spec in (*found.encoders, *found.llms)]
    assert set(found.expected) <= set(systems)
    assert all(set(points) <= set(found.ks) for points in found.expected.values())


def test_the_demo_configs_hand_on_to_each_other():
    assert load("train", "--config", "demo/train").data.path == (load("dataset", "--config", "demo/dataset").out,)
    assert load("export", "--config", "demo/export").workdir == load("train", "--config", "demo/train").workdir
    encoders = load("evaluate", "--config", "demo/evaluate").encoders
    assert [e.partition("=")[2] for e in encoders] == ["minilm", load("export", "--config", "demo/export").out]
    outs = {stage: Path(load(stage, "--config", f"demo/{stage}").out) for stage in ("dataset", "export", "evaluate", "annotate")}
    assert {stage: str(out) for stage, out in outs.items()} == {
        "annotate": "runs/demo/annotate",
        "dataset": "runs/demo/dataset",
        "export": "runs/demo/hf",
        "evaluate": "runs/demo/results",
    }


@pytest.mark.parametrize("stage", config.RECIPES["paper"])
def test_a_recipe_sets_what_it_says_and_nothing_else(stage):
    more = ("--num_epochs", "1") if stage == "train" else ()
    keys = config.RECIPES["paper"][stage]
    plain = _flat(cli.as_dict(load(stage, *more)))
    paper = _flat(cli.as_dict(load(stage, *more, "--recipe", "paper")))
    assert {key for key in plain if plain[key] != paper[key]} == {"recipe", *keys}
    assert {key: paper[key] for key in keys} == keys


def test_the_paper_recipe_is_the_papers():
    train = load("train", "--num_epochs", "1", "--recipe", "paper")
    assert (train.model.logit, train.model.freeze_layers) == ("dot", "half")
    assert load("dataset", "--recipe", "paper").filter == "paper"


def test_a_config_is_found_by_path_before_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "train").write_text("num_epochs: 77\n")
    assert load("train", "--config", "demo/train").num_epochs == 77
    assert options.config_path("demo/train.yaml").is_file()
    with pytest.raises(InputError, match="demo/trian"):
        options.config_path("demo/trian")


def _flat(tree, prefix=""):
    rows = {}
    for key, value in tree.items():
        rows |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return rows
