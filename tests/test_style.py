"""The written rules of CONTRIBUTING that a reader of the source can check, on every file."""

from __future__ import annotations

import ast
import functools
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("shampoo_jax", "nxtpost_jax", "hsnn_jax", "experiments")
MAX_LINES = 400
MAX_POSITIONAL = 2
CATCH_ALLS = {"utils", "util", "helpers", "common", "misc"}
# What callers of a function meet; InputError is a command's and has a builder of its own.
ERRORS = {"ValueError", "TypeError", "IndexError", "KeyError"}
SENTENCE = re.compile(r"\S.*?: expected .+, found .+", re.DOTALL)
SILENCED = re.compile(r"#\s*(type|pyright):\s*ignore(?P<rule>\[[\w, ]+\])?(?P<rest>.*)")


class Source(NamedTuple):
    """A file: its path below the root, its text, and what that says."""

    path: Path
    text: str
    tree: ast.Module

    def at(self, node: ast.AST, breach: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {breach}"


def read(path: Path, root: Path = ROOT) -> Source:
    text = path.read_text(encoding="utf-8")
    return Source(path.relative_to(root), text, ast.parse(text))


def sources(*folders: str) -> Iterator[Source]:
    for folder in folders:
        paths = sorted((ROOT / folder).rglob("*.py"))
        assert paths, folder
        yield from map(read, paths)


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """The functions and methods that others call: (name, definition, whether it is a method).

    Of the methods with two underscores those that are called by the class's or the object's name.
    """
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and (
                    not member.name.startswith("_") or member.name in ("__init__", "__call__")
                ):
                    is_static = any(ast.unparse(d) == "staticmethod" for d in member.decorator_list)
                    yield f"{node.name}.{member.name}", member, not is_static


def given_by_position(function: ast.FunctionDef, is_method: bool) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args][is_method:]


