"""The Triton kernels of GroupNorm + activation; ``triton_group_norm`` launches them.

Maps are read by their strides as [N, C, P], all arithmetic is float32, and no atomics are used.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def _activate(z, ACT: tl.constexpr):  # noqa: N803
    if ACT == "relu":
        z = tl.where(z < 0, 0.0, z)  # not tl.maximum, which drops NaN
    elif ACT == "gelu":
        z = 0.5 * z * (1 + tl.erf(z * 0.7071067811865476))
    elif ACT == "gelu_new":
        u = 0.7978845608028654 * (z + 0.044715 * z * z * z)
        z = z * (1 - 1 / (tl.exp(2 * u) + 1))
    elif ACT == "selu":
        negative = 1.6732632423543772 * (tl.exp(tl.where(z < 0, z, 0.0)) - 1)
        z = 1.0507009873554805 * tl.where(z > 0, z, negative)
    return z


@triton.jit
def _gradient_before(z, gradient, ACT: tl.constexpr):  # noqa: N803
    """Returns the gradient of ``z``, given the gradient of ``_activate(z)``."""
    if ACT == "relu":
        gradient = tl.where(z <= 0, 0.0, gradient)
    elif ACT == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
        gradient = gradient * (0.5 * (1 + tl.erf(z * 0.7071067811865476)) + z * density)
    elif ACT == "gelu_new":
        u = 0.7978845608028654 * (z + 0.044715 * z * z * z)
        half = 1 - 1 / (tl.exp(2 * u) + 1)  # (1 + tanh u) / 2
        slope = 0.7978845608028654 * (1 + 3 * 0.044715 * z * z)
        gradient = gradient * (half + 2 * z * half * (1 - half) * slope)
    elif ACT == "selu":
        negative = 1.6732632423543772 * tl.exp(tl.where(z < 0, z, 0.0))
        gradient = 1.0507009873554805 * gradient * tl.where(z > 0, 1.0, negative)
    return gradient


@triton.jit
def channel_moments(
    x_ptr,
    mean_ptr,
    deviation_ptr,
    channels,
    positions,
    channel_stride,
    position_stride,
    chunk,
    BLOCK_C: tl.constexpr,  # noqa: N803
    BLOCK_P: tl.constexpr,  # noqa: N803
):
    """Computes mean and sum of squared deviations of each (image, channel, chunk)."""
    start = tl.program_id(0) * chunk
    stop = tl.minimum(start + chunk, positions)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(2).to(tl.int64)
    x_ptr += image * channels * positions
    mean = tl.zeros([BLOCK_C], tl.float32)
    deviation = tl.zeros([BLOCK_C], tl.float32)
    for first in range(start, stop, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        mask = (c < channels)[:, None] & (p < stop)[None, :]
        offsets = c[:, None] * channel_stride + p[None, :] * position_stride
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        count = tl.minimum(stop - first, BLOCK_P).to(tl.float32)
        tile_mean = tl.sum(x, 1) / count
        centred = tl.where(mask, x - tile_mean[:, None], 0.0)
        share = count / (count + (first - start).to(tl.float32))
        delta = tile_mean - mean
        deviation += tl.sum(centred * centred, 1) + delta * delta * count * (1 - share)
        mean += delta * share
    out = (image * channels + c) * tl.num_programs(0) + tl.program_id(0)
    tl.store(mean_ptr + out, mean, mask=c < channels)
    tl.store(deviation_ptr + out, deviation, mask=c < channels)


@triton.jit
def group_moments(
    mean_ptr,
    deviation_ptr,
    group_mean_ptr,
    rstd_ptr,
    positions,
    chunk,
    chunks,
    group_channels,
    elements,
    eps,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Combines channels and chunks into mean and 1 / standard deviation of (image, group)."""
    group = tl.program_id(0).to(tl.int64)
    parts = group_channels * chunks
    mean_ptr += group * parts
    deviation_ptr += group * parts
    origin = tl.load(mean_ptr)  # keeps the sums of differences small
    shift = tl.zeros([BLOCK], tl.float32)
    for first in range(0, parts, BLOCK):
        i = first + tl.arange(0, BLOCK)
        count = tl.minimum(positions - i % chunks * chunk, chunk).to(tl.float32)
        part = tl.load(mean_ptr + i, mask=i < parts, other=0.0)
        shift += tl.where(i < parts, (part - origin) * count, 0.0)
    mean = origin + tl.sum(shift) / elements
    deviations = tl.zeros([BLOCK], tl.float32)
    for first in range(0, parts, BLOCK):
        i = first + tl.arange(0, BLOCK)
        count = tl.minimum(positions - i % chunks * chunk, chunk).to(tl.float32)
        delta = tl.load(mean_ptr + i, mask=i < parts, other=0.0) - mean
        inner = tl.load(deviation_ptr + i, mask=i < parts, other=0.0)
        deviations += tl.where(i < parts, inner + count * delta * delta, 0.0)
    tl.store(group_mean_ptr + group, mean)
    tl.store(rstd_ptr + group, 1 / tl.sqrt(tl.sum(deviations) / elements + eps))


