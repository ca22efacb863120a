"""The run folder: what is written, what is refused, what is never overwritten."""

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from experiments.harness.devices import select_devices
from experiments.harness.errors import InputError, exit_on_input_error
from experiments.harness.options import OneSeed, WithData, parse
from experiments.harness.provenance import DataName, command_line, config_hash, first_difference
from experiments.harness.results import check_keep, keep_result, log_test_evaluation
from experiments.harness.run_folder import SUMMARY_KEYS, open_run, read_metrics

DATA = DataName(name="<ml-1m>", sha256="ab" * 32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(OneSeed, WithData):
    """A toy experiment."""

    epochs: int | None = None
    width: int = 8
    rates: tuple[float, ...] = (0.1,)


PRESETS = {"default": Toy(), "smoke": Toy(epochs=1, width=2)}


def opened(argv, **kwargs):
    options, arguments = parse("toy", PRESETS, argv)
    return open_run("toy", options, arguments=arguments, **kwargs)


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_preset_gives_defaults_and_flags_override_them():
    options, arguments = parse("toy", PRESETS, ["--preset", "smoke", "--rates", "1", "2"])
    assert options == Toy(preset="smoke", epochs=1, width=2, rates=(1.0, 2.0))
    assert arguments == ("--preset", "smoke", "--rates", "1", "2")


def test_help_prints_presets_and_leaves_with_0(capsys):
    with pytest.raises(SystemExit) as exit_:
        parse("toy", PRESETS, ["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert "default, smoke" in shown and "--width" in shown and "--resume" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "big"], "--preset: expected one of default, smoke, found big"),
        (["--out", "a", "--resume", "b"], "--out and --resume: expected one of them, found both"),
        (["--resume", "nowhere"], "--resume nowhere: expected a run folder, no nowhere/config"),
        (["--out", f"{__file__}/x"], "expected a writable folder, found .*test_run_folder.py"),
        (["--out", str(Path(__file__).parent)], "expected a new or empty folder"),
        (["--seed", "-1"], "--seed: expected at least 0, found -1"),
    ],
)
def test_bad_folders_and_presets_are_input_errors(argv, message):
    with pytest.raises(InputError, match=message):
        parse("toy", PRESETS, argv)


@pytest.mark.parametrize("argv", [["--epochs", "many"], ["--colour", "red"]])
def test_flags_that_do_not_parse_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse("toy", PRESETS, argv)
    assert exit_.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_input_error_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as exit_, exit_on_input_error():
        parse("toy", PRESETS, ["--resume", "nowhere"])
    assert exit_.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_more_devices_than_there_are():
    assert len(jax.devices()) == 8  # from here on their number is fixed
    assert len(select_devices(3)) == 3
    with pytest.raises(InputError, match=r"--devices: expected at most 8 \(CPU\), found 9"):
        select_devices(9)


def test_resume_uses_the_arguments_of_the_run(tmp_path):
    folder = tmp_path / "run"
    opened(["--out", str(folder), "--preset", "smoke", "--width", "5"])
    options, _ = parse("toy", PRESETS, ["--resume", str(folder)])
    assert options == Toy(preset="smoke", epochs=1, width=5, resume=folder)
    assert opened(["--resume", str(folder), "--width", "5"]).config["width"] == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--width", "6"], "width is 8 there and 6 here"),
        (["--rates", "1"], r"rates is \[0.1\] there and \[1.0\] here"),
        (["--preset", "smoke"], "preset is 'default' there and 'smoke' here"),
    ],
)
def test_resume_under_another_config_names_the_field_and_writes_nothing(tmp_path, change, message):
    folder = tmp_path / "run"
    opened(["--out", str(folder)]).log("stage", 1, loss=0.5)
    before = snapshot(folder)
    with pytest.raises(InputError, match=message):
        opened(["--resume", str(folder), *change])
    assert snapshot(folder) == before


def test_resume_on_other_data_or_of_another_experiment_is_refused(tmp_path):
    folder = tmp_path / "run"
    opened(["--out", str(folder)], data=DATA)
    with pytest.raises(InputError, match=r"data\.sha256 is 'abab"):
        opened(["--resume", str(folder)], data=DataName(DATA.name, "cd" * 32))
    with pytest.raises(InputError, match="experiment is 'toy' there and 'other' here"):
        open_run("other", Toy(resume=folder), arguments=(), data=DATA)


