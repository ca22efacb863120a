import json

from nxtpost_jax.evaluation.protocol import Protocol


def test_a_protocol_says_all_of_itself_in_one_line():
    protocol = Protocol("films", "9ab8e3e", seen_filter=False, notes="two\nlines")
    line = protocol.describe()
    assert "\n" not in line
    for name, value in protocol.asdict().items():
        if name not in ("seen_filter", "debias_power"):
            assert " ".join(str(value).split()) in line
    assert "seen items kept" in line
    assert "seen items left out" in Protocol("films", "9ab8e3e").describe()


def test_the_power_of_debiasing_is_named():
    assert "debias" not in Protocol("films", "9ab8e3e").describe()
    assert "popularity^-0.5" in Protocol("films", "9ab8e3e", debias_power=0.5).describe()


def test_a_protocol_survives_json():
    protocol = Protocol("films", "9ab8e3e")
    assert Protocol(**json.loads(json.dumps(protocol.asdict()))) == protocol
