"""The fake card: what it has seen, and the patches that put it in the place of a real one."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType
from typing import Self
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from tests.fake_card.cuda import OPERATORS, TensorOperators, tensor_methods, torch_cuda
from tests.fake_card.device_memory import DeviceMemory
from tests.fake_card.faults import CardFault, place
from tests.fake_card.host_memory import HostMemory
from tests.fake_card.kernels import kernel_modules, rms_norm, scaled_dot_product_attention
from tests.fake_card.watch import Watch

FLOAT32_PRODUCTS = frozenset({"text_similarity", "letter_logits"})
"""Functions of the product that multiply matrices in float32 on purpose: the compressor's cosines and the letters' logits."""


class FakeCard:
    """To be entered once. Its counters may be read and cleared at any time."""

    def __init__(
        self,
        *,
        tower_dtype: torch.dtype = torch.bfloat16,
        varlen: str | None = "2.13",
        flash_attention: int | None = None,
        capability: tuple[int, int] = (9, 0),
        total_bytes: int = 80 * 2**30,
        float32_products: frozenset[str] = FLOAT32_PRODUCTS,
    ) -> None:
        """varlen: the torch version whose `varlen_attn` there is, 2.11 or 2.13; None for a torch without it.

        flash_attention: the generation that is installed, 2 or 3; None for none.
        """
        self.faults: list[str] = []
        self.waits: list[str] = []  # the synchronisations that were asked for, with their places
        self.uploads = 0
        self.downloads = 0  # copies to the host, except into registered memory
        self.copies_to_host_tier = 0  # copies to the host, into memory that the product has registered: its cache
        self.kernel_calls: Counter[str] = (
            Counter()
        )  # by name: sdpa, sdpa unfused, varlen_attn, flash_attn_2, flash_attn_3
        self.tower_dtype = tower_dtype
        self.capability = capability
        self.float32_products = float32_products
        self.memory = DeviceMemory(total_bytes)
        self.host_memory = HostMemory(self.fault, self.faults.append)
        self._kernel_modules = kernel_modules(self, varlen, flash_attention)
        self._queued = 0  # places in the one stream
        self._completed = 0
        self._is_strict = True
        self._stack = ExitStack()
        self._watch = Watch(self)
        self.any_product = self._watch.any_product

    def __enter__(self) -> Self:
        _clear_caches_of_product()
        enter = self._stack.enter_context
        enter(FakeTensorMode(allow_non_fake_inputs=True))  # before torch.cuda is patched: it looks for a card
        enter(self._watch)
        enter(mock.patch.object(fake_tensor, "init_gpu_context", lambda *_: None, create=True))
        enter(_modules(self._kernel_modules))
        functions = {"rms_norm": rms_norm(self), "scaled_dot_product_attention": scaled_dot_product_attention(self)}
        methods = tensor_methods(self)
        enter(TensorOperators({name: methods.pop(name) for name in OPERATORS}))
        for owner, stand_ins in (
            (torch.cuda, torch_cuda(self)),
            (torch.Tensor, methods),
            (torch, {"nonzero": methods["nonzero"]}),
            (F, functions),
        ):
            for name, stand_in in stand_ins.items():
                enter(mock.patch.object(owner, name, stand_in))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        _clear_caches_of_product()
        if exception[0] is None:
            self.complete(self._queued)

    @property
    def live_bytes(self) -> int:
        """Device memory that is held now."""
        return self.memory.live_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that was held at once since the beginning or `reset_peak`."""
        return self.memory.peak_bytes

    def reset_peak(self) -> None:
        self.memory.reset_peak()

    @contextmanager
    def waiting_allowed(self) -> Iterator[None]:
        """Copies and indices inside may wait for the device: for loading weights. Values cannot be read here either."""
        was_strict, self._is_strict = self._is_strict, False
        try:
            yield
        finally:
            self._is_strict = was_strict

    def fault(self, sentence: str, operation: str) -> None:
        """Keeps and raises it. Raises: CardFault."""
        self.faults.append(f"{sentence} ({operation}, {place()})")
        raise CardFault(self.faults[-1])

    def wait_fault(self, sentence: str, operation: str) -> None:
        """A fault where waiting is not allowed. Raises: CardFault."""
        if self._is_strict:
            self.fault(sentence, operation)

    def copy(self, source: torch.Tensor, target: torch.Tensor, non_blocking: bool, name: str) -> None:
        """Between the host and the card. A host tensor that is the target holds zeros afterwards."""
        if isinstance(target, FakeTensor):
            self.uploads += 1
            self._queue_copy(source, target, non_blocking, name, to_device=True)
            return
        if self.host_memory.is_registered(target):
            self.copies_to_host_tier += 1
        else:
            self.downloads += 1
        self._queue_copy(target, source, non_blocking, name, to_device=False)
        with unset_fake_temporarily(), torch.inference_mode():
            target.zero_()

    def _queue_copy(
        self, host: torch.Tensor, device: torch.Tensor, non_blocking: bool, name: str, *, to_device: bool
    ) -> None:
        way = "to the device" if to_device else "to the host"
        if host.numel() == 0:
            return
        if not self.host_memory.is_pinned(host):
            self.wait_fault(f"A copy {way} goes through pageable memory, so that the host waits.", name)
        elif not non_blocking:
            self.wait_fault(f"A copy {way} is blocking.", name)
        elif host.dtype != device.dtype or not _lie_alike(host, device):
            self.wait_fault(f"A copy {way} changes dtype or layout, for which it goes through pageable memory.", name)
        else:
            self.host_memory.begin_copy(host, self.record(), to_device=to_device)

    # The stream: a row of numbered places.

    def record(self) -> int:
        """The place behind everything that is queued."""
        self._queued += 1
        return self._queued

    def is_complete(self, position: int | None = None) -> bool:
        """Whether the stream is known to have got there, None for its end."""
        return (self._queued if position is None else position) <= self._completed

    def synchronise(self, position: int | None, name: str) -> None:
        """The host waits until the stream has got there, None for its end."""
        self.waits.append(f"{name}, {place()}")
        self.complete(self._queued if position is None else position)

    def complete(self, position: int) -> None:
        """The stream has got there. Raises: CardFault for a buffer that was rewritten too early."""
        self._completed = max(self._completed, position)
        self.host_memory.complete(self._completed)


@contextmanager
def _modules(stand_ins: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Puts them into sys.modules. (`mock.patch.dict` would also forget whatever is imported meanwhile.)"""
    replaced = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)  # type: ignore[arg-type]  # None is how a module is missing
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(replaced)


def _lie_alike(host: torch.Tensor, device: torch.Tensor) -> bool:
    """Whether a copy of consecutive bytes does it."""
    return host.is_contiguous() and device.is_contiguous()


def _clear_caches_of_product() -> None:
    """What it keeps between calls (functools.cache), so that no test finds the stand-ins of another."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "model":
            for value in list(vars(module).values()):
                with suppress(AttributeError):
                    value.cache_clear()
