#!/usr/bin/env bash
# Runs a command on a virtual screen (or as it is, where there is no xvfb-run).
set -euo pipefail
if command -v xvfb-run >/dev/null; then
  exec xvfb-run -a -s "-screen 0 1920x1080x24" "$@"
fi
exec "$@"
