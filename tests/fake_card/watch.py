"""Every operation below autograd: on the host it runs, on a fake card it is checked, run without values, and counted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.fake_card.faults import product_frame

if TYPE_CHECKING:
    from tests.fake_card.card import FakeCard

EIGHT_BIT = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)

_FACTORS = {
    "mm": slice(0, 2),
    "mv": slice(0, 2),
    "bmm": slice(0, 2),
    "convolution": slice(0, 2),
    "addmm": slice(1, 3),
    "addmv": slice(1, 3),
    "baddbmm": slice(1, 3),
}
"""Where among its arguments a matrix product has its two factors. 8-bit products have other names and are let through."""

_INDEXING = ("index", "gather", "scatter", "embedding", "take", "put", "_unsafe_index")
"""Beginnings of the names of operations that take positions."""


class Watch(TorchDispatchMode):
    def __init__(self, card: "FakeCard") -> None:
        super().__init__()
        self._card = card
        self._has_dtype_rule = True

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        leaves = tree_leaves((arguments, keywords))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        is_on_card = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        name = function.overloadpacket.__name__
        if function.namespace == "prim":
            return function(*arguments, **keywords)
        if not is_on_card and not any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves):
            return self._run_on_host(function, name, arguments, keywords)
        if _is_composite(function):
            with self:
                return function.decompose(*arguments, **keywords)
        if name == "copy_":
            return self._copy(function, *arguments, **keywords)
        if name == "_to_copy":
            return self._copy_to_new(function, *arguments, **keywords)
        if name == "is_pinned":
            return False
        if is_on_card:
            self._check(function, name, arguments, tensors)
        return self._run_on_card(function, *_with_indices_on_card(name, arguments, keywords))

    @contextmanager
    def any_product(self) -> Iterator[None]:
        """Inside, matrix products may have any dtype: those of torch's own attention."""
        had_rule, self._has_dtype_rule = self._has_dtype_rule, False
        try:
            yield
        finally:
            self._has_dtype_rule = had_rule

    def _run_on_card(self, function: Any, arguments: Any, keywords: Any) -> Any:
        outputs = function(*arguments, **keywords)
        self._card.memory.count(outputs)
        return outputs

    def _run_on_host(self, function: Any, name: str, arguments: Any, keywords: Any) -> Any:
        """On real tensors, with memory that is marked as pinned where the card's runtime would pin it."""
        host = self._card.host_memory
        if name == "is_pinned":
            return host.is_pinned(arguments[0])
        if name == "pin_memory" and host.is_pinned(arguments[0]):
            return arguments[0]
        if not function.is_view:
            self._check_host_accesses(function, name, arguments, keywords)
        with unset_fake_temporarily():
            if name in ("pin_memory", "_pin_memory"):
                return host.pin(arguments[0].clone(memory_format=torch.contiguous_format))
            if keywords.get("pin_memory"):
                return host.pin(function(*arguments, **{**keywords, "pin_memory": False}))
            return function(*arguments, **keywords)

    def _check_host_accesses(self, function: Any, name: str, arguments: Any, keywords: Any) -> None:
        for index, parameter in enumerate(function._schema.arguments):
            value = arguments[index] if index < len(arguments) else keywords.get(parameter.name)
            is_written = parameter.alias_info is not None and parameter.alias_info.is_write
            for tensor in tree_leaves(value):
                if isinstance(tensor, torch.Tensor):
                    self._card.host_memory.check_access(tensor, is_written=is_written, name=name)

    # Copies.

    def _copy(
        self, function: Any, target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False
    ) -> torch.Tensor:
        """`copy_`."""
        if isinstance(target, FakeTensor) and isinstance(source, FakeTensor):
            copied: torch.Tensor = self._run_on_card(function, (target, source, non_blocking), {})
            return copied
        self._card.copy(source, target, non_blocking, "copy_")
        return target

    def _copy_to_new(self, function: Any, source: torch.Tensor, **keywords: Any) -> torch.Tensor:
        """`_to_copy`: what `to`, `cpu`, `cuda` and `float` come down to."""
        device = torch.device(keywords.get("device") or source.device)
        if isinstance(source, FakeTensor) and device.type == "cuda":
            copied: torch.Tensor = self._run_on_card(function, (source,), keywords)
            return copied
        non_blocking = bool(keywords.get("non_blocking"))
        with unset_fake_temporarily():
            like = torch.empty_like(source, device="meta", dtype=keywords.get("dtype"))
            target = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype) if device.type == "cpu" else None
        if target is None:
            target = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)
            self._card.memory.count(target)
        elif non_blocking:
            target = self._card.host_memory.pin(target)  # torch does so
        self._card.copy(source, target, non_blocking, "to")
        return target

    # Rules.

    def _check(self, function: Any, name: str, arguments: Any, tensors: Sequence[torch.Tensor]) -> None:
        """The rules for an operation on device tensors that is no copy. Raises: CardFault."""
        card = self._card
        if torch.Tag.data_dependent_output in function.tags:
            card.fault("The host reads a value, for which it waits for the device.", name)
        if name in ("index", "index_put", "index_put_"):
            self._check_mask(name, arguments)
        elif torch.Tag.dynamic_output_shape in function.tags:
            card.fault("A shape depends on values, for which the host waits for the device.", name)
        for tensor in tensors:
            if isinstance(tensor, FakeTensor):
                continue
            if name.startswith(_INDEXING):
                card.wait_fault(f"A host tensor {tuple(tensor.shape)} is an index into a device tensor.", name)
            elif tensor.dim() > 0:
                card.fault(f"A host tensor {tuple(tensor.shape)} is mixed with device tensors.", name)
        if name in _FACTORS and self._has_dtype_rule:
            self._check_product(name, arguments[_FACTORS[name]])

    def _check_mask(self, name: str, arguments: Any) -> None:
        """A mask as an index is looked up by the host, unless a single value is put where it is true."""
        is_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in arguments[1])
        if is_mask and (name == "index" or arguments[2].numel() != 1):
            self._card.fault("A boolean mask is an index: the host waits for the device to know the shape.", name)

    def _check_product(self, name: str, factors: Sequence[torch.Tensor]) -> None:
        """Both factors of every matrix product on the card have the tower's dtype or 8 bits, of whatever size.

        Excepted are the functions named in `card.float32_products`: their own products, not those of functions that they call.
        """
        dtypes = [factor.dtype for factor in factors]
        if all(dtype in (self._card.tower_dtype, *EIGHT_BIT) for dtype in dtypes):
            return
        frame = product_frame()
        if frame is None or frame.f_code.co_name not in self._card.float32_products:
            tower = self._card.tower_dtype
            self._card.fault(f"A matrix product of {dtypes[0]} and {dtypes[1]} in a tower of {tower}.", name)


def _with_indices_on_card(name: str, arguments: Any, keywords: Any) -> tuple[Any, Any]:
    """Host indices moved to the card, as indexing does where waiting is allowed."""
    if not name.startswith(_INDEXING):
        return arguments, keywords
    [device] = {leaf.device for leaf in tree_leaves(arguments) if isinstance(leaf, FakeTensor)}

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        is_there = isinstance(tensor, FakeTensor)
        return tensor if is_there else torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=device)

    result: tuple[Any, Any] = tree_map_only(torch.Tensor, moved, (arguments, keywords))
    return result


@cache
def _is_composite(function: Any) -> bool:
    """Whether it is made of other operations on every device."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"))
