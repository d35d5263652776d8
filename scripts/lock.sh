#!/usr/bin/env bash
# Writes requirements*.txt anew from pyproject.toml: the newest versions, every published file's hash.
# Needs pip-compile (pip-tools) on PATH. For maintainers: neither mount.sh nor the tests run it.
# With arguments: passed to pip-compile (--upgrade-package NAME, say); without: everything is upgraded.
set -euo pipefail

here=$(cd -P "$(dirname "$(readlink -f "$0")")/.." && pwd)
compiler=$(command -v pip-compile) || { echo "lock.sh: pip-compile not found; pip install pip-tools" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- --upgrade

# Only the public registry's files count: what this machine's pip is configured to prefer must not colour the hashes.
unset PIP_FIND_LINKS PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CONSTRAINT
export PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="scripts/lock.sh"

cp "$here/pyproject.toml" "$here"/requirements*.txt "$work" 2>/dev/null || true
cd "$work"
python3 - <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)
inputs = project["dependency-groups"] | {"runtime": project["project"]["dependencies"]}
for name, requirements in inputs.items():
    with open(f"{name}.in", "w") as file:
        file.write("".join(f"{line}\n" for line in requirements))
PYTHON

compile_to() { # OUTPUT INPUT...
    local output=$1
    shift
    "$compiler" --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --no-emit-options --strip-extras --allow-unsafe --output-file "$output" "${options[@]}" "$@"
}
options=("$@")
compile_to requirements-build.txt build.in
compile_to requirements.txt --constraint requirements-build.txt runtime.in
compile_to requirements-dev.txt --constraint requirements-build.txt --constraint requirements.txt \
    build.in runtime.in dev.in
cp requirements-build.txt requirements.txt requirements-dev.txt "$here"
