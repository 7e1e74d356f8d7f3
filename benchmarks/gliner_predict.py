"""Predictions of GLiNER on exported samples, in an environment of GLiNER's own, as a file that the evaluate stage scores.

    nuner evaluate --tasks kitchen helpdesk --ks 1,4 --seeds 5 --encoders none --export samples
    python -m venv gliner && gliner/bin/pip install gliner               # its own: it wants other versions than nuner_jax
    gliner/bin/python benchmarks/gliner_predict.py --samples samples --model urchade/gliner_medium-v2.1 --out gliner.jsonl
    nuner evaluate --tasks kitchen helpdesk --ks 1,4 --seeds 5 --predictions gliner=gliner.jsonl

The model comes from the hub (or is a local folder). Without --steps it is asked as it is, once, and its lines hold for every
support set; with --steps it is fine-tuned on each support set, anew from the published weights. Needs nothing of nuner_jax.
"""

import argparse
import importlib
import json
import tempfile
from pathlib import Path


def predict(model, sentences, labels, threshold, batch_size):
    """The entities of each sentence (a list of words), in characters of the words joined by blanks."""
    texts = [" ".join(words) for words in sentences]
    found = model.inference(texts, labels, threshold=threshold, batch_size=batch_size)
    return [[{"start": e["start"], "end": e["end"], "label": e["label"]} for e in entities] for entities in found]


def fine_tune(model, rows, steps, learning_rate, batch_size):
    """Trains the model in place on the rows of one support set."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_steps": steps, "learning_rate": learning_rate, "save_steps": steps + 1, "dataloader_num_workers": 0}
        model.train_model(rows, rows, output_dir=folder, per_device_train_batch_size=batch_size, **options)
    model.eval()


def lines(args, load):
    """The lines of the predictions file; `load` gives the model with its published weights."""
    folder = Path(args.samples)
    for entry in json.loads((folder / "tasks.json").read_text(encoding="utf8")):
        test = json.loads((folder / entry["test"]).read_text(encoding="utf8"))
        sentences, labels = [row["tokenized_text"] for row in test], list(entry["types"].values())
        for cell in entry["supports"] if args.steps else [{}]:
            model = load()
            if args.steps:
                rows = json.loads((folder / cell["train"]).read_text(encoding="utf8"))
                fine_tune(model, rows, args.steps, args.learning_rate, args.batch_size)
            named = {"task": entry["task"], **{key: cell[key] for key in ("k", "seed") if key in cell}}
            print(f"{named}: {len(sentences)} sentences", flush=True)
            for index, entities in enumerate(predict(model, sentences, labels, args.threshold, args.batch_size)):
                yield {**named, "index": index, "unit": "characters", "entities": entities}


def main(argv=None, load=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", required=True, help="folder that evaluate --export wrote")
    parser.add_argument("--model", default="urchade/gliner_medium-v2.1", help="hub name or local folder")
    parser.add_argument("--out", required=True, help="file to write")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=0, help="fine-tuning steps on each support set; 0: none")
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    args = parser.parse_args(argv)
    published = load or (lambda: importlib.import_module("gliner").GLiNER.from_pretrained(args.model))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines(args, published))
    Path(args.out).write_text(text, encoding="utf8")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
