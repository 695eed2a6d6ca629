#!/usr/bin/env bash
# The main job from beginning to end, on photographs that ship inside Python packages: what `make
# demo` runs. Every line below is a command that a user could type.
#
#   make demo              6 to 9 minutes on 2 cores, after the set-up
#   SHORT=1 make demo      a small version of the same, for continuous integration
#   DEMO=/some/folder      where everything goes (default: demo)
set -euo pipefail

demo=${DEMO:-demo}
sample=() teacher=() student=() within=4m
if [ "${SHORT:-0}" = 1 ]; then
  demo=${DEMO:-demo-short}
  sample=(--train-images 800 --val-images 200)
  teacher=(--epochs 5)
  student=(--epochs 6)
  within=0.33m
fi

run() { printf '\n$ %s\n' "$*"; "$@"; }
started=$SECONDS

run fastdeit sample-data "$demo/data" "${sample[@]}"
for split in train val; do
  run fastdeit convert "$demo/data/$split" "$demo/$split.beton"
  run fastdeit convert "$demo/data/$split" "$demo/$split-shards"
done
run fastdeit verify "$demo/train.beton" --decode
run fastdeit verify "$demo/train-shards"
run fastdeit inspect "$demo/train.beton" --sheet "$demo/train.png"

# The teacher reads the shards, the student the .beton: DALI and FFCV, where they are installed.
run fastdeit train demo-teacher --train "$demo/train-shards" --val "$demo/val-shards" \
  --out "$demo/teacher" --overwrite "${teacher[@]}"
run fastdeit train demo --train "$demo/train.beton" --val "$demo/val.beton" \
  --teacher "$demo/teacher/checkpoint.pt" --out "$demo/student" --overwrite "${student[@]}"
run fastdeit evaluate "$demo/student/checkpoint.pt" "$demo/val.beton"
run fastdeit evaluate "$demo/teacher/checkpoint.pt" "$demo/val-shards"

run fastdeit bench all --data "$demo/train.beton" --source "$demo/data/train" \
  --out "$demo/bench" --within "$within"
run fastdeit report "$demo/student" "$demo/teacher" --bench "$demo/bench/rows.jsonl" \
  --out "$demo/report.html" --title "fastdeit demo"

printf '\nThe demo took %s s. Open %s in a browser.\n' "$((SECONDS - started))" "$demo/report.html"
