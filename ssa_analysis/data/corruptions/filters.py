"""Filters and borders that several corruptions use, on float images ``(n, c, h, w)``.

Borders: ``replicate`` repeats the edge pixel, ``symmetric`` mirrors with the edge pixel twice, ``reflect`` mirrors with the
edge pixel once. All of them reach further than the image where they must, which torch's own padding does not.
"""

from __future__ import annotations

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional as nnf

MATRIX_SIDE = 512  # pixels; up to here a separable filter is faster as a product with a band matrix than as a convolution
FFT_KERNEL = 11  # pixels; from here on a kernel that is not separable is faster by the Fourier transform


def bordered(index: Tensor, size: int, mode: str) -> Tensor:
    """Indices of any value, brought into ``0 .. size - 1`` as the border mode says."""
    if mode == "replicate":
        return index.clamp(0, size - 1)
    once = mode == "reflect"
    if once and size == 1:
        return torch.zeros_like(index)
    period = 2 * size - (2 if once else 0)
    index = index % period
    return torch.minimum(index, period - (0 if once else 1) - index)


def padded(x: Tensor, pad: int, mode: str) -> Tensor:
    """``x`` with ``pad`` more pixels on every side."""
    torch_can = mode == "replicate" or (mode == "reflect" and pad < min(x.shape[-2:]))
    if torch_can and x.is_floating_point():
        return nnf.pad(x, (pad,) * 4, mode=mode)
    rows, columns = (bordered(torch.arange(-pad, size + pad, device=x.device), size, mode) for size in x.shape[-2:])
    return x.index_select(2, rows).index_select(3, columns)


def gaussian_kernel(sigma: float, radius: int, x: Tensor) -> Tensor:
    """``(2 radius + 1,)`` weights that sum to one."""
    grid = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(grid**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _band(kernel: Tensor, size: int, mode: str) -> Tensor:
    """``(size, size)`` matrix of a correlation with ``kernel``, the border folded in."""
    radius = len(kernel) // 2
    index = torch.arange(size, device=kernel.device)[:, None] + torch.arange(-radius, radius + 1, device=kernel.device)
    return kernel.new_zeros(size, size).scatter_add_(1, bordered(index, size, mode), kernel.expand(size, -1))


def separable(x: Tensor, kernel: Tensor, mode: str) -> Tensor:
    """Correlation with ``kernel (2 r + 1,)`` along the rows and along the columns."""
    n, channels, height, width = x.shape
    if max(height, width) <= MATRIX_SIDE:
        # one product an image and channel, never one over the batch: an image must not depend on its company
        flat = x.reshape(n * channels, height, width)
        down = torch.bmm(_band(kernel, height, mode).expand(len(flat), -1, -1), flat)
        return torch.bmm(down, _band(kernel, width, mode).T.expand(len(flat), -1, -1)).view_as(x)
    weight = kernel.repeat(channels, 1)
    rows = nnf.conv2d(padded(x, len(kernel) // 2, mode), weight[:, None, None, :], groups=channels)
    return nnf.conv2d(rows, weight[:, None, :, None], groups=channels)


def smoothed(x: Tensor, sigma: float, truncate: float, mode: str) -> Tensor:
    """Gaussian blur with the kernel cut at ``truncate`` standard deviations, as scikit-image does it."""
    radius = int(truncate * sigma + 0.5)
    return x if radius == 0 else separable(x, gaussian_kernel(sigma, radius, x), mode)


def correlated(x: Tensor, kernel: Tensor, mode: str) -> Tensor:
    """Correlation with a ``kernel (2 r + 1, 2 r + 1)``."""
    pad, channels, (height, width) = kernel.shape[0] // 2, x.shape[1], x.shape[-2:]
    wide = padded(x, pad, mode)
    if kernel.shape[0] < FFT_KERNEL:
        return nnf.conv2d(wide, kernel.expand(channels, 1, -1, -1).contiguous(), groups=channels)
    size = [next_fast_len(side + 2 * pad, real=True) for side in (height, width)]
    spectrum = torch.fft.rfft2(wide, s=size).mul_(torch.fft.rfft2(kernel.flip((0, 1)), s=size))
    out: Tensor = torch.fft.irfft2(spectrum, s=size)
    return out[..., 2 * pad : 2 * pad + height, 2 * pad : 2 * pad + width]
