#!/usr/bin/env bash
# Makes .venv in the checkout, with everything that `make test` and `make demo` need.
#
#   scripts/setup.sh            what is missing; silent and instant if nothing is
#   scripts/setup.sh --retry    also tries again what an earlier run had to leave out (FFCV, DALI)
#
# PYTHON=/path/to/python3.12 chooses the interpreter. Apart from system packages (apt-get, only as
# root or with passwordless sudo) nothing outside the checkout is touched.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
# In an activated .venv `python3` would be the very interpreter that may have to be replaced.
PATH=${PATH//"$root/.venv/bin:"/}
# pip answers Ctrl-C with an exit code, which would otherwise read as "this part failed, go on".
trap 'exit 130' HUP INT TERM
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0

venv_python=.venv/bin/python
log=.venv/setup.log
stamp=.venv/stamp            # what the finished set-up was made from
unfinished=.venv/unfinished  # there while a set-up is at work: what was interrupted is made anew
made_for=.venv/made-for      # which checkout and Python a .venv of ours belongs to
left_out=.venv/left-out      # one sentence per optional part that is not there

say() { printf 'set-up: %s\n' "$*"; }
fail() { printf 'set-up: error: %s\n' "$*" >&2; exit 1; }

# phase TEXT COMMAND... : runs the command, its output into the log, and prints "TEXT ... 12 s".
phase() {
  local text=$1 started=$SECONDS code=0
  shift
  printf 'set-up: %s ... ' "$text"
  { printf '\n== %s\n' "$*"; "$@"; } >>"$log" 2>&1 </dev/null || code=$?
  if [ "$code" = 0 ]; then printf '%s s\n' $((SECONDS - started)); else printf 'failed\n'; fi
  return "$code"
}

# leave_out NAME WHY WAY_OUT : says and remembers that an optional part is not there.
leave_out() { say "$1 is left out: $2. Everything else works. $3" | tee -a "$left_out"; }

fingerprint() { sha256sum setup.cfg pyproject.toml scripts/setup.sh; }

version_of() {
  "$1" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# Sets `python` and `version`.
choose_python() {
  local candidates=(python3 python3.13 python3.12 python3.11 python3.10) found=""
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for python in "${candidates[@]}"; do
    version=$(version_of "$python")
    case $version in 3.10 | 3.11 | 3.12 | 3.13) return ;; esac
    [ -z "$version" ] || found="$found${found:+, }$python ($version)"
  done
  fail "Python must be 3.10 to 3.13. Found: ${found:-no ${PYTHON:-python3}}." \
    "Install one that fits, or name it: PYTHON=/path/to/python3.12 make test."
}

# ---- system packages ---------------------------------------------------------------------------

# Prints the packages that building and importing FFCV lacks; asks for what is needed, not for
# package names, because both may come from elsewhere (conda, a build of one's own).
ffcv_needs() {
  local libraries
  command -v g++ >/dev/null || echo g++
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists opencv4 2>/dev/null || echo libopencv-dev
  pkg-config --exists libturbojpeg 2>/dev/null || echo libturbojpeg0-dev
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    echo "python$version-dev"
  # FFCV imports cv2, whose wheel expects these two from the system.
  libraries=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true)
  grep -q 'libGL\.so\.1 ' <<<"$libraries" || echo libgl1
  grep -q 'libglib-2\.0\.so\.0 ' <<<"$libraries" || echo libglib2.0-0
}

