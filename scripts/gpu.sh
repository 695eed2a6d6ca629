#!/usr/bin/env bash
# `make gpu`: on a machine with a GPU the tests that need one, every benchmark in a given time, the
# rows kept in benchmarks/results/, and the report and the README's table made again.
#
#   scripts/gpu.sh [--within 8m] [--out bench-gpu] [--cpu] [OPTION of `fastdeit bench all` ...]
#
# --cpu is a dry run of all that on a CPU: rows are kept, and the report is made, beside OUT.
#
# Takes PYTHON, or .venv's, or the python3 at hand, whichever has PyTorch; makes .venv only where
# none has. Nothing ends it but a signal: what fails is said, the rest goes on, and the exit code is
# 1. Without a GPU it is 2, at once.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root" || exit 2
within=8m out=bench-gpu tests_s=60 device=cuda
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --within | --out)
      [ $# -ge 2 ] || { echo "make gpu: error: $1 needs a value." >&2; exit 2; }
      [ "$1" = --within ] && within=$2 || out=$2
      shift 2 ;;
    -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
    --cpu) device=cpu && shift ;;
    *) options+=("$1") && shift ;;
  esac
done

say() { printf 'make gpu: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

# ---- a Python with PyTorch, and a GPU ------------------------------------------------------------
has() { "$python" -c "import $1" >/dev/null 2>&1; }

python=""
for python in "${PYTHON:-}" .venv/bin/python python3 ""; do
  [ -n "$python" ] && has torch && break
done
if [ -z "$python" ]; then
  [ "$device" = cpu ] || compgen -G '/dev/nvidia[0-9]*' >/dev/null || [ -e /dev/dxg ] ||
    fail "a GPU is needed. Found: none. \`fastdeit bench all\` measures a CPU."
  bash scripts/setup.sh >&2 || exit 2
  python=.venv/bin/python
fi
seen=$("$python" -c 'import torch
print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else "")' 2>/dev/null)
[ "$device" = cuda ] || seen="a CPU"
[ -n "$seen" ] || fail "a GPU is needed. Found: none that PyTorch sees ($python)." \
  "\`fastdeit bench all\` measures a CPU."

# ---- this checkout, and what it needs ------------------------------------------------------------
is_installed() {
  "$python" -c 'import sys, importlib.util, importlib.metadata, pathlib
importlib.metadata.version("fastdeit")
found = importlib.util.find_spec("fastdeit.pipelines").origin
sys.exit(pathlib.Path(found).resolve() != pathlib.Path("pipelines/__init__.py").resolve())' \
    >/dev/null 2>&1
}
if ! is_installed; then
  say "this checkout is put into the environment of $python"
  "$python" -m pip install -q --no-deps --no-build-isolation -e . >&2 && is_installed ||
    fail "this checkout could not be installed. Run: $python -m pip install --no-deps -e ."
fi
missing=()
for module in torchvision timm tyro numba numpy PIL matplotlib tqdm xxhash; do
  has "$module" || missing+=("$module")
done
[ ${#missing[@]} -eq 0 ] || fail "packages are missing. Found: no ${missing[*]}. Run: make setup."
has ffcv || say "FFCV is not installed: files are read by another engine"
has nvidia.dali || say "DALI is not installed: its rows are left out"
has webdataset || say "webdataset is not installed: its tests are skipped"

# ---- signals go to the program at work, which ends in its own way ----------------------------------
child="" stopped=""
stop() {
  stopped=1
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop HUP INT TERM
run() {
  local code=0
  "$@" &
  child=$!
  while :; do
    wait "$child"
    code=$?
    kill -0 "$child" 2>/dev/null || break  # else a signal came, and it is still ending
  done
  child=""
  return "$code"
}
finish() { [ -z "$stopped" ] || exit 143; }

# ---- tests ---------------------------------------------------------------------------------------
failed=()
if has pytest; then
  say "tests on $seen, at most $tests_s s"
  mapfile -t files < <(grep -rlE 'mark\.gpu|gpu_waits' tests --include='test_*.py' | sort)
  run timeout --kill-after=5 "$tests_s" "$python" -m pytest -q -m gpu -p no:cacheprovider \
    "${files[@]}" >&2 || failed+=("tests (exit code $?; 124 is the limit of time)")
  finish
else
  say "pytest is not installed: the tests are left out"
fi

# ---- benchmarks ----------------------------------------------------------------------------------
cli=("$python" -m fastdeit.tools.cli)
results=benchmarks/results report=(--readme README.md)
if [ "$device" = cuda ]; then
  options=(--trace --save-compiled ${options[@]+"${options[@]}"})
else
  results=$out-results report=("$out-results" --out "$out-results/REPORT.md")
fi
say "benchmarks within $within, into $out"
run "${cli[@]}" bench all --device "$device" --within "$within" --out "$out" \
  ${options[@]+"${options[@]}"} || failed+=("benchmarks (exit code $?)")
if [ -s "$out/rows.jsonl" ]; then
  if "${cli[@]}" bench keep "$out" --results "$results" --overwrite >/dev/null; then
    "${cli[@]}" bench report "${report[@]}" >/dev/null || failed+=("the report")
  else
    failed+=("keeping the rows: they are in $out, for \`fastdeit bench keep $out\`")
  fi
fi
finish
for each in ${failed[@]+"${failed[@]}"}; do say "failed: $each"; done
[ ${#failed[@]} -eq 0 ]
