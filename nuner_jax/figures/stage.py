"""What a directory holds, and the figures that are made of it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nuner_jax.config import FiguresConfig
from nuner_jax.errors import InputError
from nuner_jax.schema import read_json_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["dataset", "export", "results", "ablation"]
FONT_SIZE = 5.5
"""Points, of the names on a concept map a column wide."""
KINDS = "a data set, an exported encoder, results of evaluate, an ablation"


def kind_of(folder: Path) -> Kind | None:
    """What stage has written a directory; None for any other."""
    if (folder / "results.jsonl").is_file():
        first = next(read_json_lines(folder / "results.jsonl"), (0, {}))[1]
        return "ablation" if isinstance(first, dict) and "ablation" in first else "results"
    if table_of(folder) is not None:
        return "dataset"
    return "export" if (folder / "nuner.json").is_file() and (folder / "concept_encoder").is_dir() else None


def table_of(folder: Path) -> Path | None:
    """The concept table of a data set, given its folder or its data_dir."""
    from nuner_jax.dataset.records import dataset_folder

    places = (folder / "concepts.jsonl", dataset_folder(folder) / "concepts.jsonl")
    return next((path for path in places if path.is_file()), None)


VERSION = re.compile(r"\d+\.\d+\.\d+")


def names_of(folders: Sequence[Path]) -> list[str]:
    """What figures call directories: their names, and where these are alike as many of the directories above as tell them apart.

    Of a data set the data_dir counts, not the version below it.
    """
    parts = [[p for p in folder.resolve().parts[1:] if p != "nuner" and not VERSION.fullmatch(p)] for folder in folders]
    names: list[str] = []
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["_".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def find(runs: Sequence[str]) -> list[tuple[Path, Kind]]:
    """The directories that figures can be made of: those named, or those in them. Raises InputError where there is none."""
    found: dict[Path, tuple[Path, Kind]] = {}  # one that is named twice counts once
    for name in runs:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"{name}: no such directory")
        places = [folder] if kind_of(folder) else sorted(path for path in folder.iterdir() if path.is_dir())
        here: dict[Path, tuple[Path, Kind]] = {path.resolve(): (path, kind) for path in places if (kind := kind_of(path))}
        found |= here
        if not here:
            raise InputError(f"{name}: neither holds nor is what figures are made of ({KINDS})")
    if not found:
        raise InputError(f"name at least one directory: {KINDS}")
    return list(found.values())


def draw_all(config: FiguresConfig) -> Iterator[tuple[Path, str]]:
    """Draws every figure and yields (PNG file, what it shows). Raises InputError."""
    from nuner_jax.plotting import save

    found, out = find(config.runs), Path(config.out)
    folders = {kind: [path for path, k in found if k == kind] for kind in ("dataset", "export", "results", "ablation")}
    if folders["dataset"]:
        yield save(frequency_figure(folders["dataset"]), out / "concept_frequency")[0], "concept frequency"
    for name, figure, what in few_shot_figures(folders["results"]):
        yield save(figure, out / name)[0], what
    for folder, name in zip(folders["export"], names_of(folders["export"]), strict=True):
        path = out / f"concept_map_{name}.png"
        yield path, f"concept map, {concept_map(folder, config, path)}"
    for folder, name in zip(folders["ablation"], names_of(folders["ablation"]), strict=True):
        from nuner_jax.ablate.report import read_scores
        from nuner_jax.figures import ablation

        scores = read_scores(folder)
        yield save(ablation.draw(scores), out / f"ablation_{name}")[0], f"ablation, {scores.title}"


def frequency_figure(folders: Sequence[Path]) -> "Figure":
    """All data sets in one figure, by the names of their directories."""
    from nuner_jax.dataset.concepts import load_table
    from nuner_jax.figures import frequency

    tables = zip(names_of(folders), map(table_of, folders), strict=True)
    return frequency.draw({name: [c.frequency for c in load_table(path)] for name, path in tables if path})


def few_shot_figures(folders: Sequence[Path]) -> Iterator[tuple[str, "Figure", str]]:
    """(name, figure, what it shows) of all results together: frozen encoders by k, and the rest where an LLM is among it."""
    from nuner_jax.evaluate.results import read_rows
    from nuner_jax.figures import few_shot

    rows = read_rows(folders) if folders else []
    frozen = [row for row in rows if row["protocol"] == "frozen"]
    others = [row for row in rows if row["protocol"] != "frozen"]
    if frozen:
        yield "few_shot", few_shot.draw_few_shot(frozen), "few-shot curves"
        yield "few_shot_column", few_shot.draw_few_shot(frozen, column=True), "few-shot curves, the average"
    if others and few_shot.is_llm_comparison(rows):
        yield "llm_comparison", few_shot.draw_llm(others), "fine-tuned encoders and LLMs"
    elif others:
        yield "finetune", few_shot.draw_llm(others), "fine-tuned encoders"


def concept_map(folder: Path, config: FiguresConfig, path: Path) -> str:
    """Draws the map of an exported model's concept embeddings as PNG and PDF; tells how many it shows. Raises InputError."""
    from nuner_jax.concepts.embedding import embed, load_concept_encoder
    from nuner_jax.concepts.names import read_concepts
    from nuner_jax.concepts.picture import check_installed, draw
    from nuner_jax.concepts.projection import project
    from nuner_jax.plotting import COLUMN_WIDTH

    check_installed()
    concepts, total = read_concepts(config.concepts, config.limit)
    points = project(embed(load_concept_encoder(str(folder)), concepts))
    path.parent.mkdir(parents=True, exist_ok=True)
    for file in (path, path.with_suffix(".pdf")):
        draw(points, [c.name for c in concepts], [c.frequency for c in concepts], file, COLUMN_WIDTH, FONT_SIZE)
    return f"{len(concepts):,} of {total:,} concepts"
