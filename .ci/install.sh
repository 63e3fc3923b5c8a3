#!/bin/sh
# Create $VENV and install chatvec_lab with the pinned packages of constraints.txt. Called by make.
# A plain `pip install torch` on Linux brings gigabytes of CUDA, so torch comes first and by itself.
set -eu
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV" || {
  echo "python3-venv is missing: apt-get install python3-venv (Debian), then make again." >&2; exit 1; }
pip="$VENV/bin/python -m pip --disable-pip-version-check"
constraints="$VENV/constraints.txt"
version=$(sed -n 's/^torch==//p' constraints.txt)
if installed=$("$VENV/bin/python" -c "import torch; print(torch.__version__.split('+')[0])" 2>/dev/null); then
  version=$installed  # the user's own build stays
elif [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] && ! command -v nvidia-smi >/dev/null; then
  $pip install --quiet --no-deps "torch==$version+cpu" || {
    echo "No CPU build of torch $version was found, and the default one would bring CUDA. Either point pip at" >&2
    echo "PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL, see the 'CPU' choice at pytorch.org/get-started) and make again," >&2
    echo "or install any torch >= 2.6 into $VENV yourself; make then leaves it alone." >&2; exit 1; }
fi
sed "s/^torch==.*/torch==$version/" constraints.txt > "$constraints"
$pip install --quiet --constraint "$constraints" --editable '.[dev,dask]'
