"""The packages' docstrings as reStructuredText, before napoleon reads their sections.

They are Google style with Markdown's `code`, plain asterisks and bars, hanging indents within an
argument, and small tables in the prose: each of these means something else to Sphinx.
"""

import inspect
import re

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples|References):$")
_ITEM = re.compile(r"([\w, ]+): (.*)")


def convert(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrite a docstring in place; connected to `autodoc-process-docstring`."""
    prose, sections = _split(lines)
    converted = _escape(_literal_runs(prose))
    for header, body in sections:
        body = body if header.startswith("Example") else _escape(_section(header, body))
        converted += ["", header, *body]
    lines[:] = converted + _fields(what, obj)


def skip(app, what, name, obj, skipped, options):
    """Leave out a NamedTuple's fields, which `_fields` shows; None lets Sphinx decide."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _split(lines: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    prose, sections = [], []
    for line in lines:
        if _SECTION.match(line):
            sections.append((line, []))
        elif sections and (line.startswith(" ") or not line):
            sections[-1][1].append(line)
        elif sections:  # prose that follows a section
            sections.append((line, []))
        else:
            prose.append(line)
    return prose, sections


def _literal_runs(prose: list[str]) -> list[str]:
    """Show what is indented in the prose as it stands."""
    shown, inside = [], False
    for line in prose:
        if line.startswith(" ") and not inside:
            shown += ["", "::", ""]
        if line and not line.startswith(" ") and inside:
            shown.append("")  # the literal block ends
        inside = line.startswith(" ") or (inside and not line)
        shown.append(line)
    return shown


def _section(header: str, body: list[str]) -> list[str]:
    """Level the hanging indents; name by name where several values are returned."""
    filled = [line for line in body if line]
    if not filled:
        return body
    indent = len(filled[0]) - len(filled[0].lstrip())
    first = [line for line in filled if line[indent] != " "]
    items = [line for line in first if _ITEM.match(line.strip())]
    listed = header in ("Returns:", "Yields:") and len(items) > 1 and len(items) == len(first)
    levelled = [" " * indent + "by name", ""] if listed else []
    for line in body:
        text, hanging = line.strip(), line[indent : indent + 1] == " "
        if listed and text and not hanging:
            text = re.sub(_ITEM, r"* \1: \2", text)
        levelled.append(" " * (indent + 2 * hanging) + text if text else "")
    return levelled


def _escape(lines: list[str]) -> list[str]:
    """Escape what is no code; leave literal blocks, which `::` begins, alone."""
    blocks, literal = [[]], False
    for line in lines:
        starts = line == "::"
        if starts or (literal and line and not line.startswith(" ")):
            literal = starts
            blocks.append([])
        blocks[-1].append(line)
    return [line for block in blocks for line in _escaped(block)]


def _escaped(block: list[str]) -> list[str]:
    if block[:1] == ["::"]:
        return block
    parts = "\n".join(block).split("`")
    if len(parts) % 2 == 0:  # a quotation mark, no pair of them
        return block
    for number in range(0, len(parts), 2):
        bullets = re.sub(r"^( *)\* ", r"\1- ", parts[number], flags=re.MULTILINE)
        part = re.sub(r"([*|])", r"\\\1", bullets)
        part = re.sub(r"(\w)_(?!\w)", r"\1\\_", part)
        part = re.sub(r"(: \w)\.$", r"\1\\.", part, flags=re.MULTILINE)  # no enumeration
        if number and part[:1].isalnum():  # the plural of code
            part = "\\ " + part
        parts[number] = part
    return "`".join(parts).split("\n")


def _fields(what: str, obj) -> list[str]:
    """Show a NamedTuple's fields with the comments that stand beside them in the source."""
    if what != "class" or not hasattr(obj, "_fields"):
        return []
    source = inspect.getsource(obj)
    found = re.findall(r"^    (\w+):.*?  # (.+)$", source, re.MULTILINE)
    return (
        _escape(["", "Attributes:"] + [f"  {name}: {text}" for name, text in found])
        if found
        else []
    )
