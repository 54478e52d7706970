"""The heads of a supervised net as one module, in which what the model lends them is not counted, stored or moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from deepsup.heads.lent_layers import Lent, lent


class Heads(nn.Module):
    """The heads by branch name. Dots cannot stand in module names, so `layer1.0` is registered as `layer1/0`.

    A layer or parameter that is also the `model`'s (`lent_layers`) runs here and belongs there: it is none of the
    `parameters`, not in the state dict, and `train`, `to` and the like leave it alone. A head that branches share is there
    once, under the first of them.
    """

    lent = Lent({}, {})  # until it is known
    again: Mapping[str, str] = MappingProxyType(
        {}
    )  # keys of branches whose head is that of an earlier branch, with its key
    lent_keys: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __init__(self, modules: dict[str, nn.Module], model: nn.Module | None = None) -> None:
        super().__init__()
        for name, module in modules.items():  # add_module would refuse names of methods, such as "half"
            self._modules[name.replace(".", "/")] = module
        firsts = {id(module): key for key, module in reversed(self._modules.items())}
        self.again = {key: first for key, m in self._modules.items() if (first := firsts[id(m)]) != key}
        self.lent = lent(self, model)
        self.lent_keys = {name: keys for name in modules if (keys := self._lent_to(name))}
        self.register_state_dict_post_hook(_only_new)  # type: ignore[no-untyped-call]

    def _lent_to(self, name: str) -> tuple[str, ...]:
        """The parameters in the head of a branch that are the model's."""
        where = f"{name.replace('.', '/')}."
        return tuple(key for key, _ in self[name].named_parameters() if self.lent.has(where + key))

    def __getitem__(self, name: str) -> nn.Module:
        return self._modules[name.replace(".", "/")]  # type: ignore[return-value]

    def __iter__(self) -> Iterator[str]:
        return (key.replace("/", ".") for key in self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Branch names and heads."""
        return ((name, self[name]) for name in self)

    def own(self, name: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of a branch's head that are not the model's, by name."""
        keys = self.lent_keys.get(name, ())
        return ((key, p) for key, p in self[name].named_parameters() if key not in keys)

    def lent_buffers(self) -> list[Tensor]:
        """The model's buffers that its layers would write into when heads run them now."""
        layers = [m for layer in self.lent.layers.values() for m in layer.modules() if m.training]
        return [buffer for m in layers for buffer in m._buffers.values() if buffer is not None]

    def forward(self, *args: Any) -> Any:
        raise TypeError("heads are run one by one: heads[name](activation)")

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Those that are not the model's."""
        return self._new(super().named_parameters(prefix, recurse, remove_duplicate), prefix)

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Those that are not the model's."""
        return self._new(super().named_buffers(prefix, recurse, remove_duplicate), prefix)

    def _new(self, found: Iterator[tuple[str, Any]], prefix: str) -> Iterator[tuple[str, Any]]:
        start = f"{prefix}." if prefix else ""
        return ((key, value) for key, value in found if self._is_new(key.removeprefix(start)))

    def _is_new(self, key: str) -> bool:
        return not self.lent.has(key) and key.partition(".")[0] not in self.again

    def train(self, mode: bool = True) -> Heads:
        """As any module, but the model's layers keep the flag that the model gave them."""
        flags = [(m, m.training) for layer in self.lent.layers.values() for m in layer.modules()]
        super().train(mode)
        for module, flag in flags:
            module.training = flag
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Heads:
        theirs = list(self.lent.all_tensors())
        kept = {id(t) for t in (*theirs, *(t.grad for t in theirs if t.is_leaf and t.grad is not None))}
        super()._apply(lambda t: t if id(t) in kept else fn(t), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Let layers of the model find what they hold already: it was loaded with the model, or stays."""
        for path, layer in self.lent.layers.items():
            held = layer.state_dict(keep_vars=True)
            state_dict.update({f"{prefix}{path}.{key}": value for key, value in held.items()})
        for key, (owner, name) in self.lent.tensors.items():
            state_dict[prefix + key] = getattr(owner, name)
        for key, first in self.again.items():
            start = f"{prefix}{first}."
            found = {k.removeprefix(start): value for k, value in state_dict.items() if k.startswith(start)}
            state_dict.update({f"{prefix}{key}.{k}": value for k, value in found.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _only_new(heads: Heads, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(prefix) and not heads._is_new(key.removeprefix(prefix))]:
        del state[key]
