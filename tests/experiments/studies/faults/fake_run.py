"""A run of the standard library alone that keeps the promises of the small run, or breaks one.

    python -m tests.experiments.studies.faults.fake_run --out FOLDER

The environment's FAKE names what it does wrong: it "forgets" the state it had saved, is "deaf" to
SIGTERM, goes on "blind" with a damaged checkpoint, "shouts" a second line, or makes a folder
"anew".
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

TOTAL, EVERY, PAUSE = 32, 5, 0.01
WRONG = os.environ.get("FAKE", "")
asked = []


def refuse(text):
    print(f"error: {text}", file=sys.stderr)
    if WRONG == "shouts":
        print("and more", file=sys.stderr)
    sys.exit(2)


def restored(folder):
    """Return the step and state of the newest checkpoint that is whole."""
    places = [path for path in folder.glob("checkpoints/small/*") if path.name.isdecimal()]
    damaged = []
    for place in sorted(places, key=lambda path: -int(path.name)):
        texts = {path.name: path.read_text(errors="replace") for path in place.iterdir()}
        state = texts.get("state", "")
        whole = {"state": state, "seal": hashlib.sha256(state.encode()).hexdigest()}
        if WRONG == "blind" or texts == whole:
            for each in damaged:
                print(f"{each}: expected the bytes that were saved; going on", file=sys.stderr)
            return int(place.name), state
        damaged.append(place)
    if damaged:
        refuse(f"{damaged[0]}: expected the bytes that were saved; no other one is whole")
    return 0, ""


def save(folder, step, state):
    stage = folder / "checkpoints/small"
    aside = stage / f".writing-{step}"
    for left in stage.glob(".writing-*"):
        shutil.rmtree(left)
    aside.mkdir()
    (aside / "state").write_text(state)
    (aside / "seal").write_text(hashlib.sha256(state.encode()).hexdigest())
    time.sleep(PAUSE)
    if (stage / str(step)).exists():  # a damaged one
        shutil.rmtree(stage / str(step))
    aside.rename(stage / str(step))
    for old in stage.iterdir():
        if old.name.isdecimal() and int(old.name) < step - EVERY:
            shutil.rmtree(old)


def main(folder, *, resume):
    signal.signal(signal.SIGTERM, lambda *unused: asked.append(WRONG != "deaf"))
    if not resume:
        (folder / "checkpoints/small").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    log = folder / "metrics.jsonl"
    step, state = restored(folder)
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    log.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))
    if WRONG == "forgets":
        state = ""
    while step < TOTAL:
        time.sleep(PAUSE)
        step += 1
        state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
        line = {"stage": "small", "step": step, "wall_seconds": time.time(), "loss": 1 / step}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if step % EVERY == 0 or step == TOTAL or any(asked):
            save(folder, step, state)
        if any(asked):
            print(f"stopped; continue with --resume {folder}", file=sys.stderr)
            sys.exit(143)
    summary = {"protocol": {"state": state}}
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    words = sys.argv[1:]
    folder = Path(next(word for word in words if "/" in word))
    try:
        main(folder, resume="--resume" in words)
    except OSError as error:
        if WRONG == "anew":
            folder.mkdir(exist_ok=True)
        refuse(str(error))
