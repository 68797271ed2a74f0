"""Many tensors in one copy."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cornernet_d2.modeling.transfer import pack, to_device, unpack


def tensors():
    g = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (3, 5, 7), generator=g, dtype=torch.uint8),
        torch.randn(3, 4, generator=g, dtype=torch.float64),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.randn(2, 3, 4, generator=g).half().permute(2, 0, 1),
        torch.randn(5, generator=g) > 0,
        torch.tensor(3.5, dtype=torch.bfloat16),
        torch.randint(99, (2, 2, 2), generator=g),
    ]


def test_what_is_packed_comes_out_again():
    given = tensors()
    packed = pack(given)
    assert packed.dtype == torch.uint8 and packed.dim() == 1
    for before, after in zip(given, unpack(packed, given), strict=True):
        assert before.dtype == after.dtype and torch.equal(before, after)
        assert not after.numel() or after.untyped_storage().data_ptr() == packed.data_ptr()


class Copies(TorchDispatchMode):
    """Counts copies between devices."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def test_one_copy_whatever_the_number_of_tensors():
    given = [*tensors() * 20, torch.zeros(3, device="meta")]
    with Copies() as copies:
        moved = to_device(given, torch.device("meta"))
    assert copies.count == 1
    for before, after in zip(given, moved, strict=True):
        assert after.is_meta and (before.dtype, before.shape) == (after.dtype, after.shape)
    assert moved[-1] is given[-1]


def test_nothing_is_copied_on_the_host():
    given = tensors()
    assert all(a is b for a, b in zip(given, to_device(given, torch.device("cpu"))))
