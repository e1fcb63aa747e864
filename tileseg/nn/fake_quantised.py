"""Convolutions that compute in float32 what static int8 would give, so that weights learn to live with it.

Quantisation-aware training (Jacob et al., 2018, arXiv:1712.05877). Rounding passes gradients straight through (Bengio
et al., 2013, arXiv:1308.3432), by Keras's own operation; the ranges of values follow what is seen in training. Numbers
of bits are those of :mod:`tileseg.nn.onnx_quantise`: values of 8, kernels of 7 per channel. Keras's own ``quantize`` is
for finished models, and TensorFlow's toolkit for this has no Keras 3.
"""

from __future__ import annotations

from typing import Any

from tileseg.nn.backend import keras

ops = keras.ops

_VALUE_BITS, _KERNEL_BITS = 8, 7
_MOMENTUM = 0.95
"""How slowly the range of values follows."""


class _FakeQuantised(keras.layers.Layer):
    """What the layers below share: the range of their input, in two weights that come after their own."""

    def build(self, input_shape: Any) -> None:
        """Make the weights."""
        super().build(input_shape)
        self.low, self.high = (
            self.add_weight(name=name, shape=(), initializer="zeros", trainable=False, aggregation="mean")
            for name in ("low", "high")
        )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Round the input to what 256 steps of its range tell apart; kernels are rounded where they are asked for."""
        least, most = ops.minimum(ops.min(inputs), 0.0), ops.maximum(ops.max(inputs), 1e-6)  # 0 is what padding needs
        begun = self.high > self.low
        low = ops.where(begun, self.low, least)
        high = ops.where(begun, self.high, most)
        if training:
            low, high = (_MOMENTUM * kept + (1 - _MOMENTUM) * found for kept, found in ((low, least), (high, most)))
            self.low.assign(low)
            self.high.assign(high)
        return super().call(keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high, _VALUE_BITS))


def _rounded(kernel: Any, axis: int) -> Any:
    """A kernel with the steps of int8, symmetric in each channel along ``axis``."""
    over = [i for i in range(len(kernel.shape)) if i != axis]
    most = ops.stop_gradient(ops.maximum(ops.max(ops.abs(kernel), axis=over), 1e-12))
    rounded = keras.quantizers.fake_quant_with_min_max_vars
    return rounded(kernel, -most, most, _KERNEL_BITS, narrow_range=True, axis=axis)


class _Kernel:
    """A kernel of a layer, rounded whenever it is read; the axis of its channels."""

    def __init__(self, axis: int) -> None:
        self._axis = axis

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{name}_in_float32"

    def __get__(self, layer: Any, owner: type) -> Any:
        return self if layer is None else _rounded(getattr(layer, self._name), self._axis)

    def __set__(self, layer: Any, kernel: Any) -> None:
        setattr(layer, self._name, kernel)


class _Conv2D(_FakeQuantised, keras.layers.Conv2D):
    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, _rounded(kernel, 3))


class _Conv2DTranspose(_FakeQuantised, keras.layers.Conv2DTranspose):
    kernel = _Kernel(2)


class _DepthwiseConv2D(_FakeQuantised, keras.layers.DepthwiseConv2D):
    kernel = _Kernel(2)


class _SeparableConv2D(_FakeQuantised, keras.layers.SeparableConv2D):
    depthwise_kernel = _Kernel(2)
    pointwise_kernel = _Kernel(3)


_KINDS = {
    keras.layers.Conv2D: _Conv2D,
    keras.layers.Conv2DTranspose: _Conv2DTranspose,
    keras.layers.DepthwiseConv2D: _DepthwiseConv2D,
    keras.layers.SeparableConv2D: _SeparableConv2D,
}


def fake_quantised_kind(layer: Any) -> type | None:
    """What a layer is made again as, to learn with rounded values and kernels; None: nothing of it is rounded."""
    return _KINDS.get(type(layer))
