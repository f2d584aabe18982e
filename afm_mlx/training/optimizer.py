"""The update rules of pre-training: AFM's own, AdamW and Muon, as functions of explicit state.

All begin alike: a gradient whose norm over all parameters is not finite, or `skip_norm` or more,
changes nothing; one whose norm is above `clip_norm` is scaled down to it. Tensors with `Rates` of
their own, such as scores, have a norm of their own: that of the weights is clipped without them,
and theirs at `clip_norm`, however large it is. All end alike:

    theta <- theta - s * (eta * c * direction + decay * theta)

eta is the peak learning rate, s the schedule (0 to 1), c the width multiplier of the tensor. The
directions, with b1 = `update_decay`, b2 = `square_decay`, t = steps that changed something:

    afm     v <- b2 v + (1 - b2) (g^2 + eps);  u = g / sqrt(v / (1 - b2^t));
            u <- u / max(1, rms(u) / block_clip);  m <- b1 m + (1 - b1) u;  direction = m
    adamw   m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
            direction = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
    muon    m <- b1 m + g;  direction = the orthogonalized g + b1 m (see `muon.py`), for the
            matrices of the blocks; the rest goes by adamw

`decay` is `weight_decay` in afm, which holds it apart from eta; it is `eta * weight_decay` in the
other two, as is usual there. It applies to all parameters, and c does not touch it.

An update is passes over memory. So the state holds plain sums, m / (1 - b1) and v / (1 - b2)
without eps, and everything that is the same for a whole tensor is gathered in its scalars.

Sources. afm: arXiv:2407.21075 and `adastar_optimizer` of apple/axlearn. adamw: arXiv:1711.05101.
c: arXiv:2309.14322, section 3.2.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf, log
from types import MappingProxyType
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path, tree_unflatten

from afm_mlx.compat import on_gpu
from afm_mlx.settings.sections import Optimizer, OptimizerName
from afm_mlx.training.muon import muon_direction
from afm_mlx.training.sharding import WHOLE, Layout

# Layers of a block that get the width multiplier, and Muon.
BLOCK_LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

# Least that adamw divides by. Gradients below it have squares that float32 rounds to nothing, and
# with a tiny eps they would move a weight a million times too far.
LEAST_ROOT = 2.0**-63

# A tensor's squares are added up in this many pieces, or fewer; a power of 2.
MOST_PIECES = 1_024


@dataclass(frozen=True)
class Rates:
    """How tensors that are no weights of the decoder are trained, such as scores."""

    lr_factor: float
    """Learning rate, as a multiple of that of the weights; takes the place of c."""
    weight_decay: float
    """Decoupled decay per step at the peak of the schedule."""


@dataclass(frozen=True)
class _Step:
    """What all tensors share in one step: float32 scalars, except `applied`."""

    applied: mx.array  # bool, False for a step that is skipped
    clip: mx.array  # factor of the gradient; 0 in a skipped step
    keep_update: mx.array  # b1; 1 in a skipped step
    keep_square: mx.array  # b2; 1 in a skipped step
    update_mass: mx.array  # (1 - b1^t) / (1 - b1)
    square_mass: mx.array  # (1 - b2^t) / (1 - b2)
    schedule: mx.array  # s; 0 in a skipped step
    rate: mx.array  # s * eta; 0 in a skipped step
    shrink: mx.array  # 1 - s * decay; 1 in a skipped step


class UpdateRule:
    """One of the update rules above. Holds settings only; the state is the caller's."""

    def __init__(
        self,
        settings: Optimizer,
        *,
        hidden_size: int,
        rates: Mapping[str, Rates] = MappingProxyType({}),
    ) -> None:
        """A rule for a model of width `hidden_size`, which decides the width multiplier.

        `rates` are those of tensors apart from the decoder, by the last but one name of their path:
        "scores" for "scores.3".
        """
        self.settings, self.rates = settings, rates
        self.width_multiplier = min(settings.mup_base_width / hidden_size, 1.0)

    def init(self, params: Any) -> dict[str, Any]:
        """State before the first step, for a tree of float32 parameters.

        "step" is a uint32 scalar, the steps that changed something. "momentum" and "square" are
        trees of float32 like `params`; with muon, "square" lacks the matrices of the blocks. The
        state is whole: saved and restored with `tree_flatten`, it goes on with the same bits.
        """
        flat = _flat(params)
        squares = {path: param for path, param in flat.items() if not self._is_muon(path, param)}
        return {
            "step": mx.array(0, mx.uint32),
            "momentum": _zeros(flat),
            "square": _zeros(squares),
        }

    def multiplier(self, path: str) -> float:
        """Width multiplier c of the parameter at `path`, such as "model.norm.weight".

        `mup_base_width` / `hidden_size`, at most 1, for the linear layers of the blocks and for an
        output layer of its own; 1 for the embedding, also where it is the output layer, and for
        gains. (AX has no untied models. Its source scales every linear layer by its inputs.)
        """
        if (special := self.rates.get(_layer(path))) is not None:
            return special.lr_factor
        scaled = _layer(path) in BLOCK_LINEARS | {"lm_head"}
        return self.width_multiplier if scaled else 1.0

    def update(
        self,
        params: Any,
        grads: Any,
        state: dict[str, Any],
        *,
        lr: float | mx.array,
        schedule: float | mx.array,
        weight_decay: float,
        layout: Layout = WHOLE,
    ) -> tuple[Any, dict[str, Any], dict[str, mx.array]]:
        """Parameters and state after one step, and numbers about it. Lazy, and it may be compiled.

        Args:
            params: tree of float32 parameters.
            grads: tree like `params`, gradient of the mean loss of a token.
            state: what `init` or the last `update` gave.
            lr: peak learning rate.
            schedule: share of it at this step, 0 to 1.
            weight_decay: decoupled decay per step at the peak of the schedule.
            layout: which of the tensors are parts, the rest of which is on other ranks. Norms are
                those of the whole tensors.

        Returns:
            Parameters and state, in the form they came in, and {"grad_norm": of the gradient
            before clipping, "skipped": 1 where the step changed nothing, else 0}; with `rates`,
            "NAME_grad_norm" of those tensors, which "grad_norm" leaves out.
        """
        gradients = {path: grad.astype(mx.float32) for path, grad in _flat(grads).items()}
        # The gradient of a score is divided by the temperature, and has nothing to do with the size
        # of a weight's. In one norm, either could scale the other down, or have the step skipped.
        lengths = layout.sums({path: _sum_of_squares(grad) for path, grad in gradients.items()})
        norm = _norm(each for path, each in lengths.items() if _layer(path) not in self.rates)
        apart = {
            name: _norm(each for path, each in lengths.items() if _layer(path) == name)
            for name in self.rates
        }
        usual = self._step(state["step"], norm, apart.values(), lr, schedule, weight_decay)
        momenta, squares = _flat(state["momentum"]), _flat(state["square"])
        flat = _flat(params)
        steps = {path: self._step_of(path, usual, apart) for path in flat}
        directions: dict[str, mx.array] = {}
        if self.settings.name is OptimizerName.AFM:
            for path in flat:
                directions[path], squares[path] = self._afm_direction(
                    gradients[path], squares[path], steps[path]
                )
        lengths = layout.sums({path: _sum_of_squares(each) for path, each in directions.items()})
        updated: dict[str, mx.array] = {}
        for path, param in flat.items():
            step = steps[path]
            rate = step.rate * self.multiplier(path)
            if self._is_muon(path, param):
                momenta[path], ahead = self._muon_momentum(gradients[path], momenta[path], step)
                direction = muon_direction(layout.whole_of(path, ahead))
                updated[path] = step.shrink * param - rate * layout.part_of(path, direction)
            elif path in directions:
                mean_square = lengths[path] / layout.size(path, param)
                updated[path], momenta[path] = self._afm(
                    param, directions[path], mean_square, momenta[path], step, rate
                )
            else:
                updated[path], momenta[path], squares[path] = self._adamw(
                    param, gradients[path], momenta[path], squares[path], step, rate
                )
        new_state = {
            "step": state["step"] + usual.applied.astype(mx.uint32),
            "momentum": _like(state["momentum"], momenta),
            "square": _like(state["square"], squares),
        }
        stats = {"grad_norm": norm, "skipped": 1.0 - usual.applied.astype(mx.float32)}
        stats |= {f"{name}_grad_norm": value for name, value in apart.items()}
        return _like(params, updated), new_state, stats

    def _is_muon(self, path: str, param: mx.array) -> bool:
        is_muon = self.settings.name is OptimizerName.MUON
        return is_muon and _layer(path) in BLOCK_LINEARS and param.ndim == 2

    def _step(
        self,
        step: mx.array,
        norm: mx.array,
        apart: Iterable[mx.array],
        lr: float | mx.array,
        schedule: float | mx.array,
        weight_decay: float,
    ) -> _Step:
        settings = self.settings
        applied = norm < settings.skip_norm  # False for NaN
        for other in apart:
            applied = mx.logical_and(applied, mx.isfinite(other))
        decay = weight_decay if settings.name is OptimizerName.AFM else lr * weight_decay

        def unless_skipped(value: float | mx.array, otherwise: float) -> mx.array:
            return mx.where(applied, value, otherwise)

        return _Step(
            applied=applied,
            clip=self._clip(norm, applied),
            keep_update=unless_skipped(settings.update_decay, 1.0),
            keep_square=unless_skipped(settings.square_decay, 1.0),
            update_mass=_mass(settings.update_decay, step),
            square_mass=_mass(settings.square_decay, step),
            schedule=unless_skipped(schedule, 0.0),
            rate=unless_skipped(schedule * lr, 0.0),
            shrink=unless_skipped(1.0 - schedule * decay, 1.0),
        )

    def _clip(self, norm: mx.array, applied: mx.array) -> mx.array:
        return mx.where(applied, mx.minimum(self.settings.clip_norm / norm, 1.0), 0.0)

    def _step_of(self, path: str, usual: _Step, apart: Mapping[str, mx.array]) -> _Step:
        """The step as the tensor at `path` takes it."""
        if (special := self.rates.get(_layer(path))) is None:
            return usual
        return replace(
            usual,
            clip=self._clip(apart[_layer(path)], usual.applied),
            shrink=1.0 - usual.schedule * special.weight_decay,
        )

    def _afm_direction(
        self, gradient: mx.array, square: mx.array, step: _Step
    ) -> tuple[mx.array, mx.array]:
        """What u is a multiple of, and the new square."""
        gradient = mx.where(step.applied, gradient, 0.0)
        square = step.keep_square * square + mx.square(step.clip) * mx.square(gradient)
        # The sum of eps so far belongs to the square, and is the same for all its entries.
        return gradient / mx.sqrt(square + self.settings.eps * step.square_mass), square

    def _afm(
        self,
        param: mx.array,
        direction: mx.array,
        mean_square: mx.array,
        momentum: mx.array,
        step: _Step,
        rate: mx.array,
    ) -> tuple[mx.array, mx.array]:
        settings = self.settings
        # u is `scale * direction`, whose mean square is that of the whole tensor.
        scale = step.clip * mx.sqrt(step.square_mass)
        rms = scale * mx.sqrt(mean_square)
        scale = scale / mx.maximum(rms / settings.block_clip, 1.0)
        momentum = step.keep_update * momentum + scale * direction
        rate = rate * (1 - settings.update_decay)
        return step.shrink * param - rate * momentum, momentum

    def _adamw(
        self,
        param: mx.array,
        gradient: mx.array,
        momentum: mx.array,
        square: mx.array,
        step: _Step,
        rate: mx.array,
    ) -> tuple[mx.array, mx.array, mx.array]:
        gradient = step.clip * mx.where(step.applied, gradient, 0.0)
        momentum = step.keep_update * momentum + gradient
        square = step.keep_square * square + mx.square(gradient)
        root_mass = mx.sqrt(step.square_mass)
        least = mx.maximum(self.settings.eps * root_mass, LEAST_ROOT)
        rate = rate * root_mass / step.update_mass
        param = step.shrink * param - rate * (momentum / (mx.sqrt(square) + least))
        return param, momentum, square

    def _muon_momentum(
        self, gradient: mx.array, momentum: mx.array, step: _Step
    ) -> tuple[mx.array, mx.array]:
        """The new momentum, and what is to be orthogonalized."""
        gradient = step.clip * mx.where(step.applied, gradient, 0.0)
        momentum = step.keep_update * momentum + gradient
        return momentum, gradient + self.settings.update_decay * momentum


