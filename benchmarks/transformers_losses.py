"""Hold the main loss of a plan against the loss that models of transformers have of their own: every class with a head.

    python benchmarks/transformers_losses.py                    # all; writes results/transformers_losses.json
    python benchmarks/transformers_losses.py --only Bert        # the classes whose name holds this text (repeatable)
    python benchmarks/transformers_losses.py --resume           # only what is not in the results yet
    python benchmarks/transformers_losses.py --again equal      # what was equal to a looser rounding than today's (resumable)

Each runs in a process of its own, with a limit of time and memory. A row says `equal` (to rounding), `refused` (a deepsup
error that says what to pass), `different` or `crash` (which must not be), `no loss` (the model takes no labels), `no labels`
(it has one, and no labels are known here that it takes), or `not built`, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import logging
import multiprocessing
import re
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import DeepsupError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from transformers_small import Case, cases, inputs_of, labels_of, model_of  # noqa: E402

RESULTS = HERE / "results/transformers_losses.json"
LIMIT_SECONDS, LIMIT_BYTES, MOST_PARAMETERS = 90, 6 << 30, 30_000_000
TIERS = (0, 1, 2, 4, 3, 5)
ROUNDING = 1e-5  # of untrained models all losses are alike to 1e-3


def run(case: Case) -> dict[str, Any]:
    """Try one class; never raises."""
    found: dict[str, Any] = {"class": case.name, "variant": case.variant, "type": case.type, "head": case.heads}
    try:
        model, inputs, logits = ready(case)
    except Exception as error:
        return {**found, "outcome": "not built", "why": said(error)}
    own = own_loss(case, model, inputs, logits)
    if isinstance(own, dict):
        return {**found, **own} if own["outcome"] == "no loss" else {**found, **unplanned(model, inputs, own)}
    labels, loss = own
    return {**found, "labels": list(labels), "own": float(loss), **compared(model, inputs, labels, loss)}


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def ready(case: Case) -> tuple[nn.Module, dict[str, Any], Tensor | None]:
    """A small model that runs on some inputs. Raises the first error where none does."""
    first: Exception | None = None
    for tier in TIERS:
        try:
            if tier:  # which may be of any size
                with torch.device("meta"):
                    size = sum(p.numel() for p in model_of(case, tier).parameters())
                if size > MOST_PARAMETERS:
                    raise MemoryError(f"{size / 1e6:.0f} million parameters")
            model = model_of(case, tier)
        except Exception as error:
            first = first or error
            continue
        for inputs in inputs_of(case, model):
            if "use_cache" in inspect.signature(model.forward).parameters:
                inputs["use_cache"] = False  # labels switch it off, and with it some models say something else
            try:
                with torch.no_grad():
                    logits = getattr(model(**inputs), "logits", None)
                return model, inputs, logits if isinstance(logits, Tensor) else None
            except Exception as error:
                first = first or error
    raise first or ValueError(f"no inputs are known for {case.name}")


def own_loss(
    case: Case, model: nn.Module, inputs: dict[str, Tensor], logits: Tensor | None
) -> tuple[dict[str, Any], Tensor] | dict[str, Any]:
    """Labels that the model takes and its loss, or a row that says why there is none."""
    takes = inspect.signature(model.forward).parameters
    if not any(re.search("label|start_positions|future_values", name) for name in takes):
        return {"outcome": "no loss", "why": "takes no labels"}
    why = "no labels are known for it"
    for labels in labels_of(case, model, inputs, logits):
        try:
            with torch.no_grad():
                torch.manual_seed(1)
                loss = getattr(model(**inputs, **labels), "loss", None)
        except Exception as error:
            why = said(error)
            continue
        if isinstance(loss, Tensor) and loss.numel() == 1 and bool(torch.isfinite(loss)):
            return labels, loss
        why = f"its loss is {loss!r}"[:200]
    return {"outcome": "no labels", "why": why}


def unplanned(model: nn.Module, inputs: dict[str, Tensor], row: dict[str, Any]) -> dict[str, Any]:
    """Of a model whose labels are not known here whether a plan is refused, which then is what happens with any."""
    try:
        ds.plan(model, inputs, method="none")
    except DeepsupError as error:
        return {"outcome": "refused", "why": said(error)}
    return row


def compared(model: nn.Module, inputs: dict[str, Tensor], labels: dict[str, Any], own: Tensor) -> dict[str, Any]:
    """What the plan's main loss is of the same labels."""
    target = labels["labels"] if list(labels) == ["labels"] else list(labels.values())
    try:
        plan = ds.plan(model, inputs, method="none")
        with torch.no_grad():
            main = ds.Objective(plan)(model(**inputs), target).parts["main"]
    except DeepsupError as error:
        return {"outcome": "refused", "why": said(error)}
    except Exception as error:
        return {"outcome": "crash", "why": said(error)}
    equal = torch.allclose(main.float(), own.float(), rtol=ROUNDING, atol=1e-6)
    found = {"main": float(main), "rounding": ROUNDING, "loss": str(plan.main_loss), "prediction": str(plan.prediction)}
    return {"outcome": "equal" if equal else "different", **found}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        yield


def work(case: Case, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    torch.set_num_threads(1)
    with quiet():
        pipe.send(run(case))


def apart(case: Case) -> dict[str, Any]:
    """`run` in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(case, there))
    process.start()
    there.close()
    failed = {
        "class": case.name,
        "variant": case.variant,
        "type": case.type,
        "head": case.heads,
        "outcome": "not built",
    }
    try:
        found = here.recv() if here.poll(LIMIT_SECONDS) else {**failed, "why": f"not done in {LIMIT_SECONDS} s"}
    except EOFError:
        found = {**failed, "why": "the process died"}
    process.kill()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--again", action="append", default=[], help="rows of this outcome, once more (repeatable)")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--into", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    before = json.loads(chosen.into.read_text())["rows"] if chosen.into.exists() else {}
    for case in cases():
        if chosen.only and not any(text in case.key for text in chosen.only):
            continue
        if case.key in before and (chosen.resume or (chosen.again and not wanted(before[case.key], chosen.again))):
            continue
        before[case.key] = row = apart(case)
        print(f"{row['outcome']:10} {case.key} {row.get('why', '')[:150]}", flush=True)
        write(before, chosen.into)
    print(Counter(row["outcome"] for row in before.values()))
    print(table(before))


def wanted(row: dict[str, Any], outcomes: list[str]) -> bool:
    """Whether a row is to be tried once more: one that is equal to today's rounding already is not."""
    return row["outcome"] in outcomes and (row["outcome"] != "equal" or row["rounding"] > ROUNDING)


def table(rows: dict[str, Any]) -> str:
    """How many rows of every head came out how, as docs/predictions.md has it."""
    heads: dict[str, Counter[str]] = {}
    for row in rows.values():
        heads.setdefault(row["head"].lower().replace("_", " "), Counter())[row["outcome"]] += 1
    columns = ("equal", "refused", "no loss", "no labels", "not built", "different", "crash")
    lines = [f"| head | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {head} | {' | '.join(str(of[c] or '') for c in columns)} |" for head, of in sorted(heads.items())]
    return "\n".join(lines)


def write(rows: dict[str, Any], into: Path) -> None:
    import transformers

    packages = {"torch": torch.__version__.partition("+")[0], "transformers": transformers.__version__}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in sorted(rows.items()))
    into.write_text(f'{{"packages": {json.dumps(packages)}, "rows": {{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    with quiet():  # what is imported on the way is imported once, and not in every process
        run(Case("bert", "BertForSequenceClassification", "class", ""))
    main()
