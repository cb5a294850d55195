"""Device to host in one copy per device and forward pass, however many layers and tensors there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch


class Transfer:
    """Tensors on their way to the host. On the CPU there is no way to go: the tensors themselves are handed out.

    On an accelerator they are joined into one byte buffer per device, copied without blocking into pinned memory, and
    cut apart again in `result`, which waits for the copy.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._host: list[torch.Tensor | None] = [t if t.device.type == "cpu" else None for t in tensors]
        places = defaultdict(list)
        for index, tensor in enumerate(tensors):
            if tensor.device.type != "cpu":
                places[tensor.device].append((index, tensor))
        self._parcels = [_Parcel(device, items) for device, items in places.items()]

    def result(self) -> list[torch.Tensor]:
        """The tensors on the host, in the order they were given."""
        for parcel in self._parcels:
            for index, tensor in parcel.unpack():
                self._host[index] = tensor
        self._parcels = []
        return [t for t in self._host if t is not None]


class _Parcel:
    def __init__(self, device: torch.device, items: list[tuple[int, torch.Tensor]]) -> None:
        # Widest elements first, so that every tensor starts at a multiple of its own element size.
        items = sorted(items, key=lambda item: -item[1].element_size())
        self._what = [(index, t.dtype, t.shape, t.numel() * t.element_size()) for index, t in items]
        packed = torch.cat([t.contiguous().reshape(-1).view(torch.uint8) for _, t in items])
        pinned = device.type == "cuda"
        self._bytes = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=pinned)
        self._bytes.copy_(packed, non_blocking=pinned)
        self._event = torch.cuda.Event() if pinned else None
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(device))

    def unpack(self) -> list[tuple[int, torch.Tensor]]:
        if self._event is not None:
            self._event.synchronize()
        out, start = [], 0
        for index, dtype, shape, size in self._what:
            out.append((index, self._bytes[start : start + size].view(dtype).view(shape)))
            start += size
        return out
