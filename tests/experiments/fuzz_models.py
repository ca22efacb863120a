"""Saved models, damaged at places drawn by a seed: see `fuzz`.

A damage is cut, flipped, zeroed or exchanged bytes, a file too few or too many, an array that is
another or says to be huge, a number of the header that is another. A third of the damaged folders
keep their digests: such a model answers as before, bit for bit, or is refused by a ValueError of
one line that names a file. The digests of the others are forged: such a model is refused in the
same way, or by a request; or it answers in finite scores. Nothing in a folder is executed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import signal
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.harness.errors import InputError
from hsnn_jax import LTIConfig, Retriever
from hsnn_jax import folder as folder_files
from nxtpost_jax import folders
from nxtpost_jax.serving.recommender import Recommender
from nxtpost_jax.towers.model import NxtPostConfig

Files = dict[str, bytes]
Draw = np.random.Generator
HUGE = 10**12
executed: list[str] = []


class Saved(NamedTuple):
    """A model on disk: its files, those of another model of its kind, and how it is read."""

    header: str
    files: Files
    others: Files
    load: Callable[[Path], Any]
    ask: Callable[[Any], list[np.ndarray]]
    answer: list[np.ndarray]


def execute() -> None:
    """Leave a trace."""
    executed.append("a pickle")


class Payload:
    """What a pickle would execute."""

    def __reduce__(self):
        return execute, ()


def small_recommender(seed: int) -> Recommender:
    """Fit on texts, tags, numbers, vectors and sets under own ids; items and users come and go."""
    draw = np.random.default_rng(seed)
    names = [f"film {n}" for n in range(20)]
    items = {
        "item": names,
        "title": [f"{('sea ship', 'king queen', 'robot laser')[n % 3]} {n}" for n in range(20)],
        "genre": [["a", "b"][: 1 + n % 2] for n in range(20)],
        "year": draw.integers(1950, 2020, 20).tolist(),
        "cover": draw.normal(size=(20, 3)).tolist(),
        "images": [draw.normal(size=(1 + n % 2, 2)).tolist() for n in range(20)],
    }
    users = np.repeat(np.arange(16), 5)
    log = {"user": users, "item": [names[n] for n in draw.integers(0, 20, 80)]}
    config = NxtPostConfig(
        d_model=8, num_layers=1, max_len=8, id_embedding=True, dropout=0.0, time_features=False
    )
    recommender = Recommender(config)
    recommender.fit(log, content=items, epochs=1, batch_size=16, num_negatives=4, progress=False)
    recommender.remove(["film 3"])
    recommender.add({"new": {name: items[name][seed] for name in items if name != "item"}})
    recommender.update("ann", "film 1")
    recommender.update(7, "new")
    return recommender


def ask_recommender(recommender: Recommender) -> list[np.ndarray]:
    """Ask for histories, for a live user, and for neighbours."""
    answers = [recommender.recommend([["film 1", "film 2"], ["new"]], 4)]
    answers += [recommender.recommend_user("ann", 4), recommender.similar("film 5", 3)]
    return [np.asarray(part) for answer in answers for part in answer]


def scaled(params: Any, users: Any, items: Any) -> Any:
    """Score by a weighted inner product: a scorer of one's own."""
    return jnp.einsum("bd,bmd->bm", users * params["weight"], items)


def small_retriever(seed: int, **how: Any) -> Retriever:
    """Build an index; strings are ids where a scorer of its own is given."""
    vectors = np.random.default_rng(seed).normal(size=(60, 8)).astype(np.float32)
    retriever = Retriever(LTIConfig(num_nodes=6), **how)
    ids = [f"item {n}" for n in range(60)] if how else 100 + np.arange(60)
    retriever.build_index(vectors, item_ids=ids, reserve=4)
    return retriever


def ask_retriever(retriever: Retriever) -> list[np.ndarray]:
    """Search for five users."""
    users = np.random.default_rng(9).normal(size=(5, 8)).astype(np.float32)
    return [np.asarray(part) for part in retriever.search(users, 4)]


