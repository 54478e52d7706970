"""A file of a run is cut, flipped, zeroed, swapped, lost or replaced: every command that reads it refuses, or is right."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.campaigns.outcomes import Campaign, Outcome, command, snapshot, story, touched
from tests.campaigns.started_runs import Started, copied, of_a_run, train_all, write_settings

Damage = Callable[[Path, random.Random, Path], str]  # the file, and the same one of another run


def cut(file: Path, draw: random.Random, other: Path) -> str:
    data = file.read_bytes()
    length = draw.choice([0, 1, len(data) // 2, max(0, len(data) - 1), draw.randrange(len(data) + 1)])
    file.write_bytes(data[:length])
    return f"cut to {length} of {len(data)} bytes"


def flipped(file: Path, draw: random.Random, other: Path) -> str:
    data, flips = bytearray(file.read_bytes()), draw.choice([1, 1, 1, 8, 64])
    places = [draw.randrange(len(data) * 8) for _ in range(flips)] if data else []
    for place in places:
        data[place // 8] ^= 1 << place % 8
    file.write_bytes(data)
    return f"bits {places[:8]} flipped"


def zeroed(file: Path, draw: random.Random, other: Path) -> str:
    data = bytearray(file.read_bytes())
    begin = draw.choice([0, draw.randrange(len(data) + 1)])
    end = draw.choice([len(data), min(len(data), begin + draw.choice([1, 16, 512]))])
    data[begin:end] = bytes(end - begin)
    file.write_bytes(data)
    return f"zeros from {begin} to {end}"


def grown(file: Path, draw: random.Random, other: Path) -> str:
    more = draw.choice([b"\n", b"\0" * 100, b'{"kind": "end"}\n', b"garbage", file.read_bytes()])
    file.write_bytes(file.read_bytes() + more)
    return f"{more[:20]!r} appended"


def swapped(file: Path, draw: random.Random, other: Path) -> str:
    """For the file of that name of another run, or for another file of this one."""
    beside = sorted(p for p in file.parent.iterdir() if p.is_file() and p != file)
    new = draw.choice([other, draw.choice(beside)]) if other.exists() else draw.choice(beside)
    shutil.copyfile(new, file)
    return f"replaced by {new.parent.name}/{new.name}"


def gone(file: Path, draw: random.Random, other: Path) -> str:
    file.unlink()
    return "removed"


def odd(file: Path, draw: random.Random, other: Path) -> str:
    file.unlink()
    kind = draw.choice(["folder", "full folder", "link to itself", "link to nothing", "FIFO"])
    if kind == "FIFO":
        os.mkfifo(file)
    elif kind.endswith("folder"):
        file.mkdir()
        if kind.startswith("full"):
            (file / "mine.txt").write_text("mine")
    else:
        file.symlink_to(file.name if kind.endswith("itself") else "nothing")
    return f"now a {kind}"


def text_of(draw: random.Random) -> str:
    """JSON, YAML or a journal of somebody with odd ideas."""
    deep, n = "[" * 100_000, draw.choice([0, -1, 10**400, 10**30])
    return draw.choice(
        [deep, '{"a":' * 50_000, "null", "[]", "{}", "0", '""', "NaN", f'{{"format": {n}}}', '{"kind": "start", "format": 1}\n',
         '{"format": 1, "files": {"a": 1}, "before": []}', "\ufeff{}", "{" * 5,
         '{"kind": []}\n', '{"kind": "start"}\n{"kind": "epoch"}\n']
    )  # fmt: skip


def foreign(file: Path, draw: random.Random, other: Path) -> str:
    text = text_of(draw)
    file.write_text(text)
    return f"now {text[:40]!r}"


def edited(file: Path, draw: random.Random, other: Path) -> str:
    """One word of a text replaced by another one; of other files some bytes exchanged."""
    data = file.read_bytes()
    words = data.split(b" ") if b" " in data else [data[i : i + 7] for i in range(0, len(data), 7)]
    place = draw.randrange(len(words)) if words else 0
    new = draw.choice([b"null,", b"-1,", b"[],", b'"x",', b"1e999,", b"{},", draw.choice(words or [b""])])
    file.write_bytes((b" " if b" " in data else b"").join([*words[:place], new, *words[place + 1 :]]))
    return f"word {place} now {new[:20]!r}"


DAMAGES: list[Damage] = [
    cut,
    cut,
    flipped,
    flipped,
    zeroed,
    grown,
    swapped,
    swapped,
    gone,
    odd,
    foreign,
    edited,
    edited,
]


def prepare(place: Path) -> tuple[Started, dict[str, str]]:
    """The runs, and what `predict` says of the image in each when nothing is damaged."""
    started = train_all(place / "started")
    said = {}
    for name in ("finished", "half"):
        run = copied(started, name, place)
        for branches in ("", "--branches"):
            said[name + branches] = _predicted(run, started, branches, place)[1]
    return started, said


def _predicted(run: Path, started: Started, branches: str, place: Path) -> tuple[Outcome, str]:
    out = place / "out"
    shutil.rmtree(out, ignore_errors=True)
    found = command("predict", str(run), str(started.place / "image.png"), "--out", str(out), *filter(None, [branches]))
    table = out / "predictions.csv"
    return found, table.read_text() if table.exists() else ""


def case(state: tuple[Started, dict[str, str]], number: int, place: Path) -> list[str]:
    """One damaged file, and every command that reads it."""
    started, said = state
    draw = random.Random(f"damages {number}")
    name = draw.choice(["finished", "half"])
    files = sorted(p.name for p in (started.place / name).iterdir() if p.is_file() and p.name != "notes.txt")
    file, damage = files[number % len(files)], draw.choice(DAMAGES)
    run = copied(started, name, place)
    what = f"{name}/{file}: {damage(run / file, draw, started.place / 'other' / file)}"
    wrong = [f"{what}: {problem}" for problem in _reading(run, name, started, said, draw, place)]
    wrong += [f"{what}: {problem}" for problem in _writing(run, name, file, started, draw, place)]
    return wrong


def _reading(
    run: Path, name: str, started: Started, said: dict[str, str], draw: random.Random, place: Path
) -> list[str]:
    """Commands that leave the folder as it is."""
    before, wrong = snapshot(run), []

    def check(verb: str, found: Outcome, right: bool = True) -> None:
        wrong.extend([f"{verb} {found.problem}"] if found.problem else [])
        wrong.extend([] if right or found.how != "done" else [f"{verb}: a wrong answer"])
        wrong.extend([f"{verb} touched {names}"] if (names := touched(before, snapshot(run))) else [])

    for branches in ("", "--branches"):
        found, table = _predicted(run, started, branches, place)
        check(f"predict {branches}", found, table == said[name + branches])
    weights = run / "model.safetensors"
    found = command("strip", str(run), "--verify")
    check("verify", found, weights.is_file() and weights.read_bytes() == started.weights)
    check("dry run", command("train", str(run / "config.yaml"), f"output={run}", "--dry-run"))
    if draw.random() < 0.3:
        check("report", command("report", str(run), "--out", str(place / "report.html")))
    return wrong


def _writing(run: Path, name: str, file: str, started: Started, draw: random.Random, place: Path) -> list[str]:
    """Commands that may go on with the run: what they end with is right, or they leave the folder as it was."""
    wrong = []
    kept = place / "kept"
    settings = place / "asked.yaml"
    write_settings(settings, of_a_run(run, checkpoint={"every_steps": 3}))
    for words in (["strip", str(run)], ["train", str(settings)], ["train", str(run / "config.yaml"), f"output={run}"]):
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(run, kept)
        _copy(kept, run)
        before = snapshot(run)
        found = command(*words)
        after = touched(before, snapshot(run))
        wrong += [f"{words[0]} {found.problem}"] if found.problem else []
        wrong += (
            [f"{words} refused and touched {after}: {found.said[:300]}"] if found.how == "refused" and after else []
        )
        wrong += [f"{words[0]} touched notes.txt"] if "notes.txt" in after else []
        if found.how == "done":
            wrong += [f"{words}: {problem}" for problem in _answer(run, words[0], name, after, started)]
        shutil.rmtree(run)
        shutil.move(kept, run)
    return wrong


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        if path.is_symlink():
            (target / path.name).symlink_to(os.readlink(path))
        elif path.is_fifo():
            os.mkfifo(target / path.name)
        elif path.is_dir():
            shutil.copytree(path, target / path.name)
        else:
            shutil.copy2(path, target / path.name)


def _answer(run: Path, verb: str, name: str, after: list[str], started: Started) -> list[str]:
    """What is wrong with what a command that succeeded has written."""
    weights = run / "model.safetensors"
    if not after:
        return []  # left alone
    if verb == "strip":
        whole = name == "half" or weights.read_bytes() == started.weights
        return [] if whole else ["stripped other weights"]
    wrong = [] if weights.is_file() and weights.read_bytes() == started.weights else ["a wrong resume: other weights"]
    told = story(run / "journal.jsonl")
    lost = [record for record in started.story if record not in told]
    if lost and "journal.jsonl" not in after:
        wrong.append("journal left wrong")
    elif told != started.story and len(told) >= len(started.story):
        wrong.append(f"a journal that tells another story: {[r for r in told if r not in started.story][:3]}")
    return wrong


CAMPAIGN = Campaign("damaged files", prepare, case, target=1000, short=16)
