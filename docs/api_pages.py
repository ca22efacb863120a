"""The pages of the API reference, one a package and one a room, from the packages as they are.

`conf.py` calls `write` before Sphinx reads its sources: a module that moves to another room needs
no change here.
"""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

PACKAGES = ("shampoo_jax", "nxtpost_jax", "hsnn_jax")


def write(folder: Path) -> None:
    """Write `folder`/PACKAGE.md and `folder`/PACKAGE.ROOM.md; leave equal files as they are."""
    pages = {}
    for name in PACKAGES:
        package = importlib.import_module(name)
        rooms = [room for room in _modules(package) if room.ispkg]
        flat = [module.name for module in _modules(package) if not module.ispkg]
        for room in rooms:
            pages[room.name] = _room_page(importlib.import_module(room.name))
        pages[name] = _package_page(package, [room.name for room in rooms], flat)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _modules(package: ModuleType) -> list[pkgutil.ModuleInfo]:
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [module for module in found if not module.name.rpartition(".")[2].startswith("_")]


def _room_page(room: ModuleType) -> str:
    modules = [module.name for module in _modules(room)]
    return "\n".join([f"# {room.__name__}\n", f"{room.__doc__ or ''}\n", *map(_module, modules)])


def _package_page(package: ModuleType, rooms: list[str], flat: list[str]) -> str:
    lines = [
        f"# {package.__name__}\n",
        f"{package.__doc__ or ''}\n",
        "| name | what |",
        "|---|---|",
    ]
    lines += [_row(package, name) for name in package.__all__]
    if rooms:
        lines += ["\n```{toctree}", *rooms, "```\n"]
    return "\n".join([*lines, "\n", *map(_module, flat)])


def _row(package: ModuleType, name: str) -> str:
    """Name something of the front door, with a link to where it is written."""
    value = getattr(package, name)
    what = "" if isinstance(value, int | float | str | tuple) else inspect.getdoc(value) or ""
    first = what.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    if inspect.ismodule(value):
        return f"| {{py:mod}}`{name} <{value.__name__}>` | {first} |"
    if not hasattr(value, "__qualname__"):
        return f"| `{name}` | {first} |"
    return f"| {{py:obj}}`{name} <{value.__module__}.{value.__qualname__}>` | {first} |"


def _module(name: str) -> str:
    title = name.split(".", 1)[1]
    return f"## {title}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n```\n"
