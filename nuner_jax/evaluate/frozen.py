"""Protocol "frozen": features once a sentence, all heads of a task fitted together."""

import numpy as np

from nuner_jax.config import EvaluateConfig
from nuner_jax.evaluate.cache import FeatureStore, cache_folder
from nuner_jax.evaluate.encoders import NamedEncoder
from nuner_jax.evaluate.progress import Progress
from nuner_jax.evaluate.samples import Cell, Samples
from nuner_jax.evaluate.tasks import Task, label_codes, num_labels


def predict(config: EvaluateConfig, encoder: NamedEncoder, task: Task, samples: Samples) -> dict[Cell, np.ndarray]:
    """Cell -> labels of all test words."""
    from nuner_jax.evaluate import heads

    layers = encoder.layers(config.layers)
    folder = cache_folder(config)
    train = FeatureStore(encoder, task, task.train, layers, folder)
    test = FeatureStore(encoder, task, task.test, layers, folder)
    wanted = sorted({i for indices in samples.values() for i in indices})
    everything = range(len(task.test))
    progress = Progress(f"{encoder.name} on {task.name}: features", train.missing(wanted) + test.missing(everything), "words")
    train.compute(wanted, progress)
    test.compute(everything, progress)
    progress.close()
    labels, offsets = label_codes(task.train.codes, config.labels), task.train.offsets
    supports = [
        heads.Support(train.get(indices), np.concatenate([labels[offsets[i] : offsets[i + 1]] for i in indices]))
        for indices in samples.values()
    ]
    fitted = heads.fit_all(supports, num_labels(len(task.types), config.labels), config.head)
    return dict(zip(samples, heads.predict(fitted, test.get(everything)), strict=True))
