"""Memory that is written again only when nobody holds it."""

import concurrent.futures

import pytest
import torch

from bit_backbone.kernels import native
from bit_backbone.kernels.reused_memory import MOST_BYTES, empty_like
from bit_backbone.network.std_conv import StdConv2d, standardize

MODES = [torch.no_grad, torch.inference_mode, torch.enable_grad]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_like_the_tensor_and_comes_back(mode, dtype, layout):
    like = torch.empty(5, 7, 3, 3, dtype=dtype).contiguous(memory_format=layout)
    with mode():
        first = empty_like(like)
        assert (first.dtype, first.shape, first.stride()) == (dtype, like.shape, like.stride())
        place = first.data_ptr()
        del first
        assert empty_like(like).data_ptr() == place


HOLDERS = {
    "the tensor": lambda t: t,
    "a view": lambda t: t[0],
    "detach": lambda t: t.detach(),
    "data": lambda t: t.data,
    "NumPy": lambda t: t.numpy(),
    "DLPack": lambda t: torch.from_dlpack(t),
    "a storage": lambda t: t.untyped_storage(),
}


@pytest.mark.parametrize("hold", HOLDERS)
@pytest.mark.parametrize("mode", MODES[:2])
def test_what_somebody_holds_is_left_alone(hold, mode):
    like = torch.empty(11, 13)
    with mode():
        tensor = empty_like(like).fill_(1.0)
        held, place = HOLDERS[hold](tensor), tensor.data_ptr()
        del tensor
        others = [empty_like(like).fill_(2.0) for _ in range(3)]
        assert all(other.data_ptr() != place for other in others)
        assert held is not None


def test_large_ones_are_not_kept():
    like = torch.empty(MOST_BYTES + 4, dtype=torch.uint8)
    place = empty_like(like).data_ptr()
    held = torch.empty_like(like)  # takes the place that was freed
    assert empty_like(like).data_ptr() != held.data_ptr()
    assert place


@pytest.mark.skipif(native.library() is None, reason=native.status())
def test_filters_that_are_held_stay_as_they_are():
    convs = [StdConv2d(4, 8, 3) for _ in range(4)]
    with torch.no_grad():
        filters = [conv.standardized_weight() for conv in convs]
        for conv in convs:
            conv(torch.randn(1, 4, 5, 5))
        for conv, found in zip(convs, filters, strict=True):
            expected = standardize.__wrapped__(conv.weight, conv.eps)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_threads_have_memory_of_their_own():
    convs = [StdConv2d(16, 16, 3) for _ in range(8)]
    x = torch.randn(1, 16, 9, 9)
    expected = [conv(x).detach() for conv in convs]

    def run(number):
        with torch.no_grad():
            return max(
                (convs[i % 8](x) - expected[i % 8]).abs().max().item() for i in range(number, 99)
            )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert max(pool.map(run, range(8))) < 1e-4
