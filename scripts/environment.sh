#!/usr/bin/env bash
# scripts/environment.sh [--dev]: finds out what BenchFS needs and this machine lacks, installs it, and prints the path
# of a virtual environment that has BenchFS in it (with --dev: and everything the checks and tests use).
#
#   $BENCHFS_PYTHON   the interpreter to use (default: the first suitable python3 on PATH)
#   $BENCHFS_VENV     where the virtual environment is (default: .venv beside mount.sh)
#
# Standard output carries the path and nothing else. Exit 0: ready. 2: not, and one line says why. 8: interrupted.
#
# The environment counts only while its stamp, written last, names the very inputs it was made from. Without a valid stamp
# it is made anew, so an interruption at any point costs time and nothing else. Runs at the same time take turns (flock).
set -euo pipefail

root=$(cd -P "$(dirname "$(readlink -f "$0")")/.." && pwd)
venv=${BENCHFS_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
stamp=$venv/.benchfs-stamp
marker=$venv/.benchfs-environment # says that the directory is ours to empty
recipe=1                          # to be raised when this file makes the environment in another way
level=runtime
if [ "${1:-}" = --dev ]; then level=dev; fi

say() { printf 'benchfs: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 2
}
scratch=''
trap '[ -z "$scratch" ] || rm -f "$scratch"' EXIT
trap 'say "interrupted; the next run begins anew"; exit 8' INT TERM HUP

# ---- the fast way: is there an environment, made from exactly these inputs? ------------------------------------------

interpreter_id() { # PYTHON: where it lives and its version, the same seen from a virtual environment made with it
    "$1" -I -S -c 'import os, sys; print(os.path.realpath(sys._base_executable), *sys.version_info[:3])' 2>/dev/null
}

digest() { # LEVEL INTERPRETER_ID
    local files=(requirements-build.txt requirements.txt pyproject.toml)
    if [ "$1" = dev ]; then files+=(requirements-dev.txt); fi
    {
        printf '%s\n' "$recipe" "$1" "$2" "$root" "$venv"
        grep -E '^(ID|VERSION_ID)=' /etc/os-release 2>/dev/null || true
        cd "$root" && cat "${files[@]}"
    } | sha256sum | cut -d ' ' -f 1
}

stamped() { # LEVEL: whether the environment is complete and current for it
    local id wanted
    [ -f "$stamp" ] && [ -x "$venv/bin/python" ] || return 1
    id=$(interpreter_id "$venv/bin/python") || return 1
    if [ -n "${BENCHFS_PYTHON:-}" ]; then
        wanted=$(interpreter_id "$BENCHFS_PYTHON") || return 1
        [ "$wanted" = "$id" ] || return 1
    fi
    grep -qxF "$1 $(digest "$1" "$id")" "$stamp"
}

tools_missing() { # prints the Debian packages of absent programs that are needed whenever BenchFS runs (dev: is tested)
    local pair wanted=(fusermount3:fuse3)
    if [ "$level" = dev ]; then
        wanted+=(fio:fio git:git rsync:rsync sqlite3:sqlite3 strace:strace setfattr:attr setfacl:acl gcc:gcc)
        wanted+=(mount:mount losetup:mount)
    fi
    for pair in "${wanted[@]}"; do
        command -v "${pair%%:*}" >/dev/null || [ -x "/usr/sbin/${pair%%:*}" ] || [ -x "/sbin/${pair%%:*}" ] ||
            printf '%s\n' "${pair#*:}"
    done
}

# ---- the interpreter -------------------------------------------------------------------------------------------------

# Prints "SUITABLE MISSING EXECUTABLE CC" on separate lines: "old" or "new"; what it lacks of "headers" and "venv".
probe='
import os, sys, sysconfig
print("new" if sys.version_info >= (3, 11) else "old")
lacking = []
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    lacking.append("headers")
try:
    import ensurepip, venv
except ImportError:
    lacking.append("venv")
print(*lacking)
print(getattr(sys, "_base_executable", sys.executable))
print((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])
print("%d.%d" % sys.version_info[:2])
'

python='' python_packages='' python_cc=cc
choose_python() { # sets python (empty: none that will do), python_packages (Debian's, that complete it), python_cc
    local candidate answer age lacking executable cc version newest='' candidates
    python='' python_packages='' python_cc=cc python_too_old=''
    if [ -n "${BENCHFS_PYTHON:-}" ]; then
        candidates=("$BENCHFS_PYTHON")
    else
        candidates=(python3 python3.13 python3.12 python3.11 /usr/bin/python3)
    fi
    for candidate in "${candidates[@]}"; do
        answer=$("$candidate" -I -c "$probe" 2>/dev/null) || continue
        { read -r age && read -r lacking && read -r executable && read -r cc && read -r version; } <<<"$answer" || continue
        if [ "$age" = old ]; then
            python_too_old="$executable is $version"
            continue
        fi
        if [ -z "$lacking" ]; then
            python=$executable python_cc=$cc python_packages=''
            return
        fi
        # Incomplete: Debian's own can be completed with packages, any other cannot.
        case $executable in
        /usr/bin/* | /bin/*)
            if [ -z "$newest" ]; then
                newest=$executable python_cc=$cc
                case $lacking in *headers*) python_packages="python$version-dev" ;; esac
                case $lacking in *venv*) python_packages="$python_packages python$version-venv" ;; esac
            fi
            ;;
        esac
    done
    python=$newest
}

packaged_python() { # no suitable interpreter: prints Debian's packages of one that is, if there are any
    local name version
    version=$(apt-cache policy python3 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9.]*\).*/\1/p')
    # No candidate: this machine has no package lists yet; the installation begins with fetching them.
    if [ -z "$version" ] || [ "$(printf '%s\n' 3.11 "$version" | sort -V | head -n 1)" = 3.11 ]; then
        printf '%s\n' python3 python3-dev python3-venv
        return
    fi
    for name in python3.13 python3.12 python3.11; do
        if apt-cache policy "$name" 2>/dev/null | grep -q '^ *Candidate: *[0-9]'; then
            printf '%s\n' "$name" "$name-dev" "$name-venv"
            return
        fi
    done
}

# ---- what is missing, and installing it ------------------------------------------------------------------------------

compiles() { # COMPILER: whether it makes a program, C library headers included
    local status=0
    scratch=$(mktemp "${TMPDIR:-/tmp}/benchfs.XXXXXX")
    printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' |
        "$1" -x c -o "$scratch" - >/dev/null 2>&1 || status=1
    rm -f "$scratch"
    return "$status"
}

have_apt() { command -v apt-get >/dev/null; }

find_missing() { # sets missing: Debian packages, one a line
    choose_python
    missing=$(
        tools_missing
        command -v pkg-config >/dev/null || echo pkg-config
        # Without pkg-config the header tells.
        if command -v pkg-config >/dev/null; then
            pkg-config --exists fuse3 || echo libfuse3-dev
        elif [ ! -e /usr/include/fuse3/fuse.h ]; then
            echo libfuse3-dev
        fi
        compiles "$python_cc" || { echo gcc && echo libc6-dev; }
        if [ -n "$python" ]; then
            # shellcheck disable=SC2086  # a list of words
            [ -z "$python_packages" ] || printf '%s\n' $python_packages
        elif [ -z "${BENCHFS_PYTHON:-}" ] && have_apt; then
            packaged_python
        fi
    )
    missing=$(printf '%s\n' "$missing" | sed '/^$/d' | sort -u)
}

run_logged() { # MESSAGE COMMAND...: the output is shown only if the command fails
    local message=$1
    shift
    scratch=$(mktemp "${TMPDIR:-/tmp}/benchfs.XXXXXX")
    if ! "$@" >"$scratch" 2>&1 </dev/null; then
        tail -n 40 "$scratch" >&2
        fail "$message"
    fi
    rm -f "$scratch"
}

complain_about_python() {
    [ -z "$python" ] || return 0
    if [ -n "${BENCHFS_PYTHON:-}" ]; then
        fail "BENCHFS_PYTHON=$BENCHFS_PYTHON is not a Python 3.11 or newer with its headers (Python.h) and the venv and ensurepip modules"
    fi
    fail "Python 3.11 or newer with its headers and the venv module is needed${python_too_old:+ ($python_too_old)}; install one and set BENCHFS_PYTHON to its path"
}

install_missing() { # installs $missing, or says in one line what would
    local names=${missing//$'\n'/ } apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
    have_apt ||
        fail "missing: ${names:-Python 3.11 or newer} (Debian's names; elsewhere: fuse3 with development files, pkg-config, a C compiler, Python 3.11 or newer with headers and venv); install with this system's package manager"
    if [ "$(id -u)" -ne 0 ]; then
        if sudo -n true 2>/dev/null; then
            apt=(sudo -n "${apt[@]}")
        else
            [ -n "$names" ] || complain_about_python
            fail "missing: $names. Install with: sudo apt-get update && sudo apt-get install -y $names"
        fi
    fi
    say "installing Debian packages: ${names:-Python}"
    "${apt[@]}" update >/dev/null 2>&1 </dev/null || true # the installation tells whether that mattered
    find_missing                                          # fresh lists may know a Python that old ones did not
    names=${missing//$'\n'/ }
    [ -n "$names" ] || complain_about_python
    # shellcheck disable=SC2086  # a list of words
    run_logged "apt-get could not install: $names" "${apt[@]}" install -y --no-install-recommends $names
    hash -r
    find_missing
    complain_about_python
    names=${missing//$'\n'/ }
    [ -z "$names" ] || fail "still missing after installing: $names"
}

# ---- the virtual environment -----------------------------------------------------------------------------------------

pip_install() { # ARGUMENTS...: the isolated interpreter's pip; an index or proxy that the user has configured is used
    run_logged "the Python packages could not be installed: see above, then run this again" \
        "$venv/bin/python" -I -m pip --no-input --disable-pip-version-check install --quiet --no-build-isolation "$@"
}

check_imports() { # MODULES...: that they load, the extension modules with their libraries included
    run_logged "the Python packages do not load: see above" "$venv/bin/python" -I -c "import $1"
}

make_environment() {
    local id lines
    if [ -d "$venv" ] && [ ! -e "$marker" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$venv exists and is not an environment made by this script: remove it, or set BENCHFS_VENV to another path"
    fi
    umask 022
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_CONSTRAINT PIP_REQUIRE_HASHES PIP_NO_DEPS \
        PIP_REQUIRE_VIRTUALENV PIP_DRY_RUN
    if stamped runtime; then # only the packages of the tests are missing
        rm -f "$stamp"
    else
        rm -f "$stamp"
        mkdir -p "$venv"
        : >"$marker"
        find "$venv" -mindepth 1 -maxdepth 1 ! -name "${marker##*/}" -exec rm -rf -- {} +
        say "making the Python environment (once, about a minute): $venv"
        run_logged "$python could not make a virtual environment" "$python" -I -m venv "$venv"
        pip_install --require-hashes -r "$root/requirements-build.txt"
        say "building pyfuse3"
        # Not from pip's cache: a pyfuse3 built there for another libfuse would not load.
        pip_install --no-cache-dir --require-hashes -r "$root/requirements.txt"
        pip_install --no-deps --editable "$root"
    fi
    check_imports 'pyfuse3, trio, apsw, liburing'
    id=$(interpreter_id "$venv/bin/python")
    lines="runtime $(digest runtime "$id")"
    if [ "$level" = dev ]; then
        say "adding the packages of the tests"
        pip_install --require-hashes -r "$root/requirements-dev.txt"
        check_imports 'pytest, pytest_trio, hypothesis, mypy, importlinter'
        lines+=$'\n'"dev $(digest dev "$id")"
    fi
    sync -f "$venv" 2>/dev/null || true # the stamp must not outlive, in a power cut, what it vouches for
    printf '%s\n' "$lines" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

prepare() {
    if ! flock -n 9; then
        say "waiting for another run that is making the environment"
        flock 9
    fi
    if [ -n "$(tools_missing)" ] || ! stamped "$level"; then
        find_missing
        [ -z "${BENCHFS_PYTHON:-}" ] || complain_about_python # no package makes it another one
        if [ -n "$missing" ] || [ -z "$python" ]; then install_missing; fi
        stamped "$level" || make_environment
    fi
}

if [ -n "$(tools_missing)" ] || ! stamped "$level"; then
    mkdir -p "$(dirname "$venv")" 2>/dev/null || true
    { : 9>>"$venv.lock"; } 2>/dev/null || fail "cannot write $venv.lock: run as the owner of the checkout, or set BENCHFS_VENV"
    prepare 9>>"$venv.lock"
fi
printf '%s\n' "$venv"
