import numpy as np
import pytest

from nxtpost_jax.events.sequences import PAD
from nxtpost_jax.serving.answer import Answer
from nxtpost_jax.towers.model import NxtPostConfig
from tests.nxtpost.small_recommender import drawn

SIX = 6


@pytest.fixture(scope="module")
def recommender():
    return drawn(
        NxtPostConfig(d_model=8, num_layers=1, max_len=8, id_embedding=True), None, num_items=SIX
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda r, histories: r.recommend(histories, 3),
        lambda r, histories: r.search(r.embed_users(histories), 3, exclude=histories),
        lambda r, histories: r.similar([history[0] for history in histories], 3),
    ],
)
@pytest.mark.parametrize("histories", [[[1]], [[1], [2]]])
def test_an_answer_unpacks_as_two_whatever_the_number_of_users(recommender, ask, histories):
    answer = ask(recommender, histories)
    ids, scores = answer
    assert ids is answer.ids and scores is answer.scores
    assert ids.shape == scores.shape == (len(histories), 3)
    assert ids.dtype == np.int32 and scores.dtype == np.float32
    for row in range(len(histories)):
        assert answer.pairs(row) == list(zip(ids[row].tolist(), scores[row].tolist()))
    assert repr(answer) == f"Answer({len(histories)} queries, 3 items per query)"


def test_pairs_are_real_items_only(recommender):
    """Of six items a user saw five: numpy would name the last one for each place of padding."""
    answer = recommender.recommend([[0, 1, 2, 3, 4], [0, 1]], 3)
    assert answer.ids[0].tolist() == [5, PAD, PAD]
    ((item, score),) = answer.pairs(0)
    assert (item, score) == (5, answer.scores[0, 0]) and type(item) is int
    assert len(answer.pairs(1)) == 3
    everything = recommender.recommend([list(range(SIX))], 2)
    assert everything.pairs(0) == []
    for row in (2, -1):
        with pytest.raises(ValueError, match=f"row: expected 0 to 1, found {row}"):
            answer.pairs(row)


def test_a_live_user_has_one_row(recommender):
    for item in (0, 1, 2, 3, 4):
        recommender.update("a", item)
    answer = recommender.recommend_user("a", 3)
    assert isinstance(answer, Answer) and answer.ids.shape == (1, 3)
    assert [item for item, _ in answer.pairs(0)] == [5]
