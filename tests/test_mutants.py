"""Mutants are single changes of what computes, and a test that notices kills one."""

import ast

from tests.mutants import CORES, ROOT, drawn, mutants_of, records_of, show, try_mutants

SOURCE = '''"""1 + 1 of a docstring."""
def clamp(x: int = 3, most: "Literal[7]" = 9) -> float:
    """Return 2 * x."""
    if x > most and not x == 0:
        raise ValueError(f"x: expected at most {most + 1}, found {x}")
    total = min(x, most)
    total += 1
    print(total)
    return -total if x < 5 else jnp.where(x, 1.5, True)
'''


def test_every_kind_of_change_is_found_and_parses():
    found = mutants_of("clamp.py", SOURCE)
    changes = {(m.old, m.new) for m in found}
    assert {
        ("3", "4"),
        ("x > most", "(x >= most)"),
        ("x > most and not x == 0", "(x > most or not x == 0)"),
        ("not x == 0", "(x == 0)"),
        ("min(x, most)", "(max(x, most))"),
        ("total += 1", "total -= 1"),
        ("print(total)", "pass"),
        ("-total", "(total)"),
        ("1.5", "3.0"),
        ("True", "False"),
        ("jnp.where(x, 1.5, True)", "(jnp.where(x, True, 1.5))"),
    } <= changes
    assert not any("expected" in m.old or m.line in (1, 3, 5) for m in found)
    for mutant in found:
        assert ast.dump(ast.parse(mutant.applied(SOURCE))) != ast.dump(ast.parse(SOURCE))


def test_cores_and_their_tests_are_there():
    for file, tests in CORES.items():
        assert (ROOT / file).is_file() and tests
        for test in tests:
            assert (ROOT / test).exists(), test
    assert drawn(20, seed=1, root=ROOT) == drawn(30, seed=1, root=ROOT)[:20]


def test_a_mutant_that_a_test_notices_is_killed(tmp_path, monkeypatch, capsys):
    (tmp_path / "sums.py").write_text(
        "def more(x):\n    return x + 1\n\n\ndef same(x):\n    return 0 * x\n"
    )
    (tmp_path / "test_sums.py").write_text(
        "from sums import more, same\n\ndef test_it():\n    assert more(1) == 2 and same(0) == 0\n"
    )
    monkeypatch.setitem(CORES, "sums.py", ["test_sums.py"])
    mutants = mutants_of("sums.py", (tmp_path / "sums.py").read_text())
    out = tmp_path / "out.jsonl"
    try_mutants(out, mutants[:2], root=tmp_path)
    try_mutants(out, mutants, root=tmp_path)  # goes on
    killed = {record["mutant"]: record["killed"] for record in records_of(out)}
    assert len(killed) == len(mutants) == len(records_of(out))
    assert killed["sums.py:2: x + 1 -> (x - 1)"]
    assert not killed["sums.py:6: 0 -> 1"]  # 1 * 0 is 0, too
    assert (tmp_path / "sums.py").read_text().startswith("def more(x):\n    return x + 1\n")
    show(out)
    assert "sums.py:6: 0 -> 1" in capsys.readouterr().out
