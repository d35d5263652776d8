#!/usr/bin/env bash
# tests/run.sh [PYTEST ARGUMENTS]: installs what is missing, then runs every check and every test.
# Exit 0 only if all of them passed. With CI=true a skipped test is a failure.
set -euo pipefail
root=$(cd -P "$(dirname "$(readlink -f "$0")")/.." && pwd)
venv=$("$root/scripts/environment.sh" --dev) || exit
cd "$root"
export PATH="$venv/bin:$PATH"

passed=0 failed=()
check() { # NAME COMMAND...
    local name=$1
    shift
    echo "==> $name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed+=("$name")
    fi
}

check "format" ruff format --check .
check "lint" ruff check .
check "types" mypy
check "layers" lint-imports
check "repository" python -m pytest -q --no-header tests/unit/test_repository.py
# A file at a time on each of two processes: most of the time goes to waiting for disks and daemons.
check "tests" python -m pytest --numprocesses 2 --dist loadfile "$@"

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed:'
    printf ' %s' "${failed[@]}"
    printf '\nchecks: %d passed, %d failed\n' "$passed" "${#failed[@]}"
    exit 1
fi
