#!/usr/bin/env bash
# What a refactoring must not change, as hashes: a converted .beton and shards, and two epochs of
# demo-teacher and demo through both engines (weights, averages, metrics). Run it before and after,
# and compare: scripts/same_bits.sh /tmp/before > before.txt   (about two minutes on two cores)
set -euo pipefail
at=${1:?the folder for data and runs}
rm -rf "$at"
fastdeit sample-data "$at/data" --train-images 800 --val-images 200 >&2
for split in train val; do
  for out in "$split.beton" "$split-shards"; do fastdeit convert "$at/data/$split" "$at/$out" >&2; done
done
for set in ffcv,.beton dali,-shards; do
  IFS=, read -r engine end <<< "$set"
  data=(--train "$at/train$end" --val "$at/val$end" --engine "$engine" --epochs 2)
  fastdeit train demo-teacher "${data[@]}" --out "$at/teacher-$engine" >&2
  fastdeit train demo "${data[@]}" --teacher "$at/teacher-$engine/checkpoint.pt" \
    --warmup-epochs 1 --out "$at/demo-$engine" >&2
done
python - "$at" << 'PYTHON'
import hashlib
import json
import sys
from pathlib import Path

import torch

TIMES = {"elapsed_s", "img_per_s", "data_wait_frac", "left_s", "left_is_lower_bound", "in_budget"}


def tensors(value, name=""):
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors(value[key], f"{name}.{key}")
    elif isinstance(value, torch.Tensor):
        yield repr((name, value.flatten().tolist())).encode()


def show(what, parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    print(digest.hexdigest()[:32], what)


root = Path(sys.argv[1])
for beton in sorted(root.glob("*.beton")):
    show(beton.name, [beton.read_bytes()])
for shards in sorted(root.glob("*-shards")):
    show(shards.name, [tar.read_bytes() for tar in sorted(shards.glob("*.tar"))])
for run in sorted(path.parent for path in root.glob("*/checkpoint.pt")):
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    for part in ("model", "ema", "optimizer"):
        show(f"{run.name} {part}", tensors(saved[part]))
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        print(run.name, json.dumps({k: v for k, v in row.items() if k not in TIMES}))
PYTHON