def test_resume_from_a_broken_config(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json, line 1: expected JSON, found Expecting"):
        parse("toy", PRESETS, ["--resume", str(tmp_path)])


def test_occupied_out_is_refused_and_untouched(tmp_path):
    opened(["--out", str(tmp_path / "run")])
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        opened(["--out", str(tmp_path / "run")])
    assert snapshot(tmp_path / "run") == before


def test_metrics_are_appended_truncated_and_repaired(tmp_path):
    with opened(["--out", str(tmp_path / "run")]) as run:
        for stage in ("a", "b"):
            for step in (1, 2, 3):
                run.log(stage, step, loss=step / 2, worst=float("nan"))
    path = run.folder / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"stage": "b", "st')  # a kill in the middle of a line
    run = opened(["--resume", str(run.folder)])
    run.truncate_metrics("b", after_step=1)
    lines = read_metrics(path)
    assert [(line["stage"], line["step"]) for line in lines] == [
        ("a", 1),
        ("a", 2),
        ("a", 3),
        ("b", 1),
    ]
    assert lines[0]["loss"] == 0.5 and lines[0]["worst"] is None


GOOD = b'{"stage": "a", "step": 1, "wall_seconds": 0.5}'


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b"[1]",
        b"7",
        GOOD[:-9],
        b"\xff\xfe",
        b"\0" * 40,
        b"[" * 100_000,
        GOOD.replace(b"1", b'"1"'),
        GOOD.replace(b"1", b"true"),
        GOOD.replace(b'"a"', b"null"),
        GOOD.replace(b"0.5", b"NaN"),
        GOOD.replace(b"wall", b"hall"),
    ],
)
def test_a_bad_line_of_metrics_is_named_and_nothing_changes(tmp_path, bad):
    folder = tmp_path / "run"
    opened(["--out", str(folder)])
    (folder / "metrics.jsonl").write_bytes(GOOD + b"\n" + bad + b"\n" + GOOD + b'\n{"st')
    before = snapshot(folder)
    with pytest.raises(InputError) as caught:
        opened(["--resume", str(folder)])
    assert str(caught.value).startswith(
        f"{folder / 'metrics.jsonl'}, line 2: expected JSON with a stage, a step and wall_seconds,"
    )
    assert len(str(caught.value).splitlines()) == 1
    assert snapshot(folder) == before


WHOLE = {"experiment": "toy", "arguments": ["--width", "5"], "config": {"width": 5}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: expected JSON, found Expecting value"),
        (b'{"experiment":\n "toy",\n "argu', "line 3: expected JSON, found Unterminated string"),
        (b"\xff\xfe{", "line 1: expected JSON, found something else"),
        (b"[" * 100_000, "line 1: expected JSON, found something else"),
        (b"null", "expected a name under 'experiment', found 'None'"),
        (b"[1, 2]", "expected a name under 'experiment', found 'None'"),
        ({"experiment": 3}, "expected a name under 'experiment', found '3'"),
        ({"arguments": "--width 5"}, "expected a list of words under 'arguments', found"),
        ({"arguments": ["--width", 5]}, "expected a list of words under 'arguments', found"),
        ({"arguments": None}, "expected a list of words under 'arguments', found 'None'"),
        ({"config": [1]}, "expected a table of options under 'config', found"),
        ({"config": {}}, "the config differs: data is"),
        ({"config": {"width": "5"}}, "the config differs: width is '5' there and 5 here"),
    ],
)
def test_a_damaged_config_is_one_line_and_nothing_changes(tmp_path, text, message):
    folder = tmp_path / "run"
    opened(["--out", str(folder), "--width", "5"], data=DATA)
    path = folder / "config.json"
    path.write_bytes(json.dumps(WHOLE | text).encode() if isinstance(text, dict) else text)
    before = snapshot(folder)
    with pytest.raises(InputError) as caught:
        opened(["--resume", str(folder)], data=DATA)
    assert message in str(caught.value) and str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert snapshot(folder) == before


def test_a_config_that_was_changed_by_a_bit_is_one_line_and_names_the_file(tmp_path, capsys):
    """Also where other arguments would be of no command, or of another run."""
    opened(["--out", str(tmp_path), "--width", "5", "--devices", "2"])
    path = tmp_path / "config.json"
    whole = path.read_bytes()
    for before, after in ((b"--width", b"--wadth"), (b'"2"', b'"3"'), (b'"data"', b'"dava"')):
        assert before in whole
        path.write_bytes(whole.replace(before, after))
        with pytest.raises(InputError, match=r"config\.json: expected the config that was saved"):
            parse("toy", PRESETS, ["--resume", str(tmp_path)])
    assert capsys.readouterr().err == ""
    path.write_bytes(whole.replace(b'"digest"', b'"dagest"'))  # as an earlier version wrote it
    opened(["--resume", str(tmp_path)])