def _mass(decay: float, step: mx.array) -> mx.array:
    """Sum of `decay**i` for i from 0 to `step`, so 1 at the first step."""
    logarithm = log(decay) if decay else -inf
    count = step.astype(mx.float32) + 1.0
    return -mx.expm1(count * logarithm) / (1 - decay)  # 1 - decay**count loses digits near 1


def _norm(sums_of_squares: Iterable[mx.array]) -> mx.array:
    return mx.sqrt(sum(sums_of_squares, start=mx.array(0.0)))


def _sum_of_squares(x: mx.array) -> mx.array:
    if on_gpu():
        return mx.sum(mx.square(x))
    # On the CPU `mx.sum` adds all up in one chain: 4 million squares came out wrong by 0.4 %. The
    # BLAS, in pieces, is exact to 1e-6 and four times faster.
    pieces = 1
    while pieces < MOST_PIECES and x.size % (2 * pieces) == 0:
        pieces *= 2
    rows = x.reshape(pieces, 1, -1)
    return mx.sum(rows @ rows.swapaxes(1, 2))


def _layer(path: str) -> str:
    """The last but one name: "q_proj" of "model.layers.0.self_attn.q_proj.weight"."""
    return "".join(path.split(".")[-2:-1])


def _flat(tree: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(tree))


def _like(tree: Any, flat: dict[str, mx.array]) -> Any:
    return tree_map_with_path(lambda path, _: flat[path], tree)


def _zeros(flat: dict[str, mx.array]) -> Any:
    zeros = {path: mx.zeros(param.shape, mx.float32) for path, param in flat.items()}
    return tree_unflatten(list(zeros.items()))