@triton.jit
def normalize(
    x_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    channels,
    positions,
    channel_stride,
    position_stride,
    group_channels,
    ACT: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
    BLOCK_P: tl.constexpr,  # noqa: N803
):
    """Writes the normalised and activated map, one tile per program."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(2).to(tl.int64)
    group = (image * channels + c) // group_channels
    mean = tl.load(mean_ptr + group, mask=c < channels, other=0.0)
    rstd = tl.load(rstd_ptr + group, mask=c < channels, other=0.0)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    mask = (c < channels)[:, None] & (p < positions)[None, :]
    offsets = c[:, None] * channel_stride + p[None, :] * position_stride
    offsets += image * channels * positions
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    z = (x - mean[:, None]) * (rstd * weight)[:, None] + bias[:, None]
    tl.store(y_ptr + offsets, _activate(z, ACT), mask=mask)


@triton.jit
def channel_sums(
    x_ptr,
    gradient_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    product_ptr,
    sum_ptr,
    channels,
    positions,
    channel_stride,
    position_stride,
    group_channels,
    chunk,
    ACT: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
    BLOCK_P: tl.constexpr,  # noqa: N803
):
    """Sums the gradient, and gradient times normalised input, per (image, channel, chunk)."""
    start = tl.program_id(0) * chunk
    stop = tl.minimum(start + chunk, positions)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(2).to(tl.int64)
    group = (image * channels + c) // group_channels
    mean = tl.load(mean_ptr + group, mask=c < channels, other=0.0)[:, None]
    rstd = tl.load(rstd_ptr + group, mask=c < channels, other=0.0)[:, None]
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[:, None]
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[:, None]
    x_ptr += image * channels * positions
    gradient_ptr += image * channels * positions
    products = tl.zeros([BLOCK_C], tl.float32)
    sums = tl.zeros([BLOCK_C], tl.float32)
    for first in range(start, stop, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        mask = (c < channels)[:, None] & (p < stop)[None, :]
        offsets = c[:, None] * channel_stride + p[None, :] * position_stride
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        gradient = tl.load(gradient_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        gradient = _gradient_before((x - mean) * (rstd * weight) + bias, gradient, ACT)
        products += tl.sum(tl.where(mask, gradient * ((x - mean) * rstd), 0.0), 1)
        sums += tl.sum(gradient, 1)
    out = (image * channels + c) * tl.num_programs(0) + tl.program_id(0)
    tl.store(product_ptr + out, products, mask=c < channels)
    tl.store(sum_ptr + out, sums, mask=c < channels)


@triton.jit
def group_sums(
    product_ptr,
    sum_ptr,
    weight_ptr,
    group_product_ptr,
    group_sum_ptr,
    chunks,
    groups,
    group_channels,
    elements,
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Computes means of both sums over (image, group), weighted by the channels' scales."""
    group = tl.program_id(0).to(tl.int64)
    parts = group_channels * chunks
    product_ptr += group * parts
    sum_ptr += group * parts
    weight_ptr += group % groups * group_channels
    products = tl.zeros([BLOCK], tl.float32)
    sums = tl.zeros([BLOCK], tl.float32)
    for first in range(0, parts, BLOCK):
        i = first + tl.arange(0, BLOCK)
        weight = tl.load(weight_ptr + i // chunks, mask=i < parts, other=0.0).to(tl.float32)
        products += weight * tl.load(product_ptr + i, mask=i < parts, other=0.0)
        sums += weight * tl.load(sum_ptr + i, mask=i < parts, other=0.0)
    tl.store(group_product_ptr + group, tl.sum(products) / elements)
    tl.store(group_sum_ptr + group, tl.sum(sums) / elements)


@triton.jit
def input_gradient(
    x_ptr,
    gradient_ptr,
    out_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    product_ptr,
    sum_ptr,
    channels,
    positions,
    channel_stride,
    position_stride,
    group_channels,
    ACT: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
    BLOCK_P: tl.constexpr,  # noqa: N803
):
    """Writes the gradient of the input, one tile per program."""
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(2).to(tl.int64)
    group = (image * channels + c) // group_channels
    mean = tl.load(mean_ptr + group, mask=c < channels, other=0.0)[:, None]
    rstd = tl.load(rstd_ptr + group, mask=c < channels, other=0.0)[:, None]
    product = tl.load(product_ptr + group, mask=c < channels, other=0.0)[:, None]
    total = tl.load(sum_ptr + group, mask=c < channels, other=0.0)[:, None]
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[:, None]
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)[:, None]
    mask = (c < channels)[:, None] & (p < positions)[None, :]
    offsets = c[:, None] * channel_stride + p[None, :] * position_stride
    offsets += image * channels * positions
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    gradient = tl.load(gradient_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    gradient = _gradient_before((x - mean) * (rstd * weight) + bias, gradient, ACT)
    gradient = rstd * (gradient * weight - (x - mean) * rstd * product - total)
    tl.store(out_ptr + offsets, gradient, mask=mask)
