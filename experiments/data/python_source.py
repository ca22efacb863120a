"""Library calls and docstrings in Python source, read with `ast`; nothing is ever imported.

Needs the standard library only, and serves as a worker process: run as a script, it reads
[[module, is_package, path], ...] as JSON from stdin and writes what `mine` returns to stdout.
A separate program, not a fork or a spawn, so that a caller needs neither a single-threaded process
(JAX has none) nor a guarded `__main__`.
"""

import ast
import gc
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
_BRANCHES = (ast.expr, ast.stmt, ast.keyword, ast.comprehension, ast.withitem)
_BRANCHES += (ast.excepthandler, ast.match_case, ast.pattern)

Calls = list[tuple[str, list[str]]]  # (qualified function, dotted calls in source order)
Names = dict[str, str]  # dotted name -> "=docstring" or ">dotted name that it stands for"


def mine(modules: Iterable[tuple[str, bool, str]]) -> tuple[Calls, Names]:
    """Return the calls of every function and what every name of these modules says or stands for.

    Args:
        modules: (dotted module, whether it is a package's __init__, path) of each file. A file
            that does not parse is passed over.
    """
    calls: Calls = []
    names: Names = {}
    for module, is_package, path in modules:
        try:
            tree = ast.parse(Path(path).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        package = module if is_package else module.rpartition(".")[0]
        own = own_nodes(tree)
        imports = dict(imported_names(own, package))
        names |= exported_names(tree, module, imports, package)
        calls += function_calls(own, module, imports, package)
    return calls, names


def imported_names(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[str, str]]:
    """Yield (local name, dotted name) for the import statements among `nodes`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, package)
            for alias in node.names:
                if alias.name != "*":
                    yield alias.asname or alias.name, f"{origin}.{alias.name}"


def exported_names(
    tree: ast.Module, module: str, imports: Mapping[str, str], package: str
) -> Names:
    """Map the module's dotted names to docstrings (of functions, classes, methods) or targets."""
    names = {f"{module}.{name}": f">{target}" for name, target in imports.items()}
    stars = [
        _absolute(node, package)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]
    if stars:
        names[f"{module}.*"] = ">" + ",".join(stars)
    for node in tree.body:
        if isinstance(node, DEFINITIONS):
            names[f"{module}.{node.name}"] = "=" + (ast.get_docstring(node) or "")
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, FUNCTIONS) and not method.name.startswith("_"):
                    doc = ast.get_docstring(method) or ""
                    names[f"{module}.{node.name}.{method.name}"] = "=" + doc
    return names | dict(added_docs(tree))


def added_docs(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what `add_newdoc(module, name, doc)` statements say: numpy documents its C code so."""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(call := node.value, ast.Call):
            words = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            if getattr(call.func, "id", "") == "add_newdoc" and len(words) == 3:
                yield f"{words[0]}.{words[1]}", f"={words[2]}"


def function_calls(
    own: Iterable[ast.AST], scope: str, imports: Mapping[str, str], package: str
) -> Iterator[tuple[str, list[str]]]:
    """Yield (qualified function, resolved calls in source order) of functions, however nested.

    `own` is what `own_nodes` gives for the module (then for each definition).
    """
    for node in own:
        if not isinstance(node, DEFINITIONS):
            continue
        inner, inner_own = f"{scope}.{node.name}", own_nodes(node)
        visible = imports
        if isinstance(node, FUNCTIONS):
            visible = _visible(node, inner_own, imports, package)
            if calls := _resolved_calls(inner_own, visible):
                yield inner, calls
        yield from function_calls(inner_own, inner, visible, package)


def _visible(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
    own: list[ast.AST],
    imports: Mapping[str, str],
    package: str,
) -> dict[str, str]:
    """Return imported names as the function sees them: local names hide, local imports add."""
    arguments = function.args
    hidden = {argument.arg for argument in arguments.posonlyargs + arguments.args}
    hidden |= {argument.arg for argument in arguments.kwonlyargs}
    hidden |= {argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument}
    hidden |= {n.id for n in own if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    hidden |= {node.name for node in own if isinstance(node, DEFINITIONS)}
    visible = {name: target for name, target in imports.items() if name not in hidden}
    return visible | dict(imported_names(own, package))


def _resolved_calls(own: list[ast.AST], visible: Mapping[str, str]) -> list[str]:
    found = []
    for node in own:
        if isinstance(node, ast.Call) and (dotted := _dotted(node.func, visible)):
            found.append((node.lineno, node.col_offset, dotted))
    return [dotted for _, _, dotted in sorted(found)]


def _dotted(node: ast.AST, visible: Mapping[str, str]) -> str | None:
    """Resolve `name.attribute...` through the imports, or return None."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in visible:
        return None
    return ".".join([visible[node.id], *reversed(attributes)])


def own_nodes(root: Any) -> list[ast.AST]:
    """List the nodes of the body of `root`; definitions are listed but not entered.

    Leaves without a name (constants, operators) are left out: most of a tree, and of the time.
    """
    found: list[ast.AST] = []
    stack: list[ast.AST] = list(root.body)
    while stack:
        node = stack.pop()
        found.append(node)
        if isinstance(node, DEFINITIONS):
            continue
        for value in node.__dict__.values():
            if isinstance(value, list):
                stack += [child for child in value if isinstance(child, _BRANCHES)]
            elif isinstance(value, _BRANCHES) and not isinstance(value, ast.Constant):
                stack.append(value)
    return found


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the dotted module that `from ... import` names, resolving leading dots."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")[: max(len(package.split(".")) - node.level + 1, 0)]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _serve() -> None:
    gc.disable()  # trees hold no cycles that matter, and collections would take most of the time
    warnings.simplefilter("ignore")  # other people's invalid escapes
    json.dump(mine(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    _serve()
