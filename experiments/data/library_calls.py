"""The embedded default data: library calls in the Python source that is installed anyway.

A function is a user, its resolved library calls in source order are the sequence, a called function
is an item, and its dotted name and docstring are the item's text. Source is read with `ast`, never
imported. Real data without a download, for showing what the system does, not for claims: order in
code is not time, and users are short. docs/data.md says how it is made.
"""

import collections
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments.data import python_source as readers_source
from experiments.data.interactions import Events, Interactions, from_events
from experiments.harness.errors import bad_input
from experiments.harness.process import cache_folder

MINER_VERSION = 1  # part of the cache key: raise it when the same files give other data
MIN_SUPPORT = 5  # functions that must call an item
MIN_CALLS = 3  # calls that a function must keep
HELD_OUT = 0.1  # share of events, at most, for validation and for test each
DOC_CHARACTERS = 1_000

# What constraints.txt pins and an installation with the extra [experiments] has.
DISTRIBUTIONS = (
    *("jax", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn", "matplotlib"),
    *("absl-py", "contourpy", "docstring_parser", "etils", "fonttools", "humanize", "joblib"),
    *("markdown-it-py", "ml_dtypes", "msgpack", "opt_einsum", "packaging", "pillow", "pygments"),
    *("pyparsing", "python-dateutil", "PyYAML", "rich", "tensorstore", "treescope", "typeguard"),
    *("tyro",),
)
_SKIPPED_FOLDERS = {"test", "tests", "testing", "__pycache__", "idlelib", "lib2to3", "turtledemo"}
_SKIPPED_FOLDERS |= {"ensurepip", "encodings", "pydoc_data"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

Module = tuple[str, bool, str]  # dotted name, whether it is an __init__, path
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class _Mined:
    """What the cache keeps: plain lists, from which the record is built."""

    functions: list[str]
    sequences: list[list[int]]  # indices into items
    items: list[str]
    texts: list[str]

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()


def library_calls(*, cache: bool = True, progress: Progress | None = None) -> Interactions:
    """Mine the installed Python source, or load what an earlier call mined from the same files.

    Args:
        cache: keep the result under $XDG_CACHE_HOME or ~/.cache, keyed by the hash of all files.
        progress: called with (files done, files in all) while mining.

    Returns:
        A function a user, its package (top-level name) its group; no timestamps.
    """
    modules = sorted({module[0]: module for module in _modules()}.values())
    if not modules:
        raise bad_input(sys.prefix, expected="Python source files", found="none")
    files_hash = _hash_files(modules)
    path = cache_folder() / f"library-calls-{MINER_VERSION}-{files_hash}.json.gz"
    mined = _load(path) if cache else None
    if mined is None:
        mined = _mine(modules, progress)
        if cache:
            _save(path, mined)
    note = f"library calls in {len(modules):,} installed Python files (hash {files_hash})"
    return _to_interactions(mined, note)


def package_split(interactions: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Deal whole packages to validation and test, the others to training.

    In the order of the SHA-256 of their names, packages go to the part that has fewer events so
    far, if that part then has at most `HELD_OUT` of all events, else to the other part on the same
    condition, else to training. Large packages therefore train.

    Returns:
        validation_users bool [n_users], test_users bool [n_users]; they do not overlap.

    Raises:
        ValueError: the users have no groups.
    """
    if interactions.groups is None:
        raise ValueError("interactions: expected groups, found None")
    events = np.bincount(
        interactions.groups[interactions.users], minlength=len(interactions.group_names)
    )
    held_out: tuple[list[int], list[int]] = ([], [])
    names = interactions.group_names
    for group in sorted(range(len(names)), key=lambda g: _sha256(names[g].encode())):
        for part in sorted(held_out, key=lambda part: events[part].sum()):
            if events[[*part, group]].sum() <= HELD_OUT * events.sum():
                part.append(group)
                break
    validation, test = (np.isin(interactions.groups, part) for part in held_out)
    return validation, test


def _modules() -> Iterator[Module]:
    """Yield the modules of the standard library and of the pinned distributions."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name.isidentifier()]
        for name in files:
            path = Path(folder, name)
            yield from _as_module(path.relative_to(root), path)
    for name in DISTRIBUTIONS:
        try:
            paths = importlib.metadata.files(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for path in paths:
            if path.suffix == ".py":
                yield from _as_module(Path(path), Path(str(path.locate())))


def _as_module(relative: Path, path: Path) -> Iterator[Module]:
    """Name a file as a module, unless it is a test, generated, or not importable by name."""
    parts = relative.with_suffix("").parts
    if relative.suffix != ".py" or _SKIPPED_FOLDERS & set(parts) or not path.is_file():
        return
    if not all(part.isidentifier() for part in parts) or _is_test(parts[-1]):
        return
    is_package = parts[-1] == "__init__" and len(parts) > 1
    yield ".".join(parts[:-1] if is_package else parts), is_package, str(path)


def _is_test(name: str) -> bool:
    is_test = name.startswith("test_") or name.endswith("_test") or name == "conftest"
    return is_test or name.startswith("_sysconfigdata")  # names the machine it was built on


def _hash_files(modules: list[Module]) -> str:
    digest = hashlib.sha256()
    for name, _, path in modules:
        digest.update(f"{name} {_sha256(Path(path).read_bytes())}\n".encode())
    return digest.hexdigest()[:16]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _mine(modules: list[Module], progress: Progress | None) -> _Mined:
    """Read all modules in a few worker processes and put their calls together."""
    n_chunks = min(24, 1 + len(modules) // 100)
    chunks = [modules[start::n_chunks] for start in range(n_chunks)]
    calls: dict[str, list[str]] = {}
    names: readers_source.Names = {}
    done = 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for chunk, (found_calls, found_names) in zip(chunks, pool.map(_run_worker, chunks)):
            names |= found_names
            for function, called in found_calls:
                calls[_unused(function, calls)] = called
            done += len(chunk)
            if progress is not None:
                progress(done, len(modules))
    definition = _resolver(names)
    return _keep_supported(_with_one_name_each(calls, definition), names, definition)


def _run_worker(chunk: list[Module]) -> tuple[readers_source.Calls, readers_source.Names]:
    command = [sys.executable, "-I", readers_source.__file__]
    done = subprocess.run(command, input=json.dumps(chunk).encode(), capture_output=True)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"reading Python source failed with code {done.returncode}: {last}")
    return json.loads(done.stdout)


def _unused(function: str, taken: dict) -> str:
    """Number functions of one name, such as a property's getter and setter."""
    name, count = function, 1
    while name in taken:
        count += 1
        name = f"{function}#{count}"
    return name


def _resolver(names: readers_source.Names) -> Callable[[str], str]:
    """Return a function from a dotted name, through re-exports, to where it is defined."""
    resolved: dict[str, str] = {}

    def follow(dotted: str) -> str:
        parent, _, last = dotted.rpartition(".")
        if names.get(dotted, "").startswith("=") or not parent:
            return dotted
        if dotted in names:
            return definition(names[dotted][1:])
        for module in filter(None, names.get(f"{parent}.*", ">")[1:].split(",")):
            if (target := definition(f"{module}.{last}")) in names:
                return target
        defined = definition(parent)
        return dotted if defined == parent else definition(f"{defined}.{last}")

    def definition(dotted: str) -> str:
        if dotted not in resolved:
            resolved[dotted] = dotted  # what a circle of imports finds
            resolved[dotted] = follow(dotted)
        return resolved[dotted]

    return definition


def _with_one_name_each(
    calls: dict[str, list[str]], definition: Callable[[str], str]
) -> dict[str, list[str]]:
    """Give what is called under several names its most used public one, and collapse repeats.

    A call that directly repeats the one before says nothing new, and would make repeating the last
    item a good answer.
    """
    used = collections.Counter(dotted for called in calls.values() for dotted in called)
    aliases = collections.defaultdict(list)
    for dotted in sorted(used):
        aliases[definition(dotted)].append(dotted)
    public = {
        dotted: min(group, key=lambda name: (_is_private(name), -used[name], name))
        for group in aliases.values()
        for dotted in group
    }
    return {
        function: _collapsed([public[dotted] for dotted in called])
        for function, called in calls.items()
    }


def _is_private(dotted: str) -> bool:
    return any(part.startswith("_") for part in dotted.split("."))


def _collapsed(sequence: list[str]) -> list[str]:
    return [item for i, item in enumerate(sequence) if i == 0 or item != sequence[i - 1]]


def _keep_supported(
    calls: dict[str, list[str]], names: readers_source.Names, definition: Callable[[str], str]
) -> _Mined:
    """Keep items that enough functions call, then functions that keep enough calls."""
    support = collections.Counter(item for called in calls.values() for item in set(called))
    kept: dict[str, list[str]] = {}
    for function in sorted(calls):
        called = _collapsed([item for item in calls[function] if support[item] >= MIN_SUPPORT])
        if len(called) >= MIN_CALLS:
            kept[function] = called
    items = sorted({item for called in kept.values() for item in called})
    index = {item: i for i, item in enumerate(items)}
    return _Mined(
        functions=list(kept),
        sequences=[[index[item] for item in called] for called in kept.values()],
        items=items,
        texts=[_text(item, names.get(definition(item), "")) for item in items],
    )


def _text(item: str, entry: str) -> str:
    """Return the words of the dotted name, then the start of the docstring where there is one."""
    words = " ".join(_WORD.findall(item)).lower()
    doc = " ".join(entry[1:].split()) if entry.startswith("=") else ""
    return f"{words} {doc[:DOC_CHARACTERS]}".strip()


def _to_interactions(mined: _Mined, note: str) -> Interactions:
    lengths = [len(sequence) for sequence in mined.sequences]
    events = Events(
        users=np.repeat(np.array(mined.functions), lengths),
        items=np.array(mined.items)[np.concatenate(mined.sequences)],
        texts=dict(zip(mined.items, mined.texts)),
        notes=(note, "order in code is not time, and users are short: for showing, not for claims"),
    )
    record = from_events("library-calls", _sha256(mined.to_json())[:16], events)
    packages = [function.partition(".")[0] for function in record.user_ids.tolist()]
    group_names, groups = np.unique(packages, return_inverse=True)
    return dataclasses.replace(
        record, groups=groups.astype(np.int32), group_names=tuple(group_names.tolist())
    )


def _load(path: Path) -> _Mined | None:
    """Return the cached result, or None where there is none that is whole."""
    try:
        mined = _Mined(**json.loads(gzip.decompress(path.read_bytes())))
        if len(mined.functions) != len(mined.sequences) or len(mined.items) != len(mined.texts):
            return None
        return mined if mined.sequences and all(mined.sequences) else None
    except (OSError, EOFError, zlib.error, ValueError, TypeError):
        return None


def _save(path: Path, mined: _Mined) -> None:
    """Write the cache in one rename; a folder that cannot be written means no cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            stream.write(gzip.compress(mined.to_json(), mtime=0))
        os.replace(stream.name, path)
    except OSError:
        return