def long_files(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines > MAX_LINES:
        yield f"{source.path}: {lines} lines, more than {MAX_LINES}"


def catch_all_files(source: Source) -> Iterator[str]:
    if source.path.stem in CATCH_ALLS:
        yield f"{source.path}: a name that says nothing of what is in it"


def exported_from(path: Path) -> set[str]:
    """What the package of a module exports of it to users."""
    if path.parts[0] not in PACKAGES or path.parts[0] == "experiments":
        return set()
    module = ".".join(path.with_suffix("").parts)
    return {
        alias.name
        for node in read(ROOT / path.parts[0] / "__init__.py").tree.body
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }


def many_positional_arguments(source: Source, exported: set[str] | None = None) -> Iterator[str]:
    """Only what users import: inside a room a function of three arrays reads best bare."""
    exported = exported_from(source.path) if exported is None else exported
    for name, function, is_method in public_functions(source.tree):
        count = len(given_by_position(function, is_method))
        # A module's __call__ is flax's: Dense, LayerNorm and attention take their arrays so.
        own = name.split(".")[0] in exported and function.name != "__call__"
        if own and count > MAX_POSITIONAL:
            yield source.at(function, f"{name} takes {count} arguments by position")


def bare_arguments(source: Source) -> Iterator[str]:
    for name, function, is_method in public_functions(source.tree):
        arguments = function.args
        given = [*given_by_position(function, is_method), *arguments.kwonlyargs]
        given += [more for more in (arguments.vararg, arguments.kwarg) if more]
        bare = [argument.arg for argument in given if argument.annotation is None]
        if function.returns is None and function.name != "__init__":
            bare.append("the result")
        if bare:
            yield source.at(function, f"{name}: no type of {', '.join(bare)}")


def unclear_errors(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
            continue
        if ast.unparse(node.exc.func) in ERRORS:
            text = message(node.exc.args[0]) if node.exc.args else ""
            if not SENTENCE.fullmatch(text):
                yield source.at(node, f"not 'ARGUMENT: expected WHAT, found WHAT': {text!r}")


def message(node: ast.expr) -> str:
    """The text of a message, `{}` in the place of what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(message(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return message(node.left) + message(node.right)
    return "{}"


def hidden_modules(source: Source) -> Iterator[str]:
    """Names that an `__init__.py` gives to something else than the module of that name."""
    if source.path.name != "__init__.py":
        return
    folder = ROOT / source.path.parent
    package = ".".join(source.path.parent.parts)
    modules = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name for alias in node.names}
            if node.module == package:
                names -= {alias.name for alias in node.names if not alias.asname}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = {node.name}
        else:
            continue
        for name in sorted(names & modules):
            yield source.at(node, f"{name} hides the module {package}.{name}")


def unreasoned_silence(source: Source) -> Iterator[str]:
    lines = iter(source.text.splitlines(keepends=True))
    for token in tokenize.generate_tokens(lambda: next(lines, "")):
        found = SILENCED.search(token.string) if token.type == tokenize.COMMENT else None
        if found and not (found["rule"] and re.match(r"\s*#\s*\w", found["rest"])):
            yield f"{source.path}:{token.start[0]}: {found[0]!r} without a rule or a reason"


many_of_exported = functools.partial(many_positional_arguments, exported={"f", "C"})


def broken(rule, *folders: str) -> str:
    return "\n".join(breach for source in sources(*folders) for breach in rule(source))


@pytest.mark.parametrize("rule", [long_files, catch_all_files, hidden_modules, unreasoned_silence])
def test_every_file_keeps(rule):
    breaches = broken(rule, *PACKAGES, "tests", ".ci")
    assert not breaches, "\n" + breaches


@pytest.mark.parametrize("rule", [many_positional_arguments, bare_arguments, unclear_errors])
def test_packages_and_experiments_keep(rule):
    breaches = broken(rule, *PACKAGES)
    assert not breaches, "\n" + breaches


@pytest.mark.parametrize(
    "rule, text",
    [
        (long_files, "x = 1\n" * 401),
        (many_of_exported, "def f(a, b, c): ..."),
        (many_of_exported, "class C:\n    def __init__(self, a, b, c): ..."),
        (many_of_exported, "class C:\n    @staticmethod\n    def f(a, b, c): ..."),
        (bare_arguments, "def f(a: int, *, b) -> int: ..."),
        (bare_arguments, "def f(a: int): ..."),
        (bare_arguments, "class C:\n    def f(self, **kwargs) -> int: ..."),
        (unclear_errors, 'raise ValueError(f"k must be at least 1, got {k}")'),
        (unclear_errors, 'raise ValueError("k: " + "expected at least 1")'),
        (unclear_errors, "raise TypeError(text)"),
        (unreasoned_silence, "x = f()  # type: ignore"),
        (unreasoned_silence, "x = f()  # pyright: ignore[reportCallIssue]"),
        (unreasoned_silence, "x = f()  # type: ignore  # jaxlib has no types"),
    ],
)
def test_a_breach_is_found(rule, text, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert len(list(rule(read(path, tmp_path)))) == 1


def test_hidden_modules_and_catch_alls_are_found():
    text = "from shampoo_jax.step import memory as roots\nfrom shampoo_jax import grafting, plan\n"
    source = Source(Path("shampoo_jax/__init__.py"), text, ast.parse(text))
    assert list(hidden_modules(source)) == [
        "shampoo_jax/__init__.py:1: roots hides the module shampoo_jax.roots"
    ]
    assert list(catch_all_files(source._replace(path=Path("hsnn_jax/utils.py"))))


@pytest.mark.parametrize(
    "rule, text",
    [
        (many_of_exported, "def f(a, b, *, c): ...\ndef g(a, b, c): ..."),
        (many_of_exported, "class C:\n    def f(self, a, b): ..."),
        (bare_arguments, "def f(a: int, *, b: int) -> None:\n    def g(x): ..."),
        (unclear_errors, 'raise ValueError(f"{name}: expected 1 to {n}, found {k}")'),
        (unreasoned_silence, "x = f()  # pyright: ignore[reportCallIssue]  # jaxlib has no types"),
        (unreasoned_silence, "x = '# type: ignore'"),
    ],
)
def test_what_keeps_a_rule_passes(rule, text, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(text)
    assert list(rule(read(path, tmp_path))) == []