can_apt() {
  command -v apt-get >/dev/null || return 1
  [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null
}

apt_install() {
  local as_root=(env DEBIAN_FRONTEND=noninteractive)
  local install=(apt-get install -y -q --no-install-recommends "$@")
  [ "$(id -u)" = 0 ] || as_root=(sudo -n "${as_root[@]}")
  "${as_root[@]}" dpkg --configure -a || true  # an interrupted apt-get is mended first
  "${as_root[@]}" "${install[@]}" ||
    { "${as_root[@]}" apt-get update -q && "${as_root[@]}" "${install[@]}"; }
}

# ---- .venv -------------------------------------------------------------------------------------

make_venv() {
  local log_text=""
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    local package="python$version-venv"
    can_apt || fail "$python cannot make a virtual environment (ensurepip is missing)." \
      "Install it, then run again: sudo apt-get install $package."
    log=$(mktemp)  # .venv, where the log belongs, is not there yet
    phase "apt-get install $package" apt_install "$package" || {
      tail -n 15 "$log" >&2
      fail "$package could not be installed. Install it by hand, then run again."
    }
    log_text=$(cat "$log")
    rm -f "$log"
    log=.venv/setup.log
  fi
  rm -rf .venv
  mkdir .venv
  touch "$unfinished"
  printf '%s %s\n' "$version" "$root" >"$made_for"
  printf '%s\n' "$log_text" >"$log"
  must "making .venv with Python $version" "$python" -m venv .venv
  update_pip
}

update_pip() { must "updating pip" pip install --upgrade pip setuptools wheel; }

# must TEXT COMMAND... : a phase without which nothing works.
must() { phase "$@" || give_up "$1"; }

give_up() {
  tail -n 15 "$log" >&2
  fail "\"$1\" failed; the lines above end $root/$log. Mend the cause, then run again."
}

pip() { "$venv_python" -m pip "$@"; }

install_packages() {
  # Without build isolation a changed setup.cfg is installed again without a network.
  phase "installing PyTorch, DALI and the rest (up to 3 GB)" \
    pip install --no-build-isolation -e '.[dali,dev]' && return
  if ! phase "the same without DALI" pip install --no-build-isolation -e '.[dev]'; then
    rm -f "$unfinished"  # pip stopped by itself, mostly for want of a network: .venv is sound
    give_up "installing PyTorch and the rest"
  fi
  leave_out DALI "pip could not install it (see $log)" "To try again: make setup."
}

install_ffcv() {
  local needs why log=.venv/ffcv.log
  : >"$log"
  needs=$(ffcv_needs | paste -s -d ' ')
  if [ -n "$needs" ] && can_apt; then
    # shellcheck disable=SC2086  # one word per package
    phase "apt-get install $needs" apt_install $needs || true
    needs=$(ffcv_needs | paste -s -d ' ')
  fi
  if [ -n "$needs" ]; then
    leave_out FFCV "its build needs $needs" "To add it: sudo apt-get install $needs && make setup."
    return
  fi
  phase "building FFCV" build_ffcv &&
    phase "importing FFCV" "$venv_python" -c 'import ffcv' && return
  why=$(grep -m 1 -E '^ *(error|[A-Za-z]*Error):' "$log" | sed 's/^ *//; s/\.$//') || true
  leave_out FFCV "${why:-it could not be installed} (see $log)" "To try again: make setup."
}

# No cache: pip would take a wheel that was linked against another release of OpenCV. The linker
# flag keeps the OpenCV libraries that FFCV does not call from being loaded with it.
build_ffcv() {
  LDFLAGS=-Wl,--as-needed pip install --no-build-isolation --no-cache-dir -e '.[ffcv]'
}

# mypy does not see the import hook of an editable install, so the folders that are not below
# fastdeit/ are linked there under their true names (setup.cfg: mypy_path).
link_for_mypy() {
  local folder
  rm -rf .venv/mypy
  mkdir -p .venv/mypy/fastdeit
  ln -s ../../../fastdeit/__init__.py .venv/mypy/fastdeit/__init__.py
  for folder in pipelines tools benchmarks; do
    ln -s "../../../$folder" ".venv/mypy/fastdeit/$folder"
  done
}

check_imports() {
  # A PyTorch built for the CPU alone, from an index of one's own, breaks torchvision.
  must "importing what was installed" "$venv_python" -c '
import torch, torchvision, timm, numba, fastdeit.pipelines'
}

# ---- main --------------------------------------------------------------------------------------

# Prints why an existing .venv must be made anew; nothing if it may stay.
why_anew() {
  local asked="" have
  [ -z "${PYTHON:-}" ] || { choose_python && asked=$version; }
  have=$(version_of "$venv_python")
  case $have in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) echo "its Python is ${have:-gone}" && return ;;
  esac
  if [ -n "$asked" ] && [ "$asked" != "$have" ]; then
    echo "it has Python $have, and PYTHON asks for $asked"
  elif [ -f "$unfinished" ]; then
    echo "the last set-up did not finish"
  elif [ ! -f "$made_for" ]; then
    : # made by hand: its owner wants it used as it is
  elif [ "$(cat "$made_for")" != "$have $root" ]; then
    echo "it was made for $(cat "$made_for"), and this is $have $root"
  fi
}

is_finished() {
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] || return 1
  [ -s "$left_out" ] || return 0
  [ "${1:-}" != --retry ] || return 1
  grep -q 'its build needs' "$left_out" || return 0
  # What lacked system packages is tried again as soon as they have appeared.
  [ -n "$(python=$venv_python version=$have ffcv_needs)" ]
}

main() {
  local reason="" have=""
  case ${1:-} in
    "" | --retry) ;;
    *) fail "no such option. Found: $1. Known: --retry." ;;
  esac
  exec 9<scripts/setup.sh
  flock 9  # a second make in the same checkout waits, and then finds everything done
  if [ -e .venv ]; then
    reason=$(why_anew)
    have=$(version_of "$venv_python")
    if [ -z "$reason" ] && is_finished "${1:-}"; then
      [ ! -s "$left_out" ] || cat "$left_out"
      return
    fi
  fi
  if [ -n "$reason" ] || [ ! -e .venv ]; then
    [ -z "$reason" ] || say ".venv is made anew: $reason."
    choose_python
    make_venv
  else
    python=$venv_python version=$have
    : >"$log"
    # What was made by hand is never made anew, and may have an old pip.
    if [ -f "$made_for" ]; then touch "$unfinished"; else update_pip; fi
  fi
  rm -f "$stamp" "$left_out"
  install_packages
  install_ffcv
  link_for_mypy
  check_imports
  printf '%s %s\n' "$version" "$root" >"$made_for"
  fingerprint >"$stamp"
  rm -f "$unfinished"
}

main "$@"
