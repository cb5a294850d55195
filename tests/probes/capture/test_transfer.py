"""Many tensors, one copy, the same tensors."""

import torch

from probes.capture.transfer import Transfer, _Parcel


def test_every_dtype_and_shape_comes_back_as_it_was():
    torch.manual_seed(0)
    tensors = [
        torch.randn(3, 5).bfloat16(),
        torch.arange(7),
        torch.randn(2, 3, 4),
        torch.zeros(0, 4),
        torch.tensor([True, False, True]),
        torch.randn(4, 6).half().T,
    ]
    parcel = _Parcel(torch.device("cpu"), list(enumerate(tensors)))
    back = dict(parcel.unpack())
    for index, tensor in enumerate(tensors):
        assert back[index].dtype == tensor.dtype
        assert torch.equal(back[index], tensor)


def test_on_the_cpu_nothing_is_copied():
    tensors = [torch.randn(3), torch.arange(4)]
    assert all(a is b for a, b in zip(Transfer(tensors).result(), tensors, strict=True))
