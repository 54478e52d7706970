"""Take the branches off again, and prove that nothing stayed behind.

A certificate is JSON: the sha256 of the plain state, the seed of a random input, the sha256 of what the model gives
for it in eval mode, versions, and whether the supervised model gave bit for bit the same. It can be checked later.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepsup import documents
from deepsup.errors import AttachError, CertificateError, PlanError
from deepsup.features import tensors_in
from deepsup.files import state_sha256, update_digest, write_atomically
from deepsup.layers.dry_run import as_call
from deepsup.layers.snapshot import untouched
from deepsup.layers.taps import put_back, remove_taps, taps_on
from deepsup.supervision.attaching import Supervised, supervising, unwrap

FORMAT = 1
SEED = 20150507
TOLERANCE = 1e-4  # on another machine or version the same weights give other roundings


def strip(net: nn.Module, *, certificate: str | Path | None = None, sample: Any = None) -> nn.Module:
    """Take the branches off and return the user's model: the same object, with no hook of ours left on it.

    With `certificate`, a path, the model is run in eval mode before and after, and the proof is written there; the
    input is drawn from a fixed seed in the shape that was planned with, unless `sample` gives one.
    Heads stay reachable as `net.heads`. The model inside may be given itself (without a certificate). Wrappers
    (compile, DistributedDataParallel, Fabric) are seen through.
    Raises `AttachError` for a model that is not supervised, `CertificateError` if the outputs differ (then nothing
    is written and the model stays supervised).
    """
    if taps_on(net) and not any(isinstance(m, Supervised) for m in net.modules()):  # the model inside, by itself
        remove_taps(net)
        return net
    target = unwrap(net)
    if target.plan.branches and not taps_on(target.model, target.recorder):
        raise AttachError(f"this {type(target.model).__name__} is stripped already; it is `net.model`.")
    if certificate is None:
        remove_taps(target, target.recorder)
        return target.model
    inputs = sample_for(target, sample)
    with supervising(target, False):
        before = _run(target, inputs)
    state = state_sha256(target.model)
    taps = taps_on(target, target.recorder)
    remove_taps(target, target.recorder)
    try:
        after = _run(target.model, inputs)
        proof = _proof(target.model, after, sample, tuple(inputs.shape) if isinstance(inputs, Tensor) else None)
        proof["identical"] = _same(before, after) and state == proof["state_sha256"] and not proof["hooks_left"]
        if not proof["identical"]:
            raise CertificateError(
                f"the stripped {type(target.model).__name__} does not answer as the supervised one did in eval mode. "
                "If its forward is random in eval mode it cannot be certified; strip without certificate=."
            )
        write_atomically(Path(certificate), lambda p: p.write_text(json.dumps(proof, indent=2) + "\n"))
    except BaseException:  # no certificate, no stripping: the caller still holds a supervised net
        put_back(taps)
        raise
    return target.model


def verify(certificate: str | Path, model: nn.Module, *, sample: Any = None) -> dict[str, Any]:
    """Check a certificate against a plain model that holds the weights: the proof, with what was found now.

    Adds `"outputs": "identical"`, or `"equal within 0.0001"` on another machine or version. Raises
    `CertificateError` when the weights, the hooks or the outputs are not those that were certified.
    """
    proof = certified(certificate)
    state = state_sha256(model)
    if state != proof["state_sha256"]:
        raise CertificateError(
            f"{certificate} certifies weights with sha256 {proof['state_sha256'][:16]}..., these have {state[:16]}... "
            "Load the weights that were written with the certificate."
        )
    if taps_on(model):
        raise CertificateError(
            f"this {type(model).__name__} still has {len(taps_on(model))} taps on it. Strip it first."
        )
    if proof["input_shape"] is None and sample is None:
        raise CertificateError(f"{certificate} was made with an input of the user's own: pass the same one as sample=.")
    anchor = next(model.parameters(), torch.zeros(()))
    inputs = sample if sample is not None else _seeded(tuple(proof["input_shape"]), anchor)
    outputs = _run(model, inputs)
    if _digest(outputs) == proof["outputs_sha256"]:
        return {**proof, "outputs": "identical"}
    expected = torch.tensor(proof["outputs_start"])
    found = _start(outputs)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=TOLERANCE, atol=TOLERANCE):
        raise CertificateError(
            f"the model does not give the outputs that {certificate} certifies, though its weights match."
        )
    return {**proof, "outputs": f"equal within {TOLERANCE}"}


def certified(path: str | Path) -> dict[str, Any]:
    """What a certificate says. Raises `CertificateError` for a file that is none."""
    try:
        proof = documents.parsed(documents.content(path))
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} is not a certificate: {error}.") from None
    if not isinstance(proof, dict) or proof.get("format") != FORMAT or not _is_whole(proof):
        raise CertificateError(
            f"{path} is not a strip certificate of format {FORMAT}. Write one with strip(certificate=...)."
        )
    return proof


def _is_whole(proof: dict[str, Any]) -> bool:
    texts = all(isinstance(proof.get(key), str) for key in ("state_sha256", "outputs_sha256"))
    start, shape = proof.get("outputs_start"), proof.get("input_shape", "missing")
    numbers = isinstance(start, list) and all(isinstance(v, (int, float)) for v in start)
    sizes = shape is None or (isinstance(shape, list) and all(isinstance(n, int) for n in shape))
    return texts and numbers and sizes


def _proof(model: nn.Module, outputs: list[Tensor], sample: Any, shape: tuple[int, ...] | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "identical": False,
        "state_sha256": state_sha256(model),
        "state_keys": len(model.state_dict()),
        "hooks_left": len(taps_on(model)),
        "input_seed": SEED if sample is None else None,
        "input_shape": list(shape) if shape is not None and sample is None else None,
        "outputs_sha256": _digest(outputs),
        "outputs_start": _start(outputs).tolist(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "machine": platform.machine(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def sample_for(net: Supervised, sample: Any) -> Any:
    """An input of a net: the given one, or one of the shape that was planned with, drawn from a fixed seed."""
    if sample is not None:
        return sample
    anchor = next(net.model.parameters(), torch.zeros(()))
    if not net.plan.input_shape:
        raise PlanError("the plan knows no input shape: give sample=, an input of the model.")
    return _seeded(net.plan.input_shape, anchor)


def _seeded(shape: tuple[int, ...], anchor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(shape, generator=generator).to(anchor.device, anchor.dtype)


def _run(model: nn.Module, inputs: Any) -> list[Tensor]:
    args, kwargs = as_call(inputs)
    with untouched(model), torch.no_grad():
        model.eval()
        return list(tensors_in(model(*args, **kwargs)).values())


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _digest(outputs: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in outputs:
        update_digest(digest, tensor)
    return digest.hexdigest()


def _start(outputs: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().float().flatten()[:32].cpu() for t in outputs]) if outputs else torch.zeros(0)
