"""ResNet-50 with frozen normalisation (He et al., CVPR 2016, in torchvision's layout) and the input levels made from it."""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from annyfit_jax.regressors.aios.aios_config import ResNetConfig
from annyfit_jax.regressors.layers import EPSILON, HE, XAVIER, ZEROS, HostRandom


class Frozen(nnx.Variable):
    """A value that comes with the weights and is never trained."""


class FrozenNorm(nnx.Module):
    """Batch norm with fixed statistics and fixed scale: y = x k + (bias - mean k), k = scale / sqrt(variance + 1e-5)."""

    def __init__(self, channels: int):
        self.scale = Frozen(jnp.ones(channels))
        self.bias = Frozen(jnp.zeros(channels))
        self.mean = Frozen(jnp.zeros(channels))
        self.variance = Frozen(jnp.ones(channels))

    def __call__(self, x: Float[Array, "batch h w channels"]) -> Float[Array, "batch h w channels"]:
        scale, bias, mean, variance = (
            jax.lax.stop_gradient(v[...]) for v in (self.scale, self.bias, self.mean, self.variance)
        )
        factor = scale * jax.lax.rsqrt(variance + EPSILON)
        return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, rngs: HostRandom, dtype: str) -> nnx.Conv:
    """A convolution without bias, padded by half its kernel on every side."""
    return nnx.Conv(
        inputs, outputs, (kernel, kernel), strides=stride, padding=kernel // 2, use_bias=False, rngs=cast(nnx.Rngs, rngs),
        dtype=jnp.dtype(dtype), kernel_init=HE,
    )  # fmt: skip


class Bottleneck(nnx.Module):
    """1x1, 3x3 (with the stride), 1x1, each with its norm, plus the shortcut."""

    def __init__(self, inputs: int, channels: int, stride: int, *, rngs: HostRandom, dtype: str = "float32"):
        outputs = 4 * channels
        self.conv1 = conv(inputs, channels, 1, rngs=rngs, dtype=dtype)
        self.norm1 = FrozenNorm(channels)
        self.conv2 = conv(channels, channels, 3, stride, rngs=rngs, dtype=dtype)
        self.norm2 = FrozenNorm(channels)
        self.conv3 = conv(channels, outputs, 1, rngs=rngs, dtype=dtype)
        self.norm3 = FrozenNorm(outputs)
        self.projected = stride != 1 or inputs != outputs
        if self.projected:
            self.shortcut = conv(inputs, outputs, 1, stride, rngs=rngs, dtype=dtype)
            self.shortcut_norm = FrozenNorm(outputs)

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 outputs"]:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return jax.nn.relu(y + (self.shortcut_norm(self.shortcut(x)) if self.projected else x))


class ResNet(nnx.Module):
    """The feature maps at 1/8, 1/16 and 1/32 of the image. The first convolution is frozen."""

    def __init__(self, config: ResNetConfig, *, rngs: HostRandom, dtype: str = "float32"):
        self.stem = conv(3, config.stem, 7, 2, rngs=rngs, dtype=dtype)
        self.stem_norm = FrozenNorm(config.stem)
        stages, inputs = [], config.stem
        for index, count in enumerate(config.blocks):
            channels = config.stem * 2**index
            blocks = []
            for block in range(count):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(Bottleneck(inputs, channels, stride, rngs=rngs, dtype=dtype))
                inputs = 4 * channels
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.dtype = dtype

    def __call__(self, images: Float[Array, "batch H W 3"]) -> list[Float[Array, "batch _ _ _"]]:
        x = images.astype(self.dtype)
        kernel = jax.lax.stop_gradient(self.stem.kernel[...]).astype(x.dtype)
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(self.stem_norm(x))
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            features.append(x)
        return features[1:]


class InputProjection(nnx.Module):
    """A convolution with bias and a group norm: one input level of the encoder."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int, *, rngs: HostRandom, dtype: str = "float32"):
        self.conv = nnx.Conv(
            inputs, width, (kernel, kernel), strides=stride, padding=kernel // 2, rngs=cast(nnx.Rngs, rngs),
            dtype=jnp.dtype(dtype), kernel_init=XAVIER, bias_init=ZEROS,
        )  # fmt: skip
        self.norm = nnx.GroupNorm(
            width, num_groups=32, epsilon=EPSILON, use_fast_variance=False, rngs=cast(nnx.Rngs, rngs), dtype=jnp.float32
        )

    def __call__(self, x: Float[Array, "batch h w inputs"]) -> Float[Array, "batch h2 w2 width"]:
        return self.norm(self.conv(x))


class InputLevels(nnx.Module):
    """Four levels from three feature maps: 1/8, 1/16, 1/32 and, by a strided convolution of the last, 1/64."""

    def __init__(self, config: ResNetConfig, width: int, *, rngs: HostRandom, dtype: str = "float32"):
        channels = [4 * config.stem * 2**k for k in (1, 2, 3)]
        self.projections = nnx.List(
            [InputProjection(c, width, 1, 1, rngs=rngs, dtype=dtype) for c in channels]
            + [InputProjection(channels[-1], width, 3, 2, rngs=rngs, dtype=dtype)]
        )

    def __call__(self, features: list[Float[Array, "batch _ _ _"]]) -> list[Float[Array, "batch _ _ width"]]:
        return [projection(x) for projection, x in zip(self.projections, [*features, features[-1]])]
