"""The concept map: projection, room for labels, sources of names, the two commands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuner_jax.concepts import projection


def clusters(count=12, width=16):
    """Three groups of directions."""
    rng = np.random.default_rng(0)
    centres = np.eye(3, width) * 10
    return np.concatenate([c + rng.normal(size=(count, width)) for c in centres])


def test_neighbours_stay_neighbours_on_the_map():
    points = projection.project(clusters())
    assert points.shape == (36, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) // 12 == np.arange(36) // 12).all()


def test_the_same_vectors_give_the_same_map():
    x = clusters()
    np.testing.assert_array_equal(projection.project(x), projection.project(x.copy()))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_few_concepts_have_a_map_too(count):
    points = projection.project(clusters()[:count])
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()


def test_nearest_agrees_with_the_full_sort():
    x = clusters()
    numbers, cosines = projection.nearest(x[:5], x, 4, chunk=2)
    full = projection.unit(x[:5]) @ projection.unit(x).T
    np.testing.assert_array_equal(numbers, np.argsort(-full, axis=1)[:, :4])
    np.testing.assert_allclose(cosines[:, 0], 1, rtol=1e-5)
    assert projection.nearest(x[:1], x[:3], 10)[0].shape == (1, 3)


coordinates = st.floats(0, 100)
BOX = st.tuples(coordinates, coordinates, st.floats(1, 40), st.floats(1, 20))


@given(st.lists(BOX, max_size=30))
def test_labels_lie_inside_and_never_touch(rows):
    array = np.array(rows, float).reshape(-1, 4)
    placed = projection.place_labels(array[:, :2], array[:, 2:], (100.0, 100.0))
    boxes = [(left, bottom, left + array[n, 2], bottom + array[n, 3]) for n, left, bottom in placed]
    for i, (a, b, c, d) in enumerate(boxes):
        assert a >= 0
        assert b >= 0
        assert c <= 100
        assert d <= 100
        assert all(c <= e or g <= a or d <= f or h <= b for e, f, g, h in boxes[:i])


def test_the_first_label_has_its_place_to_the_right():
    points, sizes = np.array([[50.0, 50], [50, 50]]), np.array([[20.0, 10], [20, 10]])
    assert projection.place_labels(points, sizes, (100.0, 100.0)) == [(0, 52.0, 45.0), (1, 28.0, 45.0)]
