"""The model card of an exported encoder."""

from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from nuner_jax.errors import InputError
from nuner_jax.model.encoder import EncoderConfig
from nuner_jax.schema import read_json_lines


def model_card(
    about: dict[str, Any],
    config: dict[str, Any],
    encoder: EncoderConfig,
    license_name: str | None,
    has_pooler: bool,
    results: str = "",
) -> str:
    """README.md of the folder: `about` is nuner.json, `config` the run's; results.jsonl, if named, gives the scores."""
    front = {"license": license_name, "base_model": about["base"], "library_name": "transformers"}
    lines = ["---", *(f"{key}: {value}" for key, value in front.items() if value), "tags:"]
    lines += [f"- {tag}" for tag in ("named-entity-recognition", "token-classification", "nuner", "jax")]
    lines += ["---", "", "# Entity recognition encoder", "", introduction(about, encoder), ""]
    lines += ["## Use", "", usage(about["layers"]), "", *pooler_note(has_pooler), *files(about)]
    lines += ["## Training", "", *training(about, config), ""]
    if results:
        lines += ["## Few-shot scores", "", *scores(results), ""]
    lines += ["## Licence", "", licence(license_name, about["base"])]
    return "\n".join(lines) + "\n"


def introduction(about: dict[str, Any], encoder: EncoderConfig) -> str:
    """What this is, in a paragraph."""
    return (
        f"A {encoder.model_type} encoder ({encoder.num_hidden_layers} layers, width {encoder.hidden_size}), started from "
        f"{about['base'] or 'a local checkpoint'} and pre-trained for entity recognition {how(about)}. "
        f"It takes the place of its source wherever token vectors are used; "
        f"with a linear head it learns entity types from a few examples. Made with nuner_jax {about['nuner_jax']}."
    )


def how(about: dict[str, Any]) -> str:
    """The objective in words."""
    if about["objective"] == "classification":
        return "as an ordinary token classifier over the most frequent concepts that an LLM annotated (the style of NER-BERT)"
    return (
        "by [NuNER](https://arxiv.org/abs/2402.15343): the vectors of tokens are drawn to the vectors of the concepts "
        "that an LLM annotated them with"
    )


def usage(layers: list[int]) -> str:
    """Code that gives the features for a head."""
    return f"""```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
encoder = AutoModel.from_pretrained("path/to/this/folder")
batch = tokenizer("Marie Curie was born in Warsaw.", return_tensors="pt")
with torch.no_grad():
    states = encoder(**batch, output_hidden_states=True).hidden_states
features = torch.cat([states[i] for i in {layers}], dim=-1)  # one vector a token, for a linear head
```"""


def pooler_note(has_pooler: bool) -> list[str]:
    """What a user should know of the pooler."""
    if has_pooler:
        return ["The pooler is the source's, unchanged; it plays no part here.", ""]
    return [
        "The source has no pooler and neither has this encoder: Transformers reports its tensors as missing and makes random",
        "ones, which play no part in the token vectors. `add_pooling_layer=False` avoids the report.",
        "",
    ]


def files(about: dict[str, Any]) -> list[str]:
    """What lies beside the text encoder."""
    logit = about.get("logit")
    if logit is None:
        return ["There is no concept encoder: the classifier that the encoder was trained under is not part of the folder.", ""]
    kind = f"{logit['scale']:.4g} x cosine {logit['bias']:+.4g}" if logit["kind"] == "cosine" else "the dot product"
    return [
        f"`concept_encoder/` gives a concept's vector (mean over its tokens). The logit of a token and a concept is {kind};",
        "`nuner.json` holds these numbers.",
        "",
    ]


def training(about: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Recipe and data."""
    model, data = config["model"], about["data"]
    special = {-1: "nothing", 0: "the embeddings", "half": "the embeddings and the bottom half of the layers"}
    frozen = special.get(model["freeze_layers"], f"the embeddings and the bottom {model['freeze_layers']} layers")
    lines = [
        f"- recipe `{about['recipe']}`, step {about['step']} of {about['num_steps']}, {config['batch_size']} packed rows a step,",
        f"  learning rate {config['optim']['learning_rate']:g}, frozen in the text encoder: {frozen}",
    ]
    lines.append(
        f"- data: {data['sentences']:,} sentences with {data['mentions']:,} mentions of {data['concepts']:,} concepts"
        f" (fingerprint {data['fingerprint'][:12]}), annotated by an LLM"
    )
    return lines


def scores(results: str) -> list[str]:
    """A Markdown table of a results.jsonl: token-level macro F1, mean and deviation over seeds."""
    cells: dict[str, dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    rows = []
    for number, row in read_json_lines(Path(results)):
        if not isinstance(row, dict) or not {"system", "task", "protocol", "k", "token_macro_f1"} <= row.keys():
            raise InputError(f"{results}, line {number}: not a result row of the evaluate stage")
        rows.append(row)
    several = [name for name in ("head", "labels", "sampling") if len({row.get(name) for row in rows}) > 1]
    for row in rows:
        name = ", ".join(
            [row["system"], row["protocol"], f"layers {row.get('layers')}", *(str(row.get(part)) for part in several)]
        )
        cells[name][row["task"], row["k"]].append(100 * row["token_macro_f1"])
    columns = sorted({column for row in cells.values() for column in row})
    lines = ["Token-level macro F1, mean ± standard deviation over support sets.", ""]
    lines += ["| |" + "".join(f" {task} k={k} |" for task, k in columns), "|---|" + "---|" * len(columns)]
    for name, row in cells.items():
        lines.append(f"| {name} |" + "".join(f" {cell(row.get(column, []))} |" for column in columns))
    return lines


def cell(values: list[float]) -> str:
    """Mean ± deviation, as far as there are values."""
    if not values:
        return ""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def licence(license_name: str | None, base: str | None) -> str:
    """Whose terms hold."""
    return (
        f"The weights derive from {base or 'a local checkpoint'}, whose licence{f' ({license_name})' if license_name else ''} "
        "holds. The terms of the annotated text, and of the LLM that annotated it, may restrict use further."
    )
