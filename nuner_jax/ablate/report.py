"""Table and figure of an ablation, from what its directory holds."""

import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from nuner_jax.ablate.analysis import ALL, Scores, Trend, verdict
from nuner_jax.errors import InputError
from nuner_jax.evaluate.summary import Estimate
from nuner_jax.figures.published import ABLATIONS
from nuner_jax.schema import read_json_lines


def read_scores(folder: str | Path, metric: str = "token_macro_f1") -> Scores:
    """The scores of an ablation's directory. Raises InputError."""
    path = Path(folder) / "config.yaml"
    try:
        about = yaml.safe_load(path.read_text(encoding="utf8"))
        rows = [row for _, row in read_json_lines(Path(folder) / "results.jsonl")]
        return Scores(about, rows, metric)
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not the directory of an ablation ({type(error).__name__}: {error})") from None


def points(value: float) -> str:
    """A score in points."""
    return f"{100 * value:.1f}"


def cell(value: Estimate) -> str:
    """mean ± half width of the 95 % interval, in points."""
    return points(value.mean) + ("" if math.isnan(value.half_width) else f" ± {points(value.half_width)}")


def signed(value: Estimate) -> str:
    """A difference with its interval, in points."""
    low, high = value.mean - value.half_width, value.mean + value.half_width
    return f"{100 * value.mean:+.1f}" + ("" if math.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]")


def table(scores: Scores) -> list[list[str]]:
    """Header and rows: points, their differences to the first, trends; the last column is the mean over all k."""
    ks: list[int | str] = [*scores.ks, ALL] if len(scores.ks) > 1 else list(scores.ks)
    rows = [["", *(f"k={k}" if k != ALL else "mean" for k in ks)]]
    rows += [[point, *(cell(scores.get(point, k)) for k in ks)] for point in scores.points]
    first = scores.points[0]
    rows += [[f"{point} - {first}", *(signed(scores.difference(point, first, k)) for k in ks)] for point in scores.points[1:]]
    trends = [scores.trend(k) for k in ks]
    if all(trends):
        unit = "slope a decade" if scores.log_x else f"slope a unit of {scores.x_label}"
        rows.append([unit, *(signed(trend.slope) for trend in trends if trend)])
    return rows


def formula(trend: Trend, scores: Scores) -> str:
    """The fitted trend of the mean over all k."""
    x = f"log10({scores.x_label})" if trend.log else scores.x_label
    return f"Fitted: F1 = {points(trend.intercept)} {100 * trend.slope.mean:+.2f} x {x} (mean over all k)."


def sentence(scores: Scores) -> str:
    """Our direction against the published one, from the mean over all k."""
    effect, published = scores.effect(ALL), ABLATIONS.get(scores.published)
    if effect is None or published is None:
        return ""
    unit = "a decade" if scores.log_x else f"a unit of {scores.x_label}"
    what = unit if scores.on_axis() else f"for {scores.trained[-1]} against {scores.trained[0]}"
    words = {
        "agrees": "This agrees with the published direction",
        "disagrees": "This disagrees with the published direction",
        "undecided": "The interval leaves open whether this agrees with the published direction",
    }[verdict(effect, published.direction)]
    return f"Effect here: {signed(effect)} points of F1 {what}. {words}: {published.finding}."


def markdown(scores: Scores) -> str:
    """The report."""
    rows = table(scores)
    rows.insert(1, ["---", *(["---:"] * (len(rows[0]) - 1))])
    seeds = max(matrix.shape[0] for matrix in scores.matrices.values())
    supports = max(matrix.shape[1] for matrix in scores.matrices.values())
    trend = scores.trend(ALL)
    parts = [
        f"# {scores.title}",
        f"Macro token F1 in points, mean over {', '.join(scores.tasks)}; ± and [ ]: 95 % interval over {seeds} training seeds x "
        f"{supports} support sets, differences paired.",
        "\n".join("| " + " | ".join(row) + " |" for row in rows),
        formula(trend, scores) if trend else "",
        sentence(scores),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(rows: Sequence[Sequence[str]]) -> str:
    """A booktabs table."""
    special = str.maketrans(
        {c: f"\\{c}" for c in "&%$#_{}"} | {"^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
    )
    lines = [" & ".join(text.translate(special) for text in row) + r" \\" for row in rows]
    head = [r"\begin{tabular}{l" + "r" * (len(rows[0]) - 1) + "}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def write_report(folder: str | Path, out: str | Path = "") -> Path:
    """Writes report.md, table.tex and, where matplotlib is installed, figure.png and figure.pdf. Returns the Markdown file."""
    scores, target = read_scores(folder), Path(out or folder)
    target.mkdir(parents=True, exist_ok=True)
    text = markdown(scores)
    if importlib.util.find_spec("matplotlib"):
        from nuner_jax.figures import ablation
        from nuner_jax.plotting import save

        save(ablation.draw(scores), target / "figure")
        text += "\n![figure](figure.png)\n"
    else:
        print("no figure: matplotlib is not installed (pip install nuner-jax[plots])", file=sys.stderr)
    path = target / "report.md"
    path.write_text(text, encoding="utf8")
    (target / "table.tex").write_text(latex(table(scores)), encoding="utf8")
    return path
