"""Which tensors of a forward depend on the model's input: followed operation by operation, without the graph.

Position embeddings, learned queries and masks lead to the prediction and yet say nothing about the sample. Whether a
tensor is one of those cannot be read off the autograd graph, because inputs need no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Lineage(TorchDispatchMode):
    """While active, follows everything that is computed from the tensors in `inputs`.

        >>> with Lineage(sample) as lineage:
        ...     output = model(sample)
        >>> lineage.follows(output)
        True

    By storage, so that views and writing in place count; a storage that is filled with something else loses its mark.
    """

    def __init__(self, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.marked = {_storage(t) for t in tensors(inputs)}
        self.kept = list(tensors(inputs))  # while they live no other tensor gets their place in memory

    def follows(self, tensor: Tensor) -> bool:
        """Whether anything in the storage of `tensor` was computed from the inputs. Ask while it is alive."""
        return _storage(tensor) in self.marked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = {_storage(t) for t in tensors((args, kwargs))}
        result = func(*args, **kwargs)
        written = {_storage(t) for t in tensors(result)}
        if read & self.marked:
            self.marked |= written
        else:
            self.marked -= written - read  # new memory, perhaps where something that depended on the input once lay
        return result


def tensors(value: Any) -> Iterable[Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors and subclasses without a storage
        return id(tensor)