def test_summary_has_exactly_the_keys_and_names_data_without_a_path(tmp_path):
    argv = ["--out", str(tmp_path / "run"), "--data", "/somewhere/ml-1m", "--seed", "4"]
    run = opened(argv, data=DATA)
    run.write_summary(
        protocol={"split": "leave one out"},
        metrics={"hr@10": 0.25, "missing": None},
        baselines={"popularity/hr@10": float("nan")},
        seeds=range(4, 6),
    )
    text = (run.folder / "summary.json").read_text()
    summary = json.loads(text)
    assert tuple(summary) == SUMMARY_KEYS
    assert summary["command"] == (
        f"python -m experiments.toy --data <ml-1m> --seed 4  # <ml-1m> sha256 {DATA.sha256}"
    )
    assert summary["metrics"] == {"hr@10": 0.25, "missing": None}
    assert summary["baselines"] == {"popularity/hr@10": None}
    assert summary["seeds"] == [4, 5]
    assert summary["config"]["data"] == {"name": "<ml-1m>", "sha256": DATA.sha256}
    assert "/somewhere" not in text and str(tmp_path) not in text


def test_data_argument_is_named_in_both_spellings():
    for words in (["--data", "x/ml-1m"], ["--data=x/ml-1m"]):
        assert command_line("toy", words, data=DATA).startswith(
            "python -m experiments.toy --data <ml-1m>  #"
        )
    assert command_line("toy", ["--rates", "1"], data=None) == "python -m experiments.toy --rates 1"


def test_a_resumed_run_has_the_command_of_its_start(tmp_path):
    folder = tmp_path / "run"
    first = opened(["--out", str(folder), "--width", "5"]).command
    assert opened(["--resume", str(folder), "--width", "5"]).command == first
    again = opened(["--resume", str(folder), "--keep", "toy-a"])
    assert again.command == f"{first} --keep toy-a"


def test_a_task_of_a_command_is_a_word_of_its_own():
    assert command_line("toy task", ["--seed", "1"], data=None) == (
        "python -m experiments.toy task --seed 1"
    )


def test_wall_seconds_go_on_after_a_resume(tmp_path):
    with opened(["--out", str(tmp_path / "run")]) as run:
        run.log("stage", 1, loss=1.0)
    line = json.loads((run.folder / "metrics.jsonl").read_text())
    (run.folder / "metrics.jsonl").write_text(json.dumps({**line, "wall_seconds": 100.0}) + "\n")
    assert opened(["--resume", str(run.folder)]).wall_seconds >= 100.0


def test_ctrl_c_outside_of_training_says_how_to_go_on(tmp_path, capsys):
    with (
        pytest.raises(SystemExit) as exit_,
        opened(["--out", str(tmp_path / "run")]) as run,
    ):
        raise KeyboardInterrupt
    assert exit_.value.code == 130
    assert f"continue with --resume {run.folder}" in capsys.readouterr().err


def test_first_difference_descends_and_sees_missing_fields():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b is 1 there and 2 here"
    assert first_difference({}, {"a": 1}) == "a is None there and 1 here"


def test_config_hash_ignores_order_only():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_kept_result_and_the_log_of_test_evaluations(tmp_path):
    run = opened(["--out", str(tmp_path / "run")])
    (run.folder / "report.md").write_text("![plot](report.png)\n")
    (run.folder / "report.png").write_bytes(b"png")
    run.write_summary(protocol={}, metrics={}, baselines={}, seeds=[0])
    results = tmp_path / "docs" / "results"
    for reason in ("first", "second"):
        log_test_evaluation(run, keep="toy-a", reason=reason, results=results)
    log_test_evaluation(run, keep=None, reason="not kept", results=results)
    own = [json.loads(line) for line in (run.folder / "test-log.jsonl").read_text().splitlines()]
    assert [(line["result"], line["reason"]) for line in own] == [
        ("toy-a", "first"),
        ("toy-a", "second"),
        (None, "not kept"),
    ]
    keep_result(run, name="toy-a", results=results)
    lines = [json.loads(line) for line in (results / "test-log.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["first", "second"]
    assert lines[0]["config_hash"] == config_hash(run.config)
    assert (results / "toy-a.md").read_text() == "![plot](toy-a.png)\n"
    assert (results / "toy-a.json").read_bytes() == (run.folder / "summary.json").read_bytes()
    assert (results / "toy-a.png").read_bytes() == b"png"


def test_name_of_a_kept_result_is_checked_before_the_work(tmp_path):
    with pytest.raises(InputError, match=r"--keep: expected letters.*found '\.\./x'"):
        check_keep("../x")
    with pytest.raises(InputError, match="--keep: expected the project's root as working folder"):
        check_keep("x", results=tmp_path / "docs" / "results")
