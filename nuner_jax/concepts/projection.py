"""Embeddings to a plane: t-SNE, rescaled, and where labels fit beside their points. Pure functions.

Shapes: N points, D width.
"""

from collections.abc import Sequence

import numpy as np

PERPLEXITY = 30.0
FEW = 8
"""Below this many points neighbourhoods say nothing; the two main directions are drawn instead."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """[N, D] float32 of length 1; zero stays zero."""
    x = np.asarray(vectors, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def principal(vectors: np.ndarray, width: int) -> np.ndarray:
    """[N, min(width, D, N)] coordinates along the directions of greatest variance, the same sign every time."""
    x = vectors - vectors.mean(0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    sign = np.where(vt[np.arange(len(vt)), np.abs(vt).argmax(1)] < 0, -1, 1)
    return (u * s * sign)[:, :width]


def project(vectors: np.ndarray) -> np.ndarray:
    """[N, D] embeddings -> [N, 2] in the unit square, neighbours by cosine near each other (t-SNE, van der Maaten 2008).

    The same vectors give the same map: it starts from the two main directions. Needs scikit-learn (extra `plots`).
    """
    x = unit(vectors)
    if len(x) < FEW:
        flat = principal(x, 2)
        return into_square(np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))))
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = principal(x, 50)
    start = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-9) * 1e-4  # as van der Maaten's and scikit-learn's own
    with threadpool_limits(
        1
    ):  # threads that wait for each other in tiny steps cost more than they give, much more on a busy machine
        plane = TSNE(perplexity=min(PERPLEXITY, (len(x) - 1) / 3), init=start, random_state=0)  # type: ignore[arg-type]
        return into_square(plane.fit_transform(reduced))


def into_square(points: np.ndarray) -> np.ndarray:
    """[N, 2] moved and scaled into 0..1, both axes by the same factor, the shorter one centred."""
    low, high = points.min(0), points.max(0)
    extent = max(float((high - low).max()), 1e-9)
    return (0.5 + (points - (low + high) / 2) / extent).astype(np.float32)


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int, chunk: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """For [Q, D] queries the `count` vectors of greatest cosine, best first: numbers and cosines, [Q, count] each."""
    table, count = unit(vectors), min(count, len(vectors))
    numbers, cosines = [], []
    for start in range(0, len(queries), chunk):
        scores = unit(queries[start : start + chunk]) @ table.T
        top = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
        numbers.append(np.take_along_axis(top, order, 1))
        cosines.append(np.take_along_axis(scores, numbers[-1], 1))
    return np.concatenate(numbers), np.concatenate(cosines)


def place_labels(
    points: np.ndarray, sizes: np.ndarray, bounds: tuple[float, float], gap: float = 2.0
) -> list[tuple[int, float, float]]:
    """Where labels go: (number, left, bottom) of each that finds room inside `bounds` (width, height) without touching another.

    points [N, 2] and sizes [N, 2] (width, height) in the same unit; the first come first. Tried in turn: right of the point, left,
    above, below. A label that finds no room is left out.
    """
    placed: list[tuple[int, float, float]] = []
    boxes = np.zeros((0, 4))
    for number, ((x, y), (w, h)) in enumerate(zip(points, sizes, strict=True)):
        for left, bottom in _sides(x, y, w, h, gap):
            inside = left >= 0 and bottom >= 0 and left + w <= bounds[0] and bottom + h <= bounds[1]
            apart = (boxes[:, 0] >= left + w) | (boxes[:, 2] <= left) | (boxes[:, 1] >= bottom + h) | (boxes[:, 3] <= bottom)
            if inside and apart.all():
                placed.append((number, float(left), float(bottom)))
                boxes = np.vstack([boxes, [left, bottom, left + w, bottom + h]])
                break
    return placed


def _sides(x: float, y: float, w: float, h: float, gap: float) -> Sequence[tuple[float, float]]:
    return ((x + gap, y - h / 2), (x - gap - w, y - h / 2), (x - w / 2, y + gap), (x - w / 2, y - gap - h))
