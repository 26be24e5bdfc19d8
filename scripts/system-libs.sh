#!/usr/bin/env bash
# Installs the Debian packages that Qt, OpenGL and a screen without hardware need.
# Where it can't, it names them and goes on: they may be there under other names.
set -euo pipefail

packages=(
  xvfb xauth libgl1 libgl1-mesa-dri libegl1 libdbus-1-3 libfontconfig1 libglib2.0-0
  libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1
  libxcb-randr0 libxcb-render-util0 libxcb-shape0
)

command -v dpkg-query >/dev/null || exit 0 # not Debian: Qt's wheels bring what they need

is_installed() { # the newest releases renamed some packages (libglib2.0-0t64)
  local states
  states=$(dpkg-query -W -f '${Status}\n' "$1" "$1t64" 2>/dev/null || true)
  [[ $states == *"install ok installed"* ]]
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo)
  [ -t 0 ] || as_root=(sudo -n)
fi
hint="Missing Debian packages (install them as root): apt-get install ${missing[*]}"
if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
  echo "$hint" >&2
  exit 0
fi

echo "Installing Debian packages: ${missing[*]}" >&2
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}"
}
[ -n "${APT_UPDATED:-}" ] || "${as_root[@]}" apt-get update -q || true
install || echo "$hint" >&2
