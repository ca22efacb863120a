"""Cold users: cut histories, backfill and static features reach the figures they stand for."""

import json

import numpy as np
import pytest

from experiments import cold_users
from experiments.data.user_features import read_user_features
from experiments.harness.errors import InputError

RATINGS = "\n".join(
    f"{u}::{1 + (u + t) % 12}::5::{100 * u + t}" for u in range(1, 41) for t in range(7)
)


@pytest.fixture
def folder(tmp_path):
    """MovieLens-1M in small: users walk the films in a circle."""
    data = tmp_path / "ml-small"
    data.mkdir()
    (data / "ratings.dat").write_text(RATINGS + "\n")
    movies = [f"{i}::Film {'AB'[i % 2]}{i} (1990)::Drama" for i in range(1, 13)]
    (data / "movies.dat").write_text("\n".join(movies) + "\n")
    users = [f"{u}::{'MF'[u % 2]}::{18 + u}::{u % 3}::12345" for u in range(1, 40)]
    (data / "users.dat").write_text("\n".join(users) + "\n")
    return data


def test_static_features_are_categories_and_missing_users_unknown(folder):
    features = read_user_features(folder, np.arange(1, 41))
    assert features.sizes == (2, 5, 3)
    assert (features.values[-1] == -1).all()  # user 40 is not listed
    np.testing.assert_array_equal(features.values[:4, 2], [1, 2, 0, 1])
    assert features.values[:39].min() == 0
    assert read_user_features(folder.parent, np.arange(3)) is None


def test_a_broken_line_is_named(folder):
    (folder / "users.dat").write_text("1::M::56\n")
    with pytest.raises(InputError, match=r"users.dat, line 1: expected id::...::zip"):
        read_user_features(folder, np.arange(3))


@pytest.mark.long
def test_command_reports_a_curve_for_every_way(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    arguments = ["--data", str(folder), "--preset", "smoke", "--devices", "1", "--out", str(out)]
    arguments += ["--optimizer", "adamw"]
    cold_users.main([*arguments, "--fill-to", "3", "--lengths", "0", "--seeds", "2"])
    summary = json.loads((out / "summary.json").read_text())
    ways = {key.split("/")[0] for key in summary["metrics"]}
    assert ways == {"none", "popular", "similar", "static"}
    assert {tuple(key.split("/")[1:3]) for key in summary["metrics"]} == {("0", "0"), ("1", "0")}
    assert summary["seeds"] == [0, 1]
    assert summary["metrics"]["none/0/0/mrr"] != summary["metrics"]["none/1/0/mrr"]
    # Without events every user gets the same list, unless something is filled in or known.
    assert summary["baselines"]["popularity/0/ndcg@10"] > 0
    compared = {key.split("/")[0] for key in summary["baselines"]}
    assert compared == {"popularity", "popularity_7d", "markov", "item_knn", "content_knn"}
    assert (out / "report.png").exists()
