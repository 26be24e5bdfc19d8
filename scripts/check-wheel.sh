#!/usr/bin/env bash
# Builds sdist and wheel, lets twine check their metadata, installs the wheel into a virtual environment of its own (whose
# dependencies are those of the given Python's environment), and checks from elsewhere
# that the manifest and the weights came along and that the command works.
#
# usage: scripts/check-wheel.sh PYTHON
set -euo pipefail

python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --outdir "$work/dist" "$here" >"$work/build.log" 2>&1 || {
  cat "$work/build.log" >&2
  exit 1
}
wheel=$(echo "$work"/dist/*.whl)
echo "built $(basename "$wheel") ($(du -h "$wheel" | cut -f1)) and $(basename "$work"/dist/*.tar.gz)"

"$python" -m venv "$work/twine"
"$work/twine/bin/pip" --disable-pip-version-check install -q twine
"$work/twine/bin/twine" check --strict "$work"/dist/*

"$python" -m venv "$work/venv"
"$work/venv/bin/pip" --disable-pip-version-check install -q --no-deps "$wheel"
# the dependencies, without the editable install of this package (its .pth is not read)
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$work/libs"
export PYTHONPATH
PYTHONPATH=$(cat "$work/libs")
# our own copy must win over the environment's
PYTHONPATH=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'):$PYTHONPATH

cd "$work"
venv_python="$work/venv/bin/python"
"$venv_python" "$here/scripts/check_installed.py" "$work/venv"
"$venv_python" -m npe2 validate napari-attention3d
"$work/venv/bin/napari-attention3d" --version
"$work/venv/bin/napari-attention3d" models list
echo "the wheel is whole"
