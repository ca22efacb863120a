"""Mining calls from source: names resolve as Python would, packages stay whole, caches heal."""

import ast
import gzip
import os
import textwrap

import numpy as np
import pytest

from experiments.data import library_calls as mining
from experiments.data.datasets import read
from experiments.data.interactions import Events, from_events
from experiments.data.library_calls import library_calls, package_split
from experiments.data.python_source import (
    exported_names,
    function_calls,
    imported_names,
    mine,
    own_nodes,
)
from experiments.harness.errors import InputError


def calls_in(source, module="pkg.sub.mod"):
    own = own_nodes(ast.parse(textwrap.dedent(source)))
    package = module.rpartition(".")[0]
    imports = dict(imported_names(own, package))
    return dict(function_calls(own, module, imports, package))


def test_calls_resolve_through_imports_and_aliases_in_source_order():
    found = calls_in("""
        import os.path
        import numpy as np
        from json import dumps as d
        from . import near
        from ..far import thing
        def f(x):
            np.zeros(os.path.join(d(x)))
            near.g(); thing()
            x.append(1); print(x); len(x)
            [np.ones(i) for i in x]
            with np.errstate(x=os.getcwd()) as e:
                try:
                    match x:
                        case 1:
                            lambda: np.sin(-x + np.cos(1))
                except OSError:
                    f"{np.tan(x)}"
    """)
    assert found == {
        "pkg.sub.mod.f": [
            *("numpy.zeros", "os.path.join", "json.dumps", "pkg.sub.near.g"),
            *("pkg.far.thing", "numpy.ones", "numpy.errstate", "os.getcwd"),
            *("numpy.sin", "numpy.cos", "numpy.tan"),
        ]
    }


def test_local_names_hide_imports():
    found = calls_in("""
        import os, sys, re, io
        def f(os, *, re):
            io = open("x")
            os.getcwd(); re.sub(); io.read(); sys.exit()
        def g():
            import json as sys
            sys.loads("1")
        class C:
            def method(self):
                def inner():
                    re.compile("x")
                os.getcwd()
    """)
    assert found == {
        "pkg.sub.mod.f": ["sys.exit"],
        "pkg.sub.mod.g": ["json.loads"],
        "pkg.sub.mod.C.method": ["os.getcwd"],
        "pkg.sub.mod.C.method.inner": ["re.compile"],
    }


def test_docstrings_are_found_through_re_exports():
    names = {}
    for module, is_package, source in [
        ("lib", True, "from .core import *\nfrom ._c import fast\nfrom .core import g as h"),
        ("lib.core", False, 'def g():\n  "Does g."\nclass K:\n  def m(self):\n    "Does m."'),
        ("lib._doc", False, 'add_newdoc("lib._c", "fast", "Runs fast.")'),
        ("a", False, "from b import x"),
        ("b", False, "from a import x"),
    ]:
        tree = ast.parse(source)
        package = module if is_package else module.rpartition(".")[0]
        names |= exported_names(tree, module, dict(imported_names(tree.body, package)), package)
    definition = mining._resolver(names)
    assert definition("lib.g") == definition("lib.h") == "lib.core.g"
    assert names[definition("lib.K.m")] == "=Does m."
    assert names[definition("lib.fast")] == "=Runs fast."
    assert definition("a.x") in ("a.x", "b.x")  # a circle ends
    assert definition("lib.absent") == "lib.absent"