@functools.cache
def originals() -> tuple[Saved, ...]:
    """Make the models, two of each kind, and ask the first ones."""
    params = {"weight": np.linspace(0.5, 2, 8, dtype=np.float32)}
    own = {"scorer": scaled, "params": params}
    ways: list[tuple] = [
        ("recommender.json", small_recommender, {}, Recommender.load, ask_recommender),
        ("retriever.json", small_retriever, {}, Retriever.load, ask_retriever),
        (
            "retriever.json",
            small_retriever,
            own,
            functools.partial(Retriever.load, scorer=scaled),
            ask_retriever,
        ),
    ]
    made = []
    for header, make, how, load, ask in ways:
        with tempfile.TemporaryDirectory() as base:
            folder = Path(base) / "saved"
            pair = []
            for seed in (1, 0):
                make(seed, **how).save(folder)
                pair.append({path.name: path.read_bytes() for path in folder.iterdir()})
            made.append(Saved(header, pair[1], pair[0], load, ask, ask(load(folder))))
    return tuple(made)


def digest(data: bytes) -> str:
    """Compute the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def forged(files: Files, header: str) -> Files:
    """Let the digests of a header say what is there."""
    try:
        said = json.loads(files[header])
        said.pop("digest", None)
        if header == "recommender.json":
            said["files"] = {name: digest(files[name]) for name in files if name != header}
            said["digest"] = folders.digest_of(said)
            return files | {header: json.dumps(said, indent=2).encode()}
        said["arrays"] = digest(files["arrays.npz"])
        said["digest"] = digest(folder_files._canonical(said))
        return files | {header: folder_files._text(said).encode()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return files  # it is no header any more


def damaged_bytes(data: bytes, other: bytes, draw: Draw) -> bytes:
    """Cut, flip, zero, lengthen or exchange."""
    at = int(draw.integers(len(data) or 1))
    to = at + int(draw.integers(1, 65))
    bit = bytes([data[at] ^ 1 << int(draw.integers(8))]) if data else b"\0"
    kinds = (
        data[:at],
        data[:at] + bit + data[at + 1 :],
        data[:at] + bytes(len(data[at:to])) + data[to:],
        data[:at] + bytes(len(data) - at),
        data + data[at:],
        data[:at] + other[at:],
        other,
        b"",
    )
    return kinds[draw.integers(len(kinds))]


def damaged_arrays(data: bytes, other: bytes, draw: Draw) -> bytes:
    """Damage one array of a file, whose own checksums hold."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(io.BytesIO(other)) as archive:
        others = {name: archive.read(name) for name in archive.namelist()}
    names = list(arrays)
    name = names[draw.integers(len(names))]
    packing = zipfile.ZIP_STORED
    kind = draw.integers(10)
    if kind < 2:
        arrays[name] = damaged_bytes(arrays[name], others.get(name, b""), draw)
    elif kind == 2:
        arrays[name] = array_bytes(draw, Path(name).stem)
    elif kind == 3:
        shape = [(HUGE,), (2**40, 2**40), (-1,), (3, 2**31)][draw.integers(4)]
        arrays[name] = header_bytes(shape, "<f4") + arrays[name][128:]
    elif kind == 4:
        del arrays[name]
    elif kind == 5:
        arrays[f"one-too-many-{draw.integers(9)}.npy"] = arrays[name]
    elif kind == 6:
        swap = names[draw.integers(len(names))]
        arrays[name], arrays[swap] = arrays[swap], arrays[name]
    elif kind == 7:
        whole = pickle.dumps(Payload())
        arrays[name] = (header_bytes((1,), "|O"), b"")[draw.integers(2)] + whole
    elif kind == 8:
        packing = zipfile.ZIP_DEFLATED
        arrays[name] = header_bytes((1 << 26,), "|i1") + bytes(1 << 26)
    else:
        values = other_values(np.load(io.BytesIO(arrays[name])), draw)
        arrays[name] = saved(values)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for each, content in arrays.items():
            archive.writestr(each, content)
    return stream.getvalue()


def other_values(array: np.ndarray, draw: Draw) -> np.ndarray:
    """Put other values in some places, or give another type or shape."""
    kind = draw.integers(5)
    if kind == 0:
        return array.astype(("<f8", "<i8", "<i4", "<f2", "?")[draw.integers(5)])
    if kind == 1:
        return array.T if array.ndim > 1 else array[..., None]
    if kind == 2:
        return array[: len(array) // 2] if array.ndim else array[None]
    some = array.copy().reshape(-1)
    if not some.size:
        return array
    if array.dtype.kind == "f":
        value = (np.nan, np.inf, -1e38, 1e20, 0.0)[draw.integers(5)]
    elif array.dtype.kind in "iu":
        most = np.iinfo(array.dtype)
        value = (most.min, most.max, 0, 1, 99)[draw.integers(5)]
    else:
        value = bool(draw.integers(2))
    some[draw.integers(0, some.size, 1 + int(draw.integers(some.size)))] = value
    return some.reshape(array.shape)


def header_bytes(shape: tuple[int, ...], dtype: str) -> bytes:
    """Write the header of an array."""
    stream = io.BytesIO()
    said = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, said)
    return stream.getvalue()


