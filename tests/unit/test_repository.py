"""Rules about the repository itself that no linter has: sizes, banned calls, dead modules, scripts, versions.

Reads the tree; imports nothing of BenchFS, so a module that does not import is still examined.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("benchfs_core", "benchfs_fuse")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAY_SLEEP = {"benchfs_core/maintenance.py"}
NOT_SEARCHED = {".git", ".venv", "__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}

# Spelt in pieces, so that this file passes its own test.
REGISTRY_NAMES = re.compile(
    r"pypi\.(?:org|io|python)|python" + r"hosted\.org|registry\.npm" + r"js|deb" + r"\.debian\.org|security"
    r"\.debian\.org|(?<!no-emit-)(?:extra-)?index" + r"-url|(?<!no-emit-)find" + r"-links|trusted" + r"-host\s*="
)


@dataclass(frozen=True, slots=True)
class Source:
    """One module: its path below the root, its name, its text and its syntax tree."""

    path: str
    module: str
    lines: list[str]
    tree: ast.Module


def _sources() -> list[Source]:
    found = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT)
            parts = path.with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = file.read_text()
            found.append(Source(path.as_posix(), module, text.splitlines(), ast.parse(text)))
    return found


SOURCES = _sources()


def _project_files() -> list[Path]:
    """All files that belong to the project: what git tracks or would; without git, everything but caches."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", "ls-files", "-zco", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [file for file in ROOT.rglob("*") if file.is_file() and not NOT_SEARCHED & set(file.relative_to(ROOT).parts)]


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function that are neither blank, nor comment, nor its docstring."""
    first = function.lineno
    counted = set(range(first, (function.end_lineno or first) + 1))
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        counted -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    texts = (lines[number - 1].strip() for number in counted)
    return sum(1 for text in texts if text and not text.startswith("#"))


def _listed(problems: list[str]) -> str:
    return "\n" + "\n".join(problems)


def _dotted(node: ast.expr) -> str:
    """``trio.sleep`` of the expression that calls it, or an empty string for what is not a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _imports(source: Source) -> set[str]:
    """Every dotted name that the module imports, with the names it takes from each."""
    found = set()
    package = source.module if source.path.endswith("__init__.py") else source.module.rpartition(".")[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def test_files_are_short_and_say_what_they_are_for() -> None:
    problems = []
    for source in SOURCES:
        if len(source.lines) > MAX_FILE_LINES:
            problems.append(f"{source.path}: {len(source.lines)} lines, {MAX_FILE_LINES} at most")
        if not ast.get_docstring(source.tree):
            problems.append(f"{source.path}: no docstring")
    assert not problems, _listed(problems)


def test_functions_are_short() -> None:
    problems = [
        f"{source.path}:{function.lineno}: {function.name} has {count} lines of code, {MAX_FUNCTION_LINES} at most"
        for source in SOURCES
        for function in _functions(source.tree)
        if (count := _code_lines(function, source.lines)) > MAX_FUNCTION_LINES
    ]
    assert not problems, _listed(problems)


def test_nothing_sleeps_to_wait_for_a_state() -> None:
    problems = []
    for source in SOURCES:
        allowed = source.path in MAY_SLEEP
        banned = {"time.sleep"} if allowed else {"time.sleep", "trio.sleep", "trio.sleep_until"}
        names = _imports(source)
        problems += [f"{source.path}: imports {name}" for name in names & banned]
        problems += [f"{source.path}: imports {name}" for name in names if name.partition(".")[0] == "asyncio"]
        problems += [
            f"{source.path}:{node.lineno}: {_dotted(node)}"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Attribute) and _dotted(node) in banned
        ]
    assert not problems, _listed(problems)


def test_no_exception_vanishes_unexplained() -> None:
    problems = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            where = f"{source.path}:{node.lineno}"
            if node.type is None:
                problems.append(f"{where}: bare except")
            around = "\n".join(source.lines[node.lineno - 1 : (node.end_lineno or node.lineno)])
            if all(isinstance(statement, ast.Pass) for statement in node.body) and "#" not in around:
                problems.append(f"{where}: except and pass, and no comment that says why")
    assert not problems, _listed(problems)


def test_only_the_command_line_prints() -> None:
    problems = [
        f"{source.path}:{node.lineno}: print"
        for source in SOURCES
        if not re.fullmatch(r"benchfs_fuse/(cli|daemon|tools|bench/command)\.py", source.path)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and _dotted(node.func) == "print"
    ]
    assert not problems, _listed(problems)


def test_every_module_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    used = {target.partition(":")[0] for target in project["scripts"].values()}
    for source in SOURCES:
        used |= {name for name in _imports(source) if name != source.module}
    # A package is used where anything below it is; __main__ is an entry point by its name.
    dead = [
        source.path
        for source in SOURCES
        if not source.module.endswith(".__main__")
        and not any(name == source.module or name.startswith(f"{source.module}.") for name in used)
    ]
    assert not dead, _listed(dead)


def test_no_file_names_a_package_registry() -> None:
    problems = []
    for file in _project_files():
        text = file.read_text(errors="replace")
        problems += [f"{file.relative_to(ROOT)}: {match.group()}" for match in REGISTRY_NAMES.finditer(text)]
    assert not problems, _listed(problems)


def test_shell_scripts_are_executable_and_parse() -> None:
    problems = []
    for file in _project_files():
        with file.open("rb") as stream:
            first = stream.readline().decode(errors="replace").strip()
        shell = re.fullmatch(r"#!\s*(?:/usr/bin/env |/bin/)(bash|sh)\b.*", first)
        if not shell:
            if file.suffix == ".sh":
                problems.append(f"{file.relative_to(ROOT)}: no #! line of sh or bash")
            continue
        if not os.access(file, os.X_OK):
            problems.append(f"{file.relative_to(ROOT)}: not executable")
        parsed = subprocess.run([shell[1], "-n", str(file)], capture_output=True, text=True, check=False)
        if parsed.returncode != 0 or parsed.stderr:
            problems.append(f"{file.relative_to(ROOT)}: {parsed.stderr}")
    assert not problems, _listed(problems)


def test_the_changelog_begins_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[:1] == [version]


def test_requirements_are_pinned_and_hashed() -> None:
    problems = []
    for file in sorted(ROOT.glob("requirements*.txt")):
        logical = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE))
        for line in filter(None, map(str.strip, logical.splitlines())):
            if not re.match(r"[a-z0-9][a-z0-9._-]*==\S+(?: ;[^#]*?)?(?:\s+--hash=sha256:[0-9a-f]{64})+$", line):
                problems.append(f"{file.name}: {line[:60]}")
    assert not problems, _listed(problems)
