"""Vision transformers with timm's names, which most self-supervised projects use.

Attention is written out: the fused kernels have no second derivative, which Hessian-vector products need.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, softmax

from ssa_analysis.errors import MeasureError


@dataclass(frozen=True)
class ViTPlan:
    """What a vision transformer is built from (Dosovitskiy et al. 2021).

    Attributes:
        dim, depth, heads, hidden: of the blocks. patch: pixels of a patch's side. grid: patches of a side that the
            position embedding was trained for; it is interpolated for others, as DINO does.
        qkv: ``joint`` (one linear layer ``qkv``) or ``apart`` (``q``, ``k``, ``v``). qkv_bias: whether it has a bias.
        layer_scale: whether each branch has a factor for every channel (DINOv2). registers: further tokens without
            positions. class_position: whether the position embedding has a row for the class token.
        position_offset, position_antialias: of the interpolation of the position embedding, see above; DINOv2 adds 0.1 to
            the number of patches, and its networks with registers interpolate with antialiasing.
        eps: of the LayerNorms. pool: the features are the class token (``cls``) or the mean of the patches (``mean``).
    """

    dim: int
    depth: int
    heads: int
    hidden: int
    patch: int
    grid: int
    qkv: str = "joint"
    qkv_bias: bool = True
    layer_scale: bool = False
    registers: int = 0
    class_position: bool = True
    eps: float = 1e-6
    pool: str = "cls"
    position_offset: float = 0.0
    position_antialias: bool = False


class _Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Attention(nn.Module):
    def __init__(self, plan: ViTPlan) -> None:
        super().__init__()
        dim, self.heads = plan.dim, plan.heads
        if plan.qkv == "joint":
            self.qkv = nn.Linear(dim, 3 * dim, bias=plan.qkv_bias)
        else:
            self.q, self.k, self.v = (nn.Linear(dim, dim, bias=plan.qkv_bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim)
        self.joint = plan.qkv == "joint"

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        parts = self.qkv(x).chunk(3, -1) if self.joint else (self.q(x), self.k(x), self.v(x))
        q, k, v = (part.view(n, tokens, self.heads, -1).transpose(1, 2) for part in parts)
        weights = softmax(q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5, dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, dim))
        return out


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, plan: ViTPlan) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(plan.dim, plan.eps), nn.LayerNorm(plan.dim, plan.eps)
        self.attn, self.mlp = _Attention(plan), _Mlp(plan.dim, plan.hidden)
        self.ls1, self.ls2 = (_Scale(plan.dim) if plan.layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class _Patches(nn.Module):
    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class ViT(nn.Module):
    """``(n, 3, h, w)`` normalised images, sides multiples of the patch, -> features ``(n, dim)``."""

    def __init__(self, plan: ViTPlan) -> None:
        super().__init__()
        self.plan, self.feature_dim = plan, plan.dim
        self.patch_embed = _Patches(plan.patch, plan.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, plan.dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, plan.grid**2 + plan.class_position, plan.dim))
        if plan.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, plan.registers, plan.dim))
        self.blocks = nn.Sequential(*(_Block(plan) for _ in range(plan.depth)))
        self.norm = nn.LayerNorm(plan.dim, plan.eps)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """``(1, rows * columns, dim)`` position embedding of the patches."""
        plan, patches = self.plan, self.pos_embed[:, int(self.plan.class_position) :]
        if (rows, columns) == (plan.grid, plan.grid):
            return patches
        square = patches.reshape(1, plan.grid, plan.grid, plan.dim).permute(0, 3, 1, 2)
        resize = partial(interpolate, square, mode="bicubic", align_corners=False, antialias=plan.position_antialias)
        more = plan.position_offset
        if more:
            resized = resize(scale_factor=((rows + more) / plan.grid, (columns + more) / plan.grid))
        else:
            resized = resize(size=(rows, columns))
        return resized.permute(0, 2, 3, 1).reshape(1, rows * columns, plan.dim)

    def forward(self, x: Tensor) -> Tensor:
        plan = self.plan
        if x.shape[-1] % plan.patch or x.shape[-2] % plan.patch:
            side = plan.grid * plan.patch
            raise MeasureError(
                f"images of {x.shape[-1]} pixels are no multiple of this network's patches of {plan.patch}; "
                f"pass --image-size {side}, which it was trained with"
            )
        maps = self.patch_embed(x)
        patches = maps.flatten(2).transpose(1, 2) + self._positions(*maps.shape[-2:])
        first = self.cls_token + self.pos_embed[:, :1] if plan.class_position else self.cls_token
        tokens = [first.expand(len(x), -1, -1)]
        if plan.registers:
            tokens.append(self.reg_token.expand(len(x), -1, -1))
        out = self.norm(self.blocks(torch.cat([*tokens, patches], 1)))
        features: Tensor = out[:, 0] if plan.pool == "cls" else out[:, 1 + plan.registers :].mean(1)
        return features
