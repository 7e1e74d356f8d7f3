"""The tokenising and labelling of pretrain_torch.py's loop, without its model: what a dataset stage spares every epoch.

    python label_torch.py TOKENIZER ANNOTATED.jsonl [--processor_time]

Prints sentences per second of one epoch, without start-up and reading.
"""

import json
import random
import sys
import time

import torch
from transformers import AutoTokenizer


def main():
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    records = [json.loads(line) for line in open(sys.argv[2], encoding="utf8")]
    torch.set_num_threads(1)
    batch_size, max_length = 48, 64
    random.seed(0)
    random.shuffle(records)
    tokenizer(["warm up"])
    clock = time.process_time if "--processor_time" in sys.argv else time.perf_counter
    started = clock()
    for first in range(0, len(records), batch_size):
        batch = records[first : first + batch_size]
        text = tokenizer(
            [r["text"] for r in batch], truncation=True, max_length=max_length, padding=True,
            return_tensors="pt", return_offsets_mapping=True,
        )
        offsets = text.pop("offset_mapping")
        concepts = sorted({m["concept"] for r in batch for m in r["mentions"]})
        index = {c: i for i, c in enumerate(concepts)}
        tokenizer(concepts, truncation=True, max_length=24, padding=True, return_tensors="pt")
        target = torch.zeros(*text["input_ids"].shape, len(concepts))
        for row, record in enumerate(batch):
            start, end = offsets[row, :, 0], offsets[row, :, 1]
            for m in record["mentions"]:
                target[row, (start < m["end"]) & (end > m["start"]) & (end > start), index[m["concept"]]] = 1
    print(f"{len(records) / (clock() - started):.1f} sentences/s")


if __name__ == "__main__":
    main()