def test_unparsable_files_are_passed_over(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import os\ndef f():\n    os.getcwd()\n")
    bad.write_text("def f(:\n")
    calls, _ = mine([("good", False, str(good)), ("bad", False, str(bad)), ("no", False, "/no")])
    assert calls == [("good.f", ["os.getcwd"])]


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    """A library of three packages in place of the installed ones, and a cache of its own."""
    root = tmp_path / "lib"
    root.mkdir()
    body = "import os, json, time\n" + "".join(
        f"def f{i}():\n    os.getcwd(); os.getcwd(); json.dumps(1); time.time(); os.rare{i}()\n"
        for i in range(6)
    )
    for name in ("red", "green", "blue"):
        (root / f"{name}.py").write_text(body)
    (root / "test_red.py").write_text(body)
    (root / "json.py").write_text('def dumps(x):\n    """Serialise   x."""\n')
    monkeypatch.setattr(mining.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    monkeypatch.setattr(mining, "DISTRIBUTIONS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return root


def cached_file(root):
    (path,) = (root.parent / "cache" / "shampoo-nxtpost-hsnn").iterdir()
    return path


def same(a, b):
    assert a.sha256 == b.sha256 and a.item_texts == b.item_texts
    np.testing.assert_array_equal(a.items, b.items)
    np.testing.assert_array_equal(a.groups, b.groups)


def test_record_of_a_small_library(small_library):
    record = library_calls(cache=False)
    assert record.name == "library-calls"
    assert record.item_ids.tolist() == ["json.dumps", "os.getcwd", "time.time"]
    assert record.item_texts == ["json dumps Serialise x.", "os getcwd", "time time"]
    assert record.group_names == ("blue", "green", "red")
    assert record.n_users == 18 and record.n_events == 54
    first = record.items[record.users == 0]
    assert record.item_ids[first].tolist() == ["os.getcwd", "json.dumps", "time.time"]
    assert record.user_ids[0] == "blue.f0" and record.groups[0] == 0
    assert "5 installed Python files" not in record.notes[0]  # the test file is not read
    assert "4 installed Python files" in record.notes[0]
    assert not (small_library.parent / "cache").exists()


def test_cache_is_used_and_heals(small_library, monkeypatch):
    seen = []
    fresh = library_calls(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)
    path = cached_file(small_library)
    content = path.read_bytes()

    def refuse(*args):
        raise AssertionError("mined again")

    with monkeypatch.context() as patch:
        patch.setattr(mining, "_mine", refuse)
        same(library_calls(), fresh)
    for damage in (b"", content[:-20], b"junk", gzip.compress(b"[1]"), gzip.compress(b"{}")):
        path.write_bytes(damage)
        same(library_calls(), fresh)
        assert path.read_bytes() == content
    (small_library / "red.py").write_text("import os\n")  # other files: another key
    assert library_calls().sha256 != fresh.sha256
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_no_error(small_library):
    (small_library.parent / "cache").write_text("a file in the way")
    assert library_calls().n_users == 18


def test_unknown_files_are_refused(small_library, monkeypatch):
    for path in small_library.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="expected Python source files, found none"):
        library_calls()


def grouped(sizes):
    users = np.repeat(np.arange(len(sizes)), sizes)
    record = from_events("x", "0", Events(users, np.zeros_like(users)))
    names = tuple(f"package{i}" for i in range(len(sizes)))
    groups = np.arange(len(sizes), dtype=np.int32)
    return mining.dataclasses.replace(record, groups=groups, group_names=names)


def test_package_split_is_bounded_disjoint_and_independent_of_order():
    sizes = np.array([400, 300, 50, 40, 30, 30, 30, 20, 20, 20, 20, 15, 10, 10, 5])
    validation, test = package_split(grouped(sizes))
    assert not np.any(validation & test)
    for part in (validation, test):
        assert 0.05 * sizes.sum() < sizes[part].sum() <= 0.1 * sizes.sum()
    with pytest.raises(ValueError, match="interactions: expected groups, found None"):
        package_split(from_events("x", "0", Events(np.array([1]), np.array([1]))))


def test_whole_packages_are_held_out(small_library):
    record = library_calls(cache=False)
    for part in package_split(record):
        for group in range(len(record.group_names)):
            assert len(set(part[record.groups == group].tolist())) == 1


@pytest.mark.slow
def test_the_installed_source(tmp_path, monkeypatch):
    # Where the caller names a folder, what is mined stays there for the next run.
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(tmp_path)))
    record = library_calls()
    assert record.n_users > 4_000 and record.n_items > 1_000
    counts = np.bincount(record.users)
    assert counts.min() >= mining.MIN_CALLS
    assert not np.any((np.diff(record.items) == 0) & (np.diff(record.users) == 0))
    assert not any("experiments" in name or "jax_" in name for name in record.group_names)
    same(library_calls(), record)
    validation, test = package_split(record)
    share = np.array([counts[part].sum() for part in (validation, test)]) / counts.sum()
    assert np.all((share > 0.05) & (share <= 0.1))
    train_items = np.unique(record.items[~(validation | test)[record.users]])
    test_items = np.unique(record.items[test[record.users]])
    assert 0 < np.isin(test_items, train_items).mean() < 1  # new packages bring fresh items


def test_read_does_not_take_source_folders_for_data(small_library):
    with pytest.raises(InputError, match="expected MovieLens"):
        read(small_library)
