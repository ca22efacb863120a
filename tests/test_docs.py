"""The pages of docs/: code runs, links lead somewhere, every kept result has its command."""

import doctest
import importlib
import json
import pathlib
import re

import pytest

from experiments.__main__ import all_studies, duration
from tests.pages import BLOCK, ROOT, broken_links, check_commands, commands_in, run_blocks

DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
PACKAGES = ("shampoo_jax", "nxtpost_jax", "hsnn_jax")
KEPT = sorted(path for path in RESULTS.iterdir() if path.suffix in (".json", ".png"))
REPORTS = {path.with_suffix(".md") for path in KEPT}  # written by runs, not by hand
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if page not in REPORTS and not {"_build", "generated", "jupyter_execute"} & set(page.parts)
)


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def with_code():
    return [page for page in PAGES if BLOCK.search(page.read_text(encoding="utf-8"))]


def with_doctests():
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in sources if ">>> " in path.read_text(encoding="utf-8"))


# The longest pages, whose calls other tests make too, are left to `make test-long`.
LONG = {
    "docs/tour.md",  # `make docs` runs it
    "docs/hsnn.md",
    *(f"docs/hsnn/{name}.md" for name in ("budgets-and-recall", "from-faiss", "how-it-works")),
    *(f"docs/hsnn/{name}.md" for name in ("a-living-index", "filters", "levels")),
    "docs/hsnn/your-own-model.md",
    "docs/nxtpost.md",
    *(f"docs/nxtpost/{name}.md" for name in ("coming-from", "evaluate", "from-a-table")),
    *(f"docs/nxtpost/{name}.md" for name in ("serve", "train-on")),
    "docs/shampoo/choosing-settings.md",
    *(f"docs/shampoo/{name}.md" for name in ("checkpoints", "soap-and-kl", "troubleshooting")),
}


def marked(page):
    """Mark a page for one of the two test runs."""
    long = name_of(page) in LONG
    return pytest.param(page, id=name_of(page), marks=[pytest.mark.long] if long else [])


def test_every_package_has_a_page_with_code():
    assert {DOCS / "tour.md", *(DOCS / f"{p.removesuffix('_jax')}.md" for p in PACKAGES)} <= set(
        with_code()
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", list(map(marked, with_code())))
def test_code_blocks_run_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_blocks(name_of(page), BLOCK.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("source", with_doctests(), ids=name_of)
def test_doctests(source):
    module = importlib.import_module(".".join(source.relative_to(ROOT).with_suffix("").parts))
    failed, tried = doctest.testmod(module)
    assert tried and not failed


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    assert not broken_links(page)


def test_every_kept_file_has_its_command():
    mapped = (RESULTS / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[([\w-]+)\]\(notes/.*?\| `python -m (.*)` \|$", mapped, re.M))
    assert set(rows) == {path.stem for path in KEPT}
    for path in {*KEPT, *REPORTS}:
        assert f"]({path.name})" in mapped, path.name
    for name, command in rows.items():
        record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        assert f"experiments.{record['experiment']} " in command
        assert f"--keep {name}" in command


def test_commands_of_kept_results_know_their_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = commands_in((RESULTS / "README.md").read_text(encoding="utf-8"))
    assert len(commands) >= len(REPORTS)
    check_commands(commands, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


def test_the_page_of_commands_lists_what_python_m_experiments_lists():
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `python -m experiments\.(.*?)` \| (.*?) \| (.*?) \|", page, re.M)
    assert sorted(rows) == sorted((s.name, s.about, duration(s.minutes)) for s in all_studies())


def test_commands_of_the_page_print_help_and_train_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check_commands(commands_in((DOCS / "commands.md").read_text()), monkeypatch, capsys)
    assert not list(tmp_path.iterdir())
