"""Several threads that update one retriever lose nothing."""

import threading

import numpy as np

from hsnn_jax import LTIConfig, Retriever
from hsnn_jax.monn.scorers import dot
from tests.hsnn.planted import clusters

WRITERS, EACH = 4, 5


def run_together(jobs):
    barrier, errors = threading.Barrier(len(jobs)), []

    def run(job):
        barrier.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_two_writers_at_once_lose_no_update():
    items, _ = clusters(0, items=80, width=8, num_clusters=4, noise=0.5)
    retriever = Retriever(LTIConfig(num_nodes=4, kmeans_iterations=3))
    retriever.build_index(items, reserve=40)
    retriever.add(items[:1], [999])  # compiled before the race
    retriever.remove([999])

    def writer(number):
        for step in range(EACH):
            at = EACH * number + step
            retriever.add(items[at : at + 1], [1000 + at])
            retriever.remove([at])

    run_together([lambda number=number: writer(number) for number in range(WRITERS)])
    changed = WRITERS * EACH
    held = retriever.ids[retriever.ids >= 0]
    expected = np.r_[np.arange(changed, 80), 1000 + np.arange(changed)]
    np.testing.assert_array_equal(np.sort(held), expected)
    found = retriever.search(items[:changed], 80, budget=80).ids
    np.testing.assert_array_equal(np.sort(found[0]), expected)


def test_a_search_is_by_the_parameters_and_the_index_of_one_moment(monkeypatch):
    """A fit ends in the middle of it: what was asked by old parameters is found by them."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(40, 4)).astype(np.float32)
    users = rng.normal(size=(3, 4)).astype(np.float32)

    def scaled(scale, user, rows):
        return scale * dot(None, user, rows)

    retriever, fitted = (
        Retriever(LTIConfig(num_nodes=4), scorer=scaled, params=np.float32(scale))
        for scale in (1, 5)
    )
    retriever.build_index(items)
    fitted.build_index(items[::-1])
    expected = retriever.search(users, 5, budget=40)
    asked = Retriever._asked

    def fit_ends(self, *args, **options):
        vars(retriever).update(vars(fitted))
        return asked(self, *args, **options)

    monkeypatch.setattr(Retriever, "_asked", fit_ends)
    found = retriever.search(users, 5, budget=40)
    assert retriever.params == 5
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
