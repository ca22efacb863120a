"""Hostile input: valid files, damaged at places drawn by a seed, read under limits.

    python -m tests.experiments.fuzz readers 60000            # or archives, runs, models
    python -m tests.experiments.fuzz readers 1 --seed 4711    # one case again

A case is read, or refused by an InputError of one line that names a file of its own. Whatever
else happens is a fault: it is printed with its seed, and the process ends with 1. Each case has
five seconds, the process 3 GiB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from experiments.data.cifar10 import read_cifar10
from experiments.data.datasets import read, read_mnist, read_text
from experiments.data.image_crops import BadImage, read_squares
from experiments.data.interactions import Interactions
from experiments.harness.errors import InputError
from experiments.harness.options import OneSeed, parse
from experiments.harness.run_folder import open_run
from tests.experiments import fuzz_models

MEMORY = 3 << 30
SECONDS = 5
Files = dict[str, bytes]
Draw = np.random.Generator

LOGS: list[dict[str, str]] = [
    {
        "ratings.dat": "7::30::4::20\n7::10::5::10\n2::30::3.5::5\n",
        "movies.dat": "30::A (1999)::X|Y\n",
    },
    {"u.data": "1\t2\t3\t4\n1\t3\t3\t5\n2\t2\t1\t9\n", "u.item": "2|A|||u|0|1\n3|B|||u|1|0\n"},
    {"ratings.csv": "userId,movieId,rating,timestamp\n1,2,3,4\n1,3,4.5,6\n"},
    {"x.txt": "1 2\n1 3\n1 4\n2 3\n"},
    {"x.txt": "1 2 3 4\n2 3 4 5\n3 9 2\n"},
    {"train.txt": "0 1 2\n1 2 3\n", "test.txt": "0 3\n1 0\n"},
    {"interactions.csv": 'user,item,timestamp,weight,action\n"a, b",x,3,1,buy\nc,y,4,2,look\n'},
    {"a.inter": "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t3\nu\tj\t4\n"},
    {"log.tsv": "visitorid\tevent\titemid\ttimestamp\n1\tview\t2\t2021-03-04T05:06:07\n"},
    {
        "retail.csv": "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,"
        "Country\n536365,85123A,HOLDER,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
    },
    {
        "log.jsonl": '{"user_id": "u", "asin": "a", "timestamp": 3, "rating": 4.5}\n'
        '{"timestamp": 5, "user_id": "v", "asin": "b"}\n',
        "items.jsonl": '{"asin": "a", "title": "A", "tags": ["x", "y"]}\n{"id": "b"}\n',
    },
    {"text.txt": "It was the best of times,\nit was the worst of times.\n"},
]
WORDS = [
    *(b"nan", b"inf", b"-1", b"1e999", b"99999999999999999999", b"1662984066080", b"0x10", b"1_0"),
    *(b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", "\u0663\u2028\U0001f600".encode(), b'"', b"'"),
    *(b",", b"\t", b"::", b"|", b"\r\n", b"\n", b"\r", b" ", b"[", b"{}", b"null", b"True"),
    *(b"-0", b"1.5", b"2021-13-45", b"a" * 5000, b"9" * 400, b"\x1f\x8b", b"\x93NUMPY", b"=1+1"),
]


def damaged(data: bytes, draw: Draw) -> bytes:
    """Change bytes at one to four places."""
    for _ in range(draw.integers(1, 5)):
        size = len(data)
        at = int(draw.integers(0, size + 1))
        to = min(size, at + int(draw.integers(1, 9)))
        kind = draw.integers(8)
        word = WORDS[draw.integers(len(WORDS))]
        if kind == 0:
            data = data[:at] + word + data[at:]
        elif kind == 1:
            data = data[:at] + word + data[to:]
        elif kind == 2:
            data = data[:at] + data[to:]
        elif kind == 3:
            data = data[:at]
        elif kind == 4:
            data = data[:at] + bytes(draw.integers(0, 256, 4, np.uint8)) + data[to:]
        elif kind == 5 and size:
            at = min(at, size - 1)
            data = data[:at] + bytes([data[at] ^ (1 << int(draw.integers(8)))]) + data[at + 1 :]
        elif kind == 6:
            lines = data.split(b"\n")
            i, j = draw.integers(len(lines), size=2)
            lines[i], lines[j] = lines[j], lines[i]
            data = b"\n".join(lines)
        else:
            data = data + data[at:to] * int(draw.integers(1, 50))
    return data


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a new folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def some_damaged(files: Files, draw: Draw) -> Files:
    """Damage one file, now and then drop one, exchange two or pack one."""
    names = list(files)
    name = names[draw.integers(len(names))]
    files = files | {name: damaged(files[name], draw)}
    kind = draw.integers(12)
    if kind == 0:
        files[name + ".gz"] = gzip.compress(files.pop(name), mtime=0)
    elif kind == 1:
        files[name + ".gz"] = damaged(gzip.compress(files.pop(name), mtime=0), draw)
    elif kind == 2 and len(names) > 1:
        del files[names[draw.integers(len(names))]]
    elif kind == 3:
        other = names[draw.integers(len(names))]
        files[name], files[other] = files[other], files[name]
    return files


def check_interactions(found: Interactions) -> None:
    """Check what every reader promises."""
    size = len(found.users)
    assert size and len(found.items) == size
    assert found.users.min() >= 0 and found.users.max() < found.n_users
    assert found.items.min() >= 0 and found.items.max() < found.n_items
    assert len(found.item_ids) == found.n_items and len(found.user_ids) == found.n_users
    if found.timestamps is not None:
        assert len(found.timestamps) == size and np.isfinite(found.timestamps).all()
    if found.weights is not None:
        assert len(found.weights) == size and np.isfinite(found.weights).all()
    if found.item_texts is not None:
        assert len(found.item_texts) == found.n_items


def parquet(draw: Draw) -> bytes:
    """Write a log as parquet, packed in one of several ways."""
    table = {"user": ["ann", "bob", "ann"], "item": [1, 2, 2], "time": [3, 4, 5], "n": [0.5, 1, 2]}
    stream = io.BytesIO()
    packing = ("none", "snappy", "gzip", "zstd")[draw.integers(4)]
    pyarrow.parquet.write_table(pyarrow.table(table), stream, compression=packing)
    return stream.getvalue()


def case_of_readers(folder: Path, draw: Draw) -> None:
    """Read a damaged log."""
    which = draw.integers(len(LOGS) + 1)
    if which == len(LOGS):
        check_interactions(read(written(folder, {"a.parquet": damaged(parquet(draw), draw)})))
        return
    files = {name: text.encode() for name, text in LOGS[which].items()}
    written(folder, some_damaged(files, draw))
    if "text.txt" in files and draw.integers(2):
        for path in folder.iterdir():
            assert read_text(path).strip()
        return
    path = folder if draw.integers(3) else next(folder.iterdir())
    columns = {"user": "user"} if draw.integers(10) == 0 else None
    check_interactions(read(path, columns))


def idx(array: np.ndarray) -> bytes:
    """Write an array as MNIST's files do."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def image(shade: int, kind: str = "JPEG") -> bytes:
    """Draw an image of one shade."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade,) * 3).save(stream, kind)
    return stream.getvalue()


def packed(files: Files, kind: str) -> bytes:
    """Pack files into a tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{kind}") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def case_of_archives(folder: Path, draw: Draw) -> None:
    """Read damaged images: idx files, JPEG files, tars of them."""
    kind = draw.integers(4)
    if kind == 0:
        files = {}
        for part in ("train", "t10k"):
            files[f"{part}-images-idx3-ubyte"] = idx(np.arange(24).reshape(3, 4, 2))
            files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(3))
        found = read_mnist(written(folder, some_damaged(files, draw)))
        assert len(found.train_images) == len(found.train_labels)
        return
    images = {
        f"{part}/{label}/{i}.jpg": image(40 * i + len(label))
        for part in ("train", "test")
        for label in ("cat", "ship")
        for i in range(2)
    }
    if kind == 1:
        files = some_damaged(images, draw)
    elif kind == 2:
        packing = ("", "gz", "xz", "bz2")[draw.integers(4)]
        suffix = {"": ".tar", "gz": ".tar.gz", "xz": ".tar.xz", "bz2": ".tar.gz"}[packing]
        files = {f"images{suffix}": damaged(packed(images, packing), draw)}
    else:
        one = image(90, ("JPEG", "PNG")[draw.integers(2)])
        path = written(folder, {"one.jpg": damaged(one, draw)}) / "one.jpg"
        with contextlib.suppress(BadImage):
            seeds = [(1, 2)] if draw.integers(2) else None
            assert read_squares([str(path)], 8, seeds).shape == (1, 8, 8, 3)
        return
    found = read_cifar10(written(folder, files), per_class=1, side=8)
    assert len(found.training.images) == len(found.training.labels)


