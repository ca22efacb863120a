"""Which column of a log is the user, which the item: recognised by the names that people use.

A name is compared without case, blanks and signs, and without the type that RecBole writes behind
a colon: `user_id:token`, `userId` and `USER ID` are one. What is unclear is never guessed: two
columns that look like one role are refused until the caller picks one.

A rating is no weight: how much somebody liked an item does not say how much the event counts. So
only a column that is called a weight is one, or one that the caller names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Role = Literal["user", "item", "time", "action", "weight"]

# The first group of which a table has a name decides: `movie_id` is the item beside `movie`.
_THINGS = (
    "movie product article book track song artist video news business game app post content "
    "listing recipe"
)
_USUAL: dict[Role, tuple[str, ...]] = {
    "user": (
        "user userid uid visitor visitorid customer customerid reviewer reviewerid member memberid "
        "account accountid client clientid household householdid",
        "session sessionid",
    ),
    "item": (
        "item itemid iid asin parentasin isbn sku stockcode aid "
        + " ".join(f"{thing}id" for thing in _THINGS.split()),
        _THINGS,
    ),
    "time": (
        "timestamp time datetime ts unixreviewtime unixtime eventtime",
        "date eventdate createdat invoicedate tdat lastwatchdt reviewtime",
    ),
    "action": ("action event actiontype eventtype behavior behaviour behaviortype", "type"),
    "weight": ("weight eventweight sampleweight",),
}
# Parts of names by which a column that nobody listed may be meant.
_ALIKE: dict[Role, str] = {
    "user": "user visitor customer reviewer member account client household session person",
    "item": "item asin isbn sku " + _THINGS,
    "time": "time date stamp",
    "action": "action event behavi type",
    "weight": "weight rating score count quantity",
}
_EXAMPLES: dict[Role, str] = {
    "user": "user_id",
    "item": "item_id",
    "time": "timestamp",
    "action": "event",
    "weight": "weight",
}


class ColumnError(ValueError):
    """Say that columns are not clear, in the two parts of one sentence.

    Attributes:
      expected, found: what was.
    """

    def __init__(self, *, expected: str, found: str):
        self.expected, self.found = expected, found
        super().__init__(f"columns: expected {expected}, found {found}")


def in_python(role: str, name: str) -> str:
    """Write the argument that names a role's column."""
    return f"columns={{{role!r}: {name!r}}}"


def recognise(
    names: Sequence[str],
    given: Mapping[str, str] | None = None,
    *,
    required: tuple[Role, ...] = ("user", "item"),
    optional: tuple[Role, ...] = ("time", "action"),
    written: Callable[[str, str], str] = in_python,
) -> dict[Role, str]:
    """Tell which column has which role.

    Args:
      names: of the table's columns.
      given: columns that the caller named, {role: name}; they are not recognised again.
      required: roles that must be there.
      optional: roles that may be; further ones are refused in `given`.
      written: how the caller names a column, for what errors advise.

    Returns:
      {role: name} of the roles that are there.

    Raises:
      ColumnError: a required role has no column, two look like one role, or `given` names a role
        or a column that does not exist, or one for two roles.
    """
    given = dict(given or {})
    _check_given(names, given, (*required, *optional))
    found: dict[Role, str] = {}
    for role in (*required, *optional):
        if role in given:
            found[role] = given[role]
            continue
        alike = _usual(role, [name for name in names if name not in given.values()])
        if len(alike) > 1:
            quoted = " and ".join(map(repr, alike))
            advice = written(role, alike[0])
            raise ColumnError(
                expected=f"one column for the {role}", found=f"{quoted} ({advice} picks one)"
            )
        if alike:
            found[role] = alike[0]
        elif role in required:
            raise _missing(role, names, written)
    return found


def item_id(names: Sequence[str], *, told: str | None = None, usual: str | None = None) -> str:
    """Tell which column of a table of items has their ids; one called `id` may.

    Args:
      names: of the table's columns.
      told: the column by the caller's word.
      usual: its name elsewhere, such as in the log; it counts where it is there.

    Raises:
      ColumnError: there is none, or several look like it.
    """
    if told is None and usual is not None and usual in names:
        return usual
    if told is None:
        sure = set(_USUAL["item"][0].split())
        called = [name for name in names if _bare(name) == "id"]
        if len(called) == 1 and not any(_bare(name) in sure for name in names):
            return called[0]  # before `content` or `artist`, which are more than ids here
    given = {} if told is None else {"item": told}
    return recognise(names, given, required=("item",), optional=(), written=_in_parts)["item"]


def unread_rating(names: Sequence[str], roles: Mapping[Role, str]) -> str | None:
    """Name a column that would be a weight if the caller said so."""
    left = [name for name in names if name not in roles.values()]
    return next((name for name in left if _bare(name) in ("rating", "weight", "stars")), None)


def _in_parts(role: str, name: str) -> str:
    del role
    return f"parts={{{name!r}: 'id'}}"


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", str(name).partition(":")[0].lower())


def _usual(role: Role, names: Sequence[str]) -> list[str]:
    for group in _USUAL[role]:
        known = set(group.split())
        if alike := [name for name in names if _bare(name) in known]:
            return alike
    return []


def _check_given(names: Sequence[str], given: dict[str, str], roles: tuple[Role, ...]) -> None:
    for role, name in given.items():
        if role not in roles:
            raise ColumnError(expected=" or ".join(roles), found=repr(role))
        if name not in names:
            there = ", ".join(map(str, names))
            raise ColumnError(expected=f"the {role} among {there}", found=repr(name))
        twice = [other for other in given if given[other] == name]
        if len(twice) > 1:
            found = f"{name!r} as {' and '.join(twice)}"
            raise ColumnError(expected="a column per role", found=found)
        if list(names).count(name) > 1:
            raise ColumnError(expected=f"one column {name!r}", found="several")


def _missing(role: Role, names: Sequence[str], written: Callable[[str, str], str]) -> ColumnError:
    """Say which columns look like the role, else what each of them looks like."""
    expected = f"a column for the {role} such as {_EXAMPLES[role]}"
    alike = [name for name in names if any(part in _bare(name) for part in _ALIKE[role].split())]
    alike = [name for name in alike if not any(_usual(other, [name]) for other in _USUAL)]
    if alike:
        return ColumnError(
            expected=expected,
            found=f"{alike[0]!r}, which looks like the {role} ({written(role, alike[0])})",
        )
    told = [f"{name}{_looks(name)}" for name in names]
    return ColumnError(
        expected=expected, found=f"{', '.join(told) or 'none'} ({written(role, 'NAME')} names one)"
    )


def _looks(name: str) -> str:
    role = next((role for role in _USUAL if _usual(role, [name])), None)
    return f" like the {role}" if role else ""
