"""Full few-shot fine-tuning, plainly: PyTorch, Transformers, a two-layer head over first-sub-token states, padded batches.

    python finetune_torch.py ENCODER NAME=TRAIN.bio,TEST.bio --samples FILE [--ks 8] [--seeds 3] [--layers=-1]

AdamW with linear warm-up and decay, gradient clipping, IO labels; the support sets come from --samples. Prints strict entity F1
(IOB2, seqeval), IO predictions turned into IOB2, and the seconds that each support set took.
"""

import argparse
import json
import time

import numpy as np
import torch
from fewshot_torch import mention_types, read_bio
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from transformers import AutoModel, AutoTokenizer


class Tagger(torch.nn.Module):
    def __init__(self, encoder, layers, classes, dropout):
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder, self.layers = encoder, layers
        self.head = torch.nn.Sequential(
            torch.nn.Dropout(dropout),
            torch.nn.Linear(width * len(layers), width),
            torch.nn.GELU(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(width, classes),
        )

    def forward(self, encoding):
        states = self.encoder(**encoding, output_hidden_states=True).hidden_states
        return self.head(torch.cat([states[layer] for layer in self.layers], -1))


def encode(tokenizer, sentences):
    encoding = tokenizer(
        sentences, is_split_into_words=True, truncation=True, max_length=256, padding=True, return_tensors="pt"
    )
    where = []
    for row in range(len(sentences)):
        seen = {}
        for position, word in enumerate(encoding.word_ids(row)):
            if word is not None:
                seen.setdefault(word, position)
        where.append(seen)
    return dict(encoding), where


def fine_tune(path, layers, tokenizer, sentences, labels, classes, seed, args):
    torch.manual_seed(seed)
    model = Tagger(AutoModel.from_pretrained(path), layers, classes, args.dropout)
    decayed = lambda p: args.weight_decay if p.ndim > 1 else 0.0
    groups = [
        {"params": [p], "lr": rate, "weight_decay": decayed(p)}
        for part, rate in ((model.encoder, args.lr), (model.head, args.head_lr))
        for p in part.parameters()
    ]
    optimizer = torch.optim.AdamW(groups)
    count = args.epochs * -(-len(sentences) // args.batch_size)
    warmup = max(1, round(0.1 * count))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warmup, max(0.0, (count - n) / max(1, count - warmup)))
    )
    model.train()
    rng = np.random.default_rng(seed)
    for _ in range(args.epochs):
        order = rng.permutation(len(sentences))
        for start in range(0, len(order), args.batch_size):
            chosen = order[start : start + args.batch_size]
            encoding, where = encode(tokenizer, [sentences[i] for i in chosen])
            logits = model(encoding)
            pairs = [(r, p, labels[i][w]) for r, i in enumerate(chosen) for w, p in where[r].items()]
            rows, positions, targets = map(torch.tensor, zip(*pairs, strict=True))
            loss = torch.nn.functional.cross_entropy(logits[rows, positions], targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predict(model, tokenizer, sentences, batch_size=64):
    result = [None] * len(sentences)
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        encoding, where = encode(tokenizer, [sentences[i] for i in chosen])
        best = model(encoding).argmax(-1).numpy()
        for r, i in enumerate(chosen):
            result[i] = [int(best[r, where[r][w]]) if w in where[r] else 0 for w in range(len(sentences[i]))]
    return result


def to_iob2(labels, types):
    return [
        "O" if y == 0 else ("I-" if i and labels[i - 1] == y else "B-") + types[y - 1] for i, y in enumerate(labels)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("task")
    parser.add_argument("--samples", required=True)
    parser.add_argument("--ks", default="8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layers", default="-1")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--head-lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.encoder, add_prefix_space=True)
    name, paths = args.task.split("=")
    train, test = (read_bio(path) for path in paths.split(","))
    types = sorted({t for _, tags in train + test for t in mention_types(tags)})
    index = {t: i + 1 for i, t in enumerate(types)}
    labels = [[index[tag[2:]] if tag != "O" else 0 for tag in tags] for _, tags in train]
    stored = {(r["task"], r["k"], r["seed"]): r["indices"] for r in map(json.loads, open(args.samples, encoding="utf8"))}
    gold = [tags for _, tags in test]
    for k in map(int, args.ks.split(",")):
        scores, seconds = [], []
        for seed in range(args.seeds):
            started = time.perf_counter()
            chosen = stored[name, k, seed]
            support, targets = [train[i][0] for i in chosen], [labels[i] for i in chosen]
            layers = [int(layer) for layer in args.layers.split(",")]
            model = fine_tune(args.encoder, layers, tokenizer, support, targets, len(types) + 1, seed, args)
            predicted = [to_iob2(y, types) for y in predict(model, tokenizer, [words for words, _ in test])]
            scores.append(f1_score(gold, predicted, mode="strict", scheme=IOB2))
            seconds.append(time.perf_counter() - started)
        print(json.dumps({"task": name, "k": k, "entity_micro_f1": scores, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
