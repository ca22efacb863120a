"""README: its examples run as they stand, its commands exist, and it stays one screen."""

import re

import pytest

from tests.pages import BLOCK, ROOT, broken_links, check_commands, commands_in, run_blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")
# A figure: a number that is no part of a name (HR@10, MovieLens-1M) nor of code.
FIGURE = re.compile(r"(?<![\w@.-])\.?\d[\d,.]*(?![\w-])")


def prose_sentences(page: str):
    """Cut a page's paragraphs and list items into sentences, without code, tables and links."""
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    page = re.sub(r"`[^`]*`|\]\([^)]*\)", "", page)
    for paragraph in re.split(r"\n\s*\n|\n(?=- )", page):
        if not paragraph.lstrip().startswith("|"):
            yield from re.split(r"(?<=[a-z)\]][.:?]) ", " ".join(paragraph.split()))


@pytest.mark.parametrize("number", range(3))
def test_an_example_runs_when_pasted_alone(number, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = BLOCK.findall(README)
    assert len(examples) == 3
    run_blocks("README.md", [examples[number]])
    assert capsys.readouterr().out


def test_examples_need_no_checkout():
    assert "import experiments" not in README and "from experiments" not in README


def test_it_is_one_screen():
    assert len(re.findall(r"^!\[", README, re.MULTILINE)) == 1
    evidence = README.partition("## Evidence")[2].partition("\n## ")[0]
    assert 1 <= len(re.findall(r"^\| \[", evidence, re.MULTILINE)) <= 8
    assert len(README.splitlines()) <= 125


def test_no_sentence_has_more_than_two_figures():
    sentences = list(prose_sentences(README))
    assert len(sentences) > 10
    for sentence in sentences:
        assert len(FIGURE.findall(sentence)) <= 2, sentence


def test_make_targets_and_linked_pages_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert not broken_links(ROOT / "README.md")


def test_commands_print_help_and_train_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = commands_in(README)
    assert len(commands) == 8
    check_commands(commands, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())