def case_of_runs(folder: Path, draw: Draw) -> None:
    """Go on with a run whose files are damaged."""
    presets = {"default": OneSeed(seed=3)}
    metrics = [{"stage": "s", "step": i, "wall_seconds": i / 2, "loss": 1.5} for i in range(4)]
    config = {"data": None, "preset": "default", "seed": 3}
    saved = {"experiment": "toy", "arguments": ["--seed", "3"], "config": config}
    files = {
        "config.json": json.dumps(saved, indent=2).encode(),
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in metrics).encode(),
        "run.lock": b"12",
        "test-log.jsonl": b'{"date": "2026-01-01"}\n',
    }
    written(folder, some_damaged(files, draw))
    options, arguments = parse("toy", presets, ["--resume", str(folder)])
    with open_run("toy", options, arguments=arguments) as run:
        run.truncate_metrics("s", after_step=2)
        run.log("s", 3, loss=1.0)
    assert read_back(folder / "metrics.jsonl")


def read_back(path: Path) -> list[dict]:
    """Read what a run has logged."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


CASES: dict[str, Callable[[Path, Draw], None]] = {
    "readers": case_of_readers,
    "archives": case_of_archives,
    "runs": case_of_runs,
    "models": fuzz_models.case_of_models,
}


class TooLong(BaseException):
    """A case took its seconds."""


def _give_up(number: int, frame: object) -> None:
    raise TooLong


def fault_of(what: str, seed: int, base: Path) -> str:
    """Read a case; return "" where it was read, "refused", or what went wrong."""
    folder = base / str(seed)
    folder.mkdir()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        CASES[what](folder, np.random.default_rng([seed, 7]))
        return ""
    except InputError as error:
        one_line = len(str(error).splitlines()) == 1 and len(str(error)) < 2000
        return "refused" if one_line else f"not one short line: {error}"
    except SystemExit as error:  # the parser of options
        return "refused" if error.code == 2 else f"exit code {error.code}"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Read many cases, print their faults, and end with 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=CASES)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _give_up)
    if given.what == "models":
        fuzz_models.originals()  # before the clock of a case runs
    faults, counts = {}, Counter()
    with tempfile.TemporaryDirectory() as base, contextlib.redirect_stderr(io.StringIO()):
        for seed in range(given.seed, given.seed + given.count):
            fault = fault_of(given.what, seed, Path(base))
            counts["read" if not fault else "refused" if fault == "refused" else "fault"] += 1
            if fault not in ("", "refused"):
                faults.setdefault(fault.strip().splitlines()[-1][:120], (seed, fault))
    print(f"{given.what}: {dict(counts)}")
    for seed, fault in faults.values():
        print(f"--seed {seed}\n{fault[:3000]}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