def saved(array: np.ndarray) -> bytes:
    """Write an array as an .npy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def array_bytes(draw: Draw, name: str) -> bytes:
    """Write some other array."""
    kinds: tuple[Any, ...] = (0, [], [[]], name, b"x", np.zeros((2, 3, 4)), np.arange(9), 1j, True)
    return saved(np.asarray(kinds[draw.integers(len(kinds))]))


def damaged_header(data: bytes, draw: Draw) -> bytes:
    """Change, drop or add one value of a header."""
    said = json.loads(data)
    place: Any = said
    while True:
        keys = [*range(len(place))] if isinstance(place, list) else [*place]
        if not keys:
            break
        key = keys[draw.integers(len(keys))]
        if isinstance(place[key], dict | list) and place[key] and draw.integers(5):
            place = place[key]
            continue
        kind = draw.integers(8)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place["one too many"] = place[key]
        else:
            place[key] = other_value(place[key], draw)
        break
    return json.dumps(said, indent=2).encode()


def other_value(value: Any, draw: Draw) -> Any:
    """Draw a value, near to the old one or far."""
    if isinstance(value, int | float) and draw.integers(2):
        return value * (-1, 2, 0, 10**6, 10**12, 0.5)[draw.integers(6)]
    values = (0, -1, 1, 2, 3, 2**31, 2**63, 10**40, 0.5, float("nan"), 1e308)
    values += (None, True, False, "", "x", "../x", [], {}, [1], {"a": 1}, [[]])
    return values[draw.integers(len(values))]


def some_damaged(model: Saved, draw: Draw, *, forge: bool) -> Files:
    """Damage one file, now and then two; drop one or add one at times."""
    files = dict(model.files)
    for _ in range(1 + int(draw.integers(4) == 0)):
        name = [*model.files][draw.integers(len(model.files))]
        kind = draw.integers(12)
        if kind == 0:
            files.pop(name, None)
        elif kind == 1:
            files[f"more-{name}"] = model.files[name]
        elif kind == 2:
            each = originals()[draw.integers(len(originals()))].files
            files[name] = each[[*each][draw.integers(len(each))]]
        elif forge and kind < 10 and files.get(name) == model.files[name]:
            if name == model.header:
                files[name] = damaged_header(files[name], draw)
            else:
                files[name] = damaged_arrays(files[name], model.others.get(name, b""), draw)
        else:
            files[name] = damaged_bytes(files.get(name, b""), model.others.get(name, b""), draw)
    return forged(files, model.header) if forge else files


def case_of_models(folder: Path, draw: Draw) -> None:
    """Load a damaged model and ask it."""
    model = originals()[draw.integers(len(originals()))]
    forge = bool(draw.integers(3))
    files = some_damaged(model, draw, forge=forge)
    forge |= files == model.others  # all exchanged: a whole model, another one
    for name, data in files.items():
        (folder / name).write_bytes(data)
    try:
        loaded = model.load(folder)
    except ValueError as error:
        assert not executed
        named = any(f"{folder}/{name}" in str(error) for name in {*files, *model.files})
        if not named and not str(error).startswith("scorer: expected "):  # a header of another's
            raise AssertionError(f"no file is named: {error!r}") from error
        raise InputError(str(error)) from None
    assert not executed
    signal.setitimer(signal.ITIMER_REAL, 60)  # another shape compiles another program
    check_answer(model, loaded, forge=forge, same=only_spaces_differ(files, model))


def only_spaces_differ(files: Mapping[str, bytes], model: Saved) -> bool:
    """Tell whether a model that was loaded is the one that was saved."""
    return all(files.get(name, b"").split() == data.split() for name, data in model.files.items())


def check_answer(model: Saved, loaded: Any, *, forge: bool, same: bool) -> None:
    """Ask what was loaded: the same bits, or, of forged digests, finite scores."""
    try:
        answer = model.ask(loaded)
    except (ValueError, FloatingPointError) as error:
        if not forge or same:
            raise AssertionError("an unforged model refuses a request") from error
        raise InputError(str(error)) from None
    if not forge or same:
        for found, expected in zip(answer, model.answer, strict=True):
            np.testing.assert_array_equal(found, expected)
    for found in answer:
        assert found.dtype.kind != "f" or np.isfinite(found).all(), found
