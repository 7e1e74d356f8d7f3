"""The two commands: the map of a model's concepts, and the concepts nearest to a phrase."""

from pathlib import Path

from nuner_jax.concepts.embedding import cache_folder, embed, load_concept_encoder
from nuner_jax.concepts.names import Named, read_concepts
from nuner_jax.concepts.projection import nearest, project
from nuner_jax.config import ConceptMapConfig, NearestConfig
from nuner_jax.dataset.concepts import normalise_concept
from nuner_jax.errors import InputError

NEIGHBOURS = 8
"""Shown with each concept of the page."""


def draw_map(config: ConceptMapConfig) -> None:
    """Writes concept_map.png and concept_map.html and tells what they show. Raises InputError."""
    from nuner_jax.concepts.page import page, write_page
    from nuner_jax.concepts.picture import check_installed, draw

    check_installed()
    if config.limit < 0 or config.width <= 0 or config.font_size <= 0:
        raise InputError("limit has to be 0 or more, width and font_size more than 0")
    concepts, total = read_concepts(config.concepts, config.limit)
    vectors = embed(load_concept_encoder(config.model), concepts)
    points = project(vectors)
    numbers, _ = nearest(vectors, vectors, NEIGHBOURS + 1)
    others = [[n for n in row if n != i][:NEIGHBOURS] for i, row in enumerate(numbers.tolist())]
    names, frequency = [c.name for c in concepts], [c.frequency for c in concepts]
    folder = Path(config.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shown = draw(points, names, frequency, folder / "concept_map.png", config.width, config.font_size)
        write_page(folder / "concept_map.html", page(points, names, frequency, others, f"Concepts of {Path(config.model).name}"))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None
    of = f"{len(concepts):,} of {total:,} concepts, the most frequent" if len(concepts) < total else f"{total:,} concepts"
    print(f"{folder / 'concept_map.png'}: {of}; names of {shown} of them find room")
    print(f"{folder / 'concept_map.html'}: all {len(concepts):,}, with search, zoom and neighbours")


def print_nearest(phrase: str, config: NearestConfig) -> None:
    """Prints cosine, number of mentions and name of the nearest concepts, tab-separated. Raises InputError."""
    if config.top < 1:
        raise InputError(f"top {config.top} is not 1 or more")
    name = normalise_concept(phrase)
    if not name:
        raise InputError(f"{phrase!r}: nothing is left of it without punctuation")
    concepts, _ = read_concepts(config.concepts)
    encoder = load_concept_encoder(config.model)
    vectors = embed(encoder, concepts, cache_folder(config.cache))
    [numbers], [cosines] = nearest(embed(encoder, [Named(name)]), vectors, config.top)
    for number, cosine in zip(numbers, cosines, strict=True):
        print(f"{cosine:.3f}\t{concepts[number].frequency}\t{concepts[number].name}")
