"""`docs/zoo.md` from `results/zoo.json`: which architectures deepsup was tried on, and with what result.

python benchmarks/zoo_page.py       # after zoo.py it is written anyway
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "zoo.json"
PAGE = HERE.parent / "docs" / "zoo.md"

TITLES = {
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "monai": "MONAI",
    "smp": "segmentation-models-pytorch",
}
OUTCOMES = {"pass": "pass", "refused": "refused", "plain": "fail without deepsup", "failed": "fail"}
REASONS = {
    "ConfigError": "Both depths, whichever are asked for, mean one layer",
    "UnknownLayerError": "The dry run found no layer between input and prediction that a branch could read",
    "LayerError": "No layer gives out something that a branch could read",
    "OutputError": "The model returns several tensors and none has a usual name: say which one with `main=`",
}

HEAD = """# Model zoos

Architectures of five zoos ({members}), small, with random weights, on the CPU.
Written by `{command}` from [`benchmarks/results/zoo.json`](../benchmarks/results/zoo.json); the code of the laws is
[`benchmarks/zoo_laws.py`](../benchmarks/zoo_laws.py).

*Pass* means that all of this held, with two branches where the depth rule put them (`at=["33%", "67%"]`, nearby depths
where both mean one layer):

- **No trace.** Planning changes no parameter, buffer, attribute, flag, hook or random number, and not what the model answers.
- **Eval.** In eval mode the outputs are bit for bit the plain model's, and no head runs.
- **Batch.** A branch gives one answer a sample, whose gradient reaches that sample alone.
- **Gradient.** Each branch alone sends a gradient into all of its head and into the trunk below it.
- **Step.** One step of SGD changes the trunk and every head.
- **Layout.** Channels are where the layers themselves have them.
- **Zero.** Two steps with weight 0 and dropout in the heads are two steps of the plain model, bit for bit, random
  numbers included, and with the conflict meter on.
- **Strip.** The same object comes back, with the same keys, bytes, flags, hooks and outputs.

Of torchvision: classification, segmentation, and the video models that train in seconds on a CPU. Of timm,
`deepseek_vit` and `gemma4_vit` are cut to two and four blocks. Models of transformers and MONAI have small widths.

One loss serves all: the mean square of (prediction - 1), because predictions are scores, maps, boxes or embeddings here.
"""


def page(results: dict[str, Any]) -> str:
    """The text of the page."""
    rows = results["rows"]
    everything = "--all" in results["command"]
    members = f"{'every member' if everything else 'the smallest member'} of every timm and torchvision family"
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        HEAD.format(command=results["command"], members=members),
        f"{results['hardware']}; {versions}.\n",
        _summary(rows),
        *_exceptions(rows),
        "## Models\n\nBranch layers with what they gave out a sample, and in which layout "
        "(N batch, C channels, L tokens, D H W space).\n",
        *[_models(zoo, [r for r in rows if r["zoo"] == zoo]) for zoo in TITLES],
    ]
    return "\n".join(parts)


def _summary(rows: list[dict[str, Any]]) -> str:
    shown = [o for o in OUTCOMES if o == "pass" or any(r["outcome"] == o for r in rows)]
    lines = [_line("zoo", "models", *(OUTCOMES[o] for o in shown)), _line("---", *["---:"] * (len(shown) + 1))]
    for zoo, title in TITLES.items():
        here = [r for r in rows if r["zoo"] == zoo]
        lines.append(_line(title, len(here), *(sum(r["outcome"] == o for r in here) for o in shown)))
    lines.append(_line("all", len(rows), *(sum(r["outcome"] == o for r in rows) for o in shown)))
    return "## Summary\n\n" + "\n".join(lines) + "\n"


def _exceptions(rows: list[dict[str, Any]]) -> list[str]:
    texts = {
        "refused": "## Refused\n\ndeepsup says with an error why it cannot do what was asked.\n",
        "plain": "## Fail without deepsup\n\nThese do not train by themselves as they were built here.\n",
        "failed": "## Fail\n\nThese are bugs.\n",
    }
    parts = []
    for outcome, text in texts.items():
        here = [r for r in rows if r["outcome"] == outcome]
        groups = {_kind(r) for r in here}
        for kind in sorted(groups):
            of_kind = [f"- {_name(r)}: {r['message']}" for r in here if _kind(r) == kind]
            text += (f"\n{REASONS[kind]}:\n" if outcome == "refused" and kind in REASONS else "") + "\n"
            text += "\n".join(of_kind) + "\n"
        parts += [text] if here else []
    return parts


def _kind(row: dict[str, Any]) -> str:
    return str(row["message"]).partition(":")[0] if row["outcome"] == "refused" else ""


def _name(row: dict[str, Any]) -> str:
    return f"{TITLES[row['zoo']]} `{row['name'] or row['family']}`"


def _models(zoo: str, rows: list[dict[str, Any]]) -> str:
    lines = [_line("family", "model", "input", "branches", "result"), _line(*["---"] * 5)]
    for row in rows:
        branches = "; ".join(f"`{b['layer']}` {_size(b['shape'])} {b['layout']}" for b in row["layers"])
        name = f"`{row['name']}`" if row["name"] else ""
        lines.append(_line(row["family"], name, _size(row["input"][1:]), branches, OUTCOMES[row["outcome"]]))
    return f"### {TITLES[zoo]}\n\n" + "\n".join(lines) + "\n"


def _size(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def write(results: Path = RESULTS) -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(results.read_text())))


if __name__ == "__main__":
    write()
