"""Adam whose parts learn at rates of their own, and the running mean of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tileseg.nn.backend import compile_update, keras

ops = keras.ops


class PartwiseAdam(keras.optimizers.Adam):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980) with a rate per variable.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter, 2019, arXiv:1711.05101): a share of the weight,
    times the variable's own rate, and for kernels only: shrinking a bias or a normalisation's gain gains nothing.
    """

    def __init__(
        self,
        *,
        rate: float,
        decay: float = 0.0,
        clip: float | None = None,
        accumulate: int = 1,
        share: Callable[[Any], float] | None = None,
    ) -> None:
        """Make it; ``share`` gives a variable's rate in relation to ``rate``, 1 by default."""
        super().__init__(
            learning_rate=rate,
            global_clipnorm=clip,
            gradient_accumulation_steps=accumulate if accumulate > 1 else None,
            name="adam",
        )
        self._decay = decay
        self._share = share or (lambda _: 1.0)
        self._shares: list[float] = []
        self._decays: list[float] = []

    def build(self, variables: Sequence[Any]) -> None:
        """Make the moments, and look up each variable's rate and decay once."""
        if self.built:
            return
        self._shares = [self._share(variable) for variable in variables]
        self._decays = [self._decay if len(variable.shape) > 1 else 0.0 for variable in variables]
        super().build(variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable."""
        index = self._get_variable_index(variable)
        rate = ops.multiply(learning_rate, self._shares[index])
        if self._decays[index]:
            self.assign_sub(variable, ops.multiply(variable, ops.cast(rate * self._decays[index], variable.dtype)))
        super().update_step(gradient, variable, rate)


class RunningMean:
    """Exponential running mean of a model's variables (Polyak and Juditsky, 1992), normalisation statistics too.

    Early on it follows quickly, so that the random start is forgotten: decay min(d, (1 + n) / (10 + n)) at update n.
    """

    def __init__(self, variables: Sequence[Any], decay: float) -> None:
        self.decay = decay
        self._sources = [v for v in variables if v.dtype.startswith(("float", "bfloat"))]
        self.variables = [keras.Variable(v.numpy(), trainable=False, dtype="float32") for v in self._sources]
        self._rest = keras.Variable(0.0, trainable=False, dtype="float32", name="rest")
        self._update = compile_update(self._move)

    def _move(self) -> None:
        for mean, source in zip(self.variables, self._sources, strict=True):
            mean.assign_add((ops.cast(source, "float32") - mean) * self._rest)

    def update(self, updates: int) -> None:
        """Take in the variables after ``updates`` updates."""
        self._rest.assign(1 - min(self.decay, (1 + updates) / (10 + updates)))
        self._update()

    def swap(self) -> None:
        """Exchange means and variables: once to look at the mean model, once more to go on training."""
        for mean, source in zip(self.variables, self._sources, strict=True):
            kept = mean.numpy()
            mean.assign(source.numpy())
            source.assign(kept)
