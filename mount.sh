#!/usr/bin/env bash
# ./mount.sh SOURCE DIR [-o OPTION[=VALUE],…] [--foreground]
# Installs what is missing, then runs mount.benchfs with these arguments. `./mount.sh --help` tells them all.
set -eu
here=$(cd -P "$(dirname "$(readlink -f "$0")")" && pwd)
venv=$("$here/scripts/environment.sh") || exit
exec "$venv/bin/mount.benchfs" "$@"
