"""The download accepts the published file only, and leaves nothing behind otherwise."""

import dataclasses
import http.server
import io
import random
import threading
import zipfile

import pytest

from experiments.data.download import ARCHIVES, Archive, download
from experiments.data.files import git_blob_id
from experiments.harness.errors import InputError

RATINGS = b"1::2::3::4\n" * 50_000


def zipped(*, compression=zipfile.ZIP_DEFLATED, **members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("set/../../escaped", b"out of the folder")
        for name, data in members.items():
            archive.writestr(f"set/{name.replace('_', '.')}", data)
    return stream.getvalue()


def damaged(compression):
    """An archive of random ratings with a stretch of zeros in their bytes."""
    data = bytes(random.Random(0).randbytes(100_000))
    packed = zipped(compression=compression, ratings_dat=data, README=b"terms")
    return packed[:2000] + b"\0" * 4000 + packed[6000:]


GOOD = zipped(ratings_dat=RATINGS, README=b"terms", extra_bin=b"not wanted")


# The end record puts the directory far behind the file, so that members lie before its start.
NEGATIVE = GOOD[:-6] + (len(GOOD) * 4).to_bytes(4, "little") + GOOD[-2:]


class _Handler(http.server.BaseHTTPRequestHandler):
    pages: dict[str, tuple[int, bytes, int]]  # path -> status, body, announced length
    requests: list[str]

    def do_GET(self):
        self.requests.append(self.path)
        status, body, length = self.pages[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        del args


@pytest.fixture
def server():
    class Handler(_Handler):
        requests = []  # noqa: RUF012
        pages = {  # noqa: RUF012
            "/good.zip": (200, GOOD, len(GOOD)),
            "/cut.zip": (200, GOOD[:-200], len(GOOD)),
            "/short.zip": (200, GOOD[:-200], len(GOOD) - 200),
            "/damaged.zip": (200, GOOD[:300] + b"\0" * 40 + GOOD[340:], len(GOOD)),
            "/missing.zip": (404, b"", 0),
            "/page.zip": (200, b"<html>moved</html>", 18),
            "/bz2.zip": (200, damaged(zipfile.ZIP_BZIP2), len(damaged(zipfile.ZIP_BZIP2))),
            "/lzma.zip": (200, damaged(zipfile.ZIP_LZMA), len(damaged(zipfile.ZIP_LZMA))),
            "/negative.zip": (200, NEGATIVE, len(NEGATIVE)),
            "/without.zip": (200, (other := zipped(README=b"terms")), len(other)),
        }

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.requested = Handler.requests
        yield running
        running.shutdown()


def archive_at(server, page, **changes):
    archive = Archive(
        url=f"http://127.0.0.1:{server.server_port}/{page}",
        members=("README", "ratings.dat"),
        root="set",
        checked="ratings.dat",
        blob=git_blob_id(RATINGS),
    )
    return dataclasses.replace(archive, **changes)


def test_good_archive_is_unpacked_once(tmp_path, server):
    archive = archive_at(server, "good.zip")
    seen = []
    folder = download(
        "set",
        tmp_path / "new" / "set",
        archive=archive,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert sorted(path.name for path in folder.iterdir()) == ["README", "ratings.dat"]
    assert (folder / "ratings.dat").read_bytes() == RATINGS
    assert seen[-1] == (len(GOOD), len(GOOD))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set"]
    download("set", folder, archive=archive)  # already complete: nothing is fetched
    assert server.requested == ["/good.zip"]


@pytest.mark.parametrize(
    ("page", "changes", "message"),
    [
        ("good.zip", {"blob": "0" * 40}, r"ratings\.dat: expected the published file \(git blob 0"),
        ("cut.zip", {}, r"expected [\d,]+ bytes, found [\d,]+: the download was cut"),
        ("short.zip", {}, r"expected a whole zip archive"),
        ("damaged.zip", {}, r"expected a whole zip archive"),
        ("bz2.zip", {}, r"expected a whole zip archive"),
        ("lzma.zip", {}, r"expected a whole zip archive"),
        ("negative.zip", {}, r"expected a whole zip archive"),
        ("missing.zip", {}, r"expected an archive, found HTTP status 404"),
        ("page.zip", {}, r"expected a whole zip archive"),
        ("without.zip", {}, r"expected set/ratings\.dat in the archive, found no such file"),
        ("good.zip", {"url": "http://127.0.0.1:1/x"}, r"expected an archive, found no connection"),
        ("good.zip", {"url": "no url"}, r"no url: expected an archive, found"),
    ],
)
def test_anything_else_leaves_nothing_behind(tmp_path, server, page, changes, message):
    with pytest.raises(InputError, match=message):
        download("set", tmp_path / "new" / "set", archive=archive_at(server, page, **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_kept(tmp_path, server):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "ratings.dat").write_bytes(b"mine")
    with pytest.raises(InputError, match="expected no such folder yet"):
        download("set", tmp_path / "set", archive=archive_at(server, "good.zip"))
    assert (tmp_path / "set" / "ratings.dat").read_bytes() == b"mine"
    assert server.requested == []


def test_a_place_that_cannot_be_written(tmp_path, server):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="expected a writable place"):
        download("set", tmp_path / "file" / "set", archive=archive_at(server, "good.zip"))


def test_the_publishers_archive_is_named():
    with pytest.raises(InputError, match="expected one of ml-1m, found 'ml-2m'"):
        download("ml-2m", "anywhere")
    archive = ARCHIVES["ml-1m"]
    assert archive.url == "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
    assert archive.blob == "77a7c4b150f588c23bb9e1f068aa996c0b413695"
