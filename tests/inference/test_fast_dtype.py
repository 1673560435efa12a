"""``dtype="auto"``: bfloat16 where the hardware has it."""

import pytest
import torch

from bit_backbone import BitBackbone, BitConfig, optimize_for_inference
from bit_backbone.inference import fast_dtype as module
from bit_backbone.inference.fast_dtype import fast_dtype


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512f"}, torch.float32),
        ({"avx512f", "avx512_bf16"}, torch.bfloat16),
        ({"amx_tile", "amx_bf16"}, torch.bfloat16),
        ({"asimd", "bf16"}, torch.bfloat16),
        (set(), torch.float32),
    ],
)
def test_on_a_cpu_the_flags_decide(flags, expected, monkeypatch):
    monkeypatch.setattr(module, "_cpu_flags", lambda: frozenset(flags))
    assert fast_dtype("cpu") is expected
    config = BitConfig(embedding_size=32, hidden_sizes=(32,), depths=(1,), num_groups=8)
    fast = optimize_for_inference(BitBackbone(config).eval(), dtype="auto")
    assert next(fast.parameters()).dtype is expected
    assert fast(torch.randn(1, 3, 32, 32))["stage1"].dtype is torch.float32


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("AVX512_CORE_VNNI", torch.float32),
        ("avx2", torch.float32),
        ("AVX512_CORE_BF16", torch.bfloat16),
    ],
)
def test_on_a_cpu_onednn_may_be_told_less(limit, expected, monkeypatch):
    """It then emulates bfloat16, several times slower than float32."""
    monkeypatch.setattr(module, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert fast_dtype("cpu") is expected


@pytest.mark.parametrize("has", [True, False])
def test_on_a_gpu_cuda_is_asked_without_emulation(has, monkeypatch):
    def asked(including_emulation=True):
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", asked)
    assert fast_dtype(torch.device("cuda", 0)) is (torch.bfloat16 if has else torch.float32)


def test_other_devices_stay_with_float32():
    assert fast_dtype("meta") is torch.float32
