"""MovieLens (three generations of its format) and MovieTweetings."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.data.files import SourceFiles, decode_utf8, git_blob_id, read_bytes
from experiments.data.interactions import Events
from experiments.data.log_table import read_log_table
from experiments.data.table import Kind, csv_rows, is_whole, read_columns
from experiments.harness.errors import bad_input, shown

ML_1M_RATINGS_BLOB = "77a7c4b150f588c23bb9e1f068aa996c0b413695"
_ML_1M_ROWS = 1_000_209
_IMDB_ITEM = re.compile(rb"^\d+::\d{7,8}::", re.MULTILINE)


def read_ratings_dat(files: SourceFiles, ratings: Path) -> Events:
    """Read `user::item::rating::timestamp` lines of MovieLens or of MovieTweetings.

    MovieTweetings names films by zero-padded IMDb ids, which stay strings; its films are UTF-8.
    """
    data = files.read(ratings)
    is_imdb = _IMDB_ITEM.search(data[: 1 << 16]) is not None
    columns: dict[str, Kind] = {
        "user": "int",
        "item": "digits" if is_imdb else "int",
        "rating": "number",
        "timestamp": "whole_seconds",
    }
    table = read_columns(data, ratings, separator=b"::", columns=columns)
    movies = files.find("movies.dat")
    return Events(
        users=table["user"],
        items=table["item"],
        timestamps=table["timestamp"],
        weights=table["rating"],
        texts=None if movies is None else _movies_dat(files.read(movies), movies, is_imdb),
        notes=() if is_imdb else _ratings_notes(files, data, len(table["user"])),
    )


def read_u_data(files: SourceFiles, ratings: Path) -> Events:
    """Read MovieLens 100K: `user item rating timestamp`, tab separated, with u.item."""
    columns: dict[str, Kind] = {"user": "int", "item": "int", "rating": "number"}
    columns |= {"timestamp": "whole_seconds"}
    table = read_columns(files.read(ratings), ratings, separator=b"\t", columns=columns)
    movies, genres = files.find("u.item"), files.find("u.genre")
    texts = None
    if movies is not None:
        names = [] if genres is None else _genre_names(files.read(genres))
        texts = _u_item(files.read(movies), movies, names)
    return Events(
        users=table["user"],
        items=table["item"],
        timestamps=table["timestamp"],
        weights=table["rating"],
        texts=texts,
    )


def read_ratings_csv(
    files: SourceFiles, ratings: Path, *, columns: Mapping[str, str] | None = None
) -> Events:
    """Read the newer MovieLens: userId, movieId, rating, timestamp, with movies.csv, UTF-8.

    The columns may have other usual names, and any order: see `log_table`.
    """
    table, notes, _ = read_log_table(files.read(ratings), ratings, given=columns, rating=True)
    movies = files.find("movies.csv")
    return Events(
        users=table["user"],
        items=table["item"],
        timestamps=table["time"],
        weights=table.get("weight"),
        texts=None if movies is None else _movies_csv(files.read(movies), movies),
        notes=notes,
    )


def _title_and_genres(title: str, genres: str) -> str:
    return f"{title} {genres.replace('|', ' ')}".strip()


def _movies_dat(data: bytes, path: Path, is_imdb: bool) -> dict[int | str, str]:
    """Read `id::title::genres`: UTF-8 for MovieTweetings, older MovieLens sets are latin-1."""
    if is_imdb:
        text = decode_utf8(data, path)
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    texts: dict[int | str, str] = {}
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        movie, _, rest = line.rstrip("\r").partition("::")
        title, separator, genres = rest.rpartition("::")
        if not separator or not is_whole(movie):
            raise bad_input(path, line=number, expected="id::title::genres", found=shown(line))
        texts[movie if is_imdb else int(movie)] = _title_and_genres(title, genres)
    return texts


def _genre_names(data: bytes) -> list[str]:
    """Read `genre|number` lines, already in the order of the flags."""
    return [line.partition("|")[0] for line in data.decode("latin-1").split("\n") if line.strip()]


def _u_item(data: bytes, path: Path, genre_names: list[str]) -> dict[int | str, str]:
    """Read `id|title|date|video date|url|flag|flag...`; flags name genres when u.genre is there."""
    texts: dict[int | str, str] = {}
    for number, line in enumerate(data.decode("latin-1").rstrip("\n").split("\n"), 1):
        movie, *fields = line.rstrip("\r").split("|")
        if not is_whole(movie) or len(fields) < 4:
            raise bad_input(path, line=number, expected="id|title|...|flags", found=shown(line))
        genres = [name for name, flag in zip(genre_names, fields[4:]) if flag == "1"]
        texts[int(movie)] = _title_and_genres(fields[0], "|".join(genres))
    return texts


def _movies_csv(data: bytes, path: Path) -> dict[int | str, str]:
    rows = csv_rows(data, path)
    if rows[0] != ["movieId", "title", "genres"]:
        raise bad_input(
            path, line=1, expected="movieId,title,genres", found=shown(",".join(rows[0]))
        )
    texts: dict[int | str, str] = {}
    for movie, title, genres in rows[1:]:
        if not is_whole(movie):
            raise bad_input(path, expected="whole numbers as movieId", found=shown(movie))
        texts[int(movie)] = _title_and_genres(title, genres.replace("(no genres listed)", ""))
    return texts


def _ratings_notes(files: SourceFiles, data: bytes, n_rows: int) -> tuple[str, ...]:
    """Say so where a ratings.dat of MovieLens-1M is not the publisher's."""
    if n_rows != _ML_1M_ROWS and not _is_reassembled(files):
        return ()
    if git_blob_id(data) == ML_1M_RATINGS_BLOB:
        return ()
    if not _is_reassembled(files):
        return (
            f"ratings.dat is not the publisher's (its git blob id is not {ML_1M_RATINGS_BLOB})",
        )
    return (
        "ratings.dat is reassembled, not the publisher's file: order within a user is right, "
        f"order among equal times is arbitrary, {_interpolated(files)} are interpolated",
    )


def _is_reassembled(files: SourceFiles) -> bool:
    source = files.find("SOURCE.md")
    says_so = source is not None and b"reassembled" in read_bytes(source).lower()
    return says_so or files.find("timestamp_status.txt") is not None


def _interpolated(files: SourceFiles) -> str:
    """Return the share of timestamps marked I (one letter a row) in timestamp_status.txt."""
    status = files.find("timestamp_status.txt")
    if status is None:
        return "some timestamps"
    letters = np.frombuffer(read_bytes(status), np.uint8)
    letters = letters[(letters >= 65) & (letters <= 90)]
    return f"{np.mean(letters == ord('I')):.0%} of the timestamps"
