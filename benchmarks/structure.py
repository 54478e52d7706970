"""How the source is built: rooms, floors, cycles, code lines, and what is longer than it should be.

    python benchmarks/structure.py                      # this checkout
    python benchmarks/structure.py OLD/src/deepsup      # another one, such as a worktree of an earlier commit

A room is what stands side by side in src/deepsup: a module or a folder. An arrow is one room importing another, anywhere in
its files; the floor of a room is the longest way down the arrows. Code lines are not blank, no comment and no docstring.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path


def code_lines(text: str, tree: ast.Module) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for n, line in lines if line.strip() and n not in docs and not line.strip().startswith("#"))


def arrows(package: Path) -> dict[str, set[str]]:
    """Which rooms each room imports."""
    names = {p.stem for p in package.glob("*.py")} | {p.name for p in package.iterdir() if (p / "__init__.py").exists()}
    found: dict[str, set[str]] = {name: set() for name in names - {"__init__", "__main__"}}
    for path in package.rglob("*.py"):
        place = path.relative_to(package).with_suffix("").parts
        if place[0] not in found:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            up = ["deepsup", *place[:-1]][: len(place) - node.level + 1] if node.level else []
            module = [*up, *(node.module or "").split(".")] if node.module else up
            for alias in node.names:
                full = [part for part in (*module, alias.name) if part]
                if full[0] == "deepsup" and len(full) > 1 and full[1] in found and full[1] != place[0]:
                    found[place[0]].add(full[1])
    return found


def floors_and_cycles(rooms: dict[str, set[str]]) -> tuple[int, int]:
    """How many floors there are, and how many rooms stand in a circle and so on none."""
    left, floors = dict(rooms), 0
    while ready := {room for room, needs in left.items() if not needs & left.keys()}:
        left, floors = {room: needs for room, needs in left.items() if room not in ready}, floors + 1
    return floors, len(left)


def measured(package: Path) -> dict[str, object]:
    """The numbers of one checkout."""
    texts = {path: path.read_text() for path in package.rglob("*.py")}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [
        (node.end_lineno or 0) - node.lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    stems = [path.stem for path in texts if path.stem not in ("__init__", "__main__")]
    rooms = arrows(package)
    floors, circle = floors_and_cycles(rooms)
    return {
        "rooms": len(rooms),
        "floors": floors,
        "arrows": sum(map(len, rooms.values())),
        "rooms_in_cycles": circle,
        "files": len(texts),
        "code_lines": sum(code_lines(texts[path], trees[path]) for path in texts),
        "files_over_400_lines": sum(text.count("\n") > 400 for text in texts.values()),
        "functions_over_60_lines": sum(length > 60 for length in functions),
        "file_names_used_twice": len(stems) - len(set(stems)),
    }


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1] / "src" / "deepsup"
    print(json.dumps(measured(Path(sys.argv[1]) if len(sys.argv) > 1 else here), indent=2))
