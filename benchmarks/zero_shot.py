"""Zero-shot by label names: the concept encoder beside the untouched encoder with mean-pooled label names.

    python benchmarks/zero_shot.py --model runs/demo/hf --tasks kitchen helpdesk
    python benchmarks/zero_shot.py --model runs/demo/hf --thresholds      # on the tasks' training files

Prints macro token F1 on sentences of each task's test file. The model decides by its default threshold and sees no example. The
untouched encoder needs a threshold and gets the one that is best on the task's training file, for which it sees labels.
"""

import argparse
from typing import Any

import numpy as np

GRID = np.linspace(-1, 1, 81)  # of cosines
LOGITS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0)  # the default decides at 0


def macro_f1(gold: np.ndarray, found: np.ndarray, types: int) -> float:
    """Points, over types 1..types; 0 is none."""
    scores = []
    for t in range(1, types + 1):
        right = ((gold == t) & (found == t)).sum()
        scores.append(2 * right / max(1, (gold == t).sum() + (found == t).sum()))
    return 100 * float(np.mean(scores))


def best_threshold(scores: np.ndarray, gold: np.ndarray, grid: np.ndarray) -> float:
    """The number of the grid at which the best label of each word, if it scores more, gives the best macro F1."""
    label, best = scores.argmax(1) + 1, scores.max(1)
    return float(max(grid, key=lambda least: macro_f1(gold, np.where(best > least, label, 0), scores.shape[1])))


def some(split: Any, count: int) -> Any:
    """At most `count` sentences of a split, always the same."""
    chosen = np.random.default_rng(0).choice(len(split), min(count, len(split)), replace=False)
    return split.take(sorted(chosen.tolist()))


def by_names(ner: Any, words: list[tuple[str, ...]], types: tuple[str, ...]) -> np.ndarray:
    """The model's type of each word (1.., 0 none), from the names of the types and its default threshold."""
    from nuner_jax.inference.zero_shot import concept_texts

    vectors = ner._base.vectors(ner._base.words(words), (-1,))
    found = ner.concepts.candidates(vectors, ner.concepts.embed(concept_texts(types)[1]), None, flat=True)
    result = np.zeros(len(vectors), int)
    result[found.unit] = found.label + 1
    return result


def cosines(runner: Any, words: list[tuple[str, ...]], types: tuple[str, ...]) -> np.ndarray:
    """[words, types] cosines of an encoder's word vectors with the means over the tokens of the types' names."""
    from nuner_jax.concepts.projection import unit
    from nuner_jax.inference.zero_shot import concept_texts

    names = np.stack([tokens.mean(0) for tokens in runner.whole(concept_texts(types)[1])])
    return unit(runner.vectors(runner.words(words), (-1,))) @ unit(names).T


def compare(ner: Any, untouched: Any, task: Any, sentences: int) -> tuple[float, float]:
    """Macro token F1 of the model and of the untouched encoder's runner on one task."""
    from nuner_jax.evaluate.tasks import word_types

    test, train = some(task.test, sentences), some(task.train, sentences)
    gold = word_types(test.codes)
    least = best_threshold(cosines(untouched, train.words, task.types), word_types(train.codes), GRID)
    scores = cosines(untouched, test.words, task.types)
    plain = np.where(scores.max(1) > least, scores.argmax(1) + 1, 0)
    count = len(task.types)
    return macro_f1(gold, by_names(ner, test.words, task.types), count), macro_f1(gold, plain, count)


def by_threshold(ner: Any, split: Any, types: tuple[str, ...], sentences: int) -> list[float]:
    """Macro token F1 of the model at each of LOGITS, on sentences of a split."""
    from nuner_jax.evaluate.tasks import word_types
    from nuner_jax.inference.zero_shot import concept_texts

    part = some(split, sentences)
    vectors = ner._base.vectors(ner._base.words(part.words), (-1,))
    scores = ner.concepts.logits(vectors, ner.concepts.embed(concept_texts(types)[1]))
    label, best = scores.argmax(1) + 1, scores.max(1)
    return [macro_f1(word_types(part.codes), np.where(best > least, label, 0), len(types)) for least in LOGITS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/hf")
    parser.add_argument("--untouched", default="minilm")
    parser.add_argument("--tasks", nargs="+", default=["kitchen", "helpdesk"])
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--thresholds", action="store_true")
    options = parser.parse_args()
    from nuner_jax import NuNER
    from nuner_jax.evaluate.tasks import load_task

    ner = NuNER.from_pretrained(options.model)
    tasks = [load_task(spec) for spec in options.tasks]
    if options.thresholds:
        means = np.mean([by_threshold(ner, task.train, task.types, options.sentences) for task in tasks], 0)
        print("\n".join(f"logit {least:4.1f}   {mean:5.1f}" for least, mean in zip(LOGITS, means, strict=True)))
        return
    untouched = NuNER.from_pretrained(options.untouched)._base
    gains = []
    for task in tasks:
        ours, plain = compare(ner, untouched, task, options.sentences)
        gains.append(ours - plain)
        print(f"{task.name:16} {ours:5.1f}   untouched {plain:5.1f}   {ours - plain:+.1f}", flush=True)
    print(f"{'mean gain':16} {np.mean(gains):+.1f}")


if __name__ == "__main__":
    main()
