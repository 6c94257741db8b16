"""Actor and critics of 64-64 units, in numpy: forward, backward, Adam, and the updates of DDPG and TD3.

A network this small is bound by the overhead of each call, not by arithmetic: one TD3 update takes about a
quarter of a millisecond here and more than two with torch on one thread, which would also have to be imported.
All parameters of the critics lie in one flat array, so that Adam and the target update are a few calls each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Adam", "Learner", "Nets", "Replay", "Rules", "Variant"]

Floats = NDArray[np.floating[Any]]
"""Single precision throughout."""
Variant = Literal["td3", "ddpg"]

HIDDEN = 64
_BETAS = (0.9, 0.999)
_TINY = 1e-8


class Nets:
    """Several networks of one shape side by side: two hidden layers of rectified units, linear outputs.

    Args:
        count: Number of networks k.
        inputs: Numbers in.
        outputs: Numbers out.
        rng: Draws the weights: uniform within 1/sqrt(fan-in), and within 3e-3 in the last layer, so
            that every untrained answer is near zero (Lillicrap et al. 2016, section 7).
        hidden: Units per layer.
    """

    def __init__(self, count: int, inputs: int, outputs: int, rng: np.random.Generator, *, hidden: int = HIDDEN):
        widths = [inputs, hidden, hidden, outputs]
        self._shapes = list(pairwise(widths))
        self.count = count
        self.flat: Floats = np.zeros(count * sum(a * b + b for a, b in self._shapes), dtype=np.float32)
        self.gradient: Floats = np.zeros_like(self.flat)
        self._layers = self._views(self.flat)
        self._into = self._views(self.gradient)
        for place, (weights, biases) in enumerate(self._layers):
            bound = 3e-3 if place == 2 else 1.0 / np.sqrt(self._shapes[place][0])
            weights[...] = rng.uniform(-bound, bound, weights.shape)
            biases[...] = rng.uniform(-bound, bound, biases.shape)

    def _views(self, flat: Floats) -> list[tuple[Floats, Floats]]:
        """Return weights (k, a, b) and biases (k, 1, b) of each layer as views."""
        found: list[tuple[Floats, Floats]] = []
        start = 0
        for a, b in self._shapes:
            middle = start + self.count * a * b
            stop = middle + self.count * b
            found.append((flat[start:middle].reshape(self.count, a, b), flat[middle:stop].reshape(self.count, 1, b)))
            start = stop
        return found

    def copy(self) -> Nets:
        """Return the same networks with parameters of their own."""
        twin = object.__new__(Nets)
        twin._shapes, twin.count = self._shapes, self.count
        twin.flat, twin.gradient = self.flat.copy(), np.zeros_like(self.flat)
        twin._layers, twin._into = twin._views(twin.flat), twin._views(twin.gradient)
        return twin

    def forward(self, x: Floats) -> tuple[Floats, Sequence[Floats]]:
        """Return the outputs, shape (k, m, outputs), and what `backward` needs.

        Args:
            x: Inputs, shape (m, inputs).
        """
        (w1, b1), (w2, b2), (w3, b3) = self._layers
        first = x @ w1
        first += b1
        np.maximum(first, 0.0, out=first)
        second = first @ w2
        second += b2
        np.maximum(second, 0.0, out=second)
        out = second @ w3
        out += b3
        return out, (x, first, second)

    def backward(self, kept: Sequence[Floats], slope: Floats) -> None:
        """Write the gradient of a loss into `gradient`.

        Args:
            kept: What `forward` kept.
            slope: d loss / d outputs, shape (k, m, outputs).
        """
        x, first, second = kept
        (w1, b1), (w2, b2), (w3, b3) = self._into
        _, (m2, _), (m3, _) = self._layers
        np.matmul(second.transpose(0, 2, 1), slope, out=w3)
        slope.sum(axis=1, keepdims=True, out=b3)
        back = slope @ m3.transpose(0, 2, 1)
        back *= second > 0.0
        np.matmul(first.transpose(0, 2, 1), back, out=w2)
        back.sum(axis=1, keepdims=True, out=b2)
        back = back @ m2.transpose(0, 2, 1)
        back *= first > 0.0
        np.matmul(x.T, back, out=w1)
        back.sum(axis=1, keepdims=True, out=b1)

    def slope_of_inputs(self, kept: Sequence[Floats], slope: Floats, *, net: int = 0) -> Floats:
        """Return d loss / d inputs of one network, shape (m, inputs); the parameters' gradient is left alone.

        Args:
            kept: What `forward` kept.
            slope: d loss / d outputs of that network, shape (m, outputs).
            net: Which network.
        """
        _, first, second = kept
        (m1, _), (m2, _), (m3, _) = self._layers
        back = slope @ m3[net].T
        back *= second[net] > 0.0
        back = back @ m2[net].T
        back *= first[net] > 0.0
        return back @ m1[net].T


class Adam:
    """Adam on one flat array of parameters (Kingma, Ba, ICLR 2015)."""

    def __init__(self, parameters: Floats, rate: float) -> None:
        self._parameters, self._rate = parameters, rate
        self._first, self._second = np.zeros_like(parameters), np.zeros_like(parameters)
        self._buffer = np.zeros_like(parameters)
        self._steps = 0

    def step(self, gradient: Floats) -> None:
        """Move the parameters against a gradient of their shape."""
        self._steps += 1
        slow, slower = _BETAS
        buffer = self._buffer
        self._first *= slow
        np.multiply(gradient, 1.0 - slow, out=buffer)
        self._first += buffer
        self._second *= slower
        np.multiply(gradient, gradient, out=buffer)
        buffer *= 1.0 - slower
        self._second += buffer
        # Both bias corrections in the two numbers of this step, as Kingma and Ba suggest at the end of section 2.
        root = float(np.sqrt(1.0 - slower**self._steps))
        np.sqrt(self._second, out=buffer)
        buffer += _TINY * root
        np.divide(self._first, buffer, out=buffer)
        buffer *= self._rate * root / (1.0 - slow**self._steps)
        self._parameters -= buffer


@dataclass(frozen=True, slots=True)
class Replay:
    """What happened so far, one row per trial.

    Attributes:
        states: What was seen before each trial, shape (n, s).
        actions: What was tried, in [-1, 1], shape (n, d).
        rewards: What it brought, shape (n,).
        following: What was seen after it, shape (n, s).
    """

    states: Floats
    actions: Floats
    rewards: Floats
    following: Floats

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, slots=True)
class Rules:
    """Constants of the updates.

    Attributes:
        variant: "td3" has two critics, smoothed targets and an actor that moves at every second
            update; "ddpg" has one critic and none of these.
        discount: What the next state's value counts, 0 <= discount < 1.
        rate: How fast targets follow.
        actor_rate: Step of the actor's Adam.
        critic_rate: Step of the critics' Adam.
        batch: Rows of an update.
        smoothing: Standard deviation of the noise on target actions.
        smoothing_limit: Largest such noise.
        delay: Updates of the critics per update of the actor.
    """

    variant: Variant = "td3"
    discount: float = 0.9
    rate: float = 0.01
    actor_rate: float = 1e-3
    critic_rate: float = 1e-3
    batch: int = 16
    smoothing: float = 0.2
    smoothing_limit: float = 0.5
    delay: int = 2


class Learner:
    """The networks of one study and their updates.

    Args:
        states: Numbers that describe a state.
        actions: Numbers that describe an action.
        rules: Constants.
        seed: Draws the first weights.
    """

    def __init__(self, states: int, actions: int, rules: Rules, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rules = rules
        self._states = states
        self._twins = rules.variant == "td3"
        self._actor = Nets(1, states, actions, rng)
        self._critics = Nets(2 if self._twins else 1, states + actions, 1, rng)
        self._actor_target, self._critics_target = self._actor.copy(), self._critics.copy()
        self._actor_adam = Adam(self._actor.flat, rules.actor_rate)
        self._critics_adam = Adam(self._critics.flat, rules.critic_rate)
        self._updates = 0

    def act(self, states: Floats) -> Floats:
        """Return the actor's actions, shape (m, d), in (-1, 1).

        Args:
            states: Shape (m, s).
        """
        return np.tanh(self._actor.forward(states)[0][0])

    def values(self, states: Floats, actions: Floats) -> Floats:
        """Return what each critic expects, shape (k, m)."""
        return self._critics.forward(np.concatenate([states, actions], axis=1))[0][:, :, 0]

    def learn(self, replay: Replay, updates: int, rng: np.random.Generator) -> None:
        """Make some updates on batches drawn with replacement."""
        rules = self.rules
        rows = rng.integers(0, len(replay), (updates, rules.batch))
        d = replay.actions.shape[1]
        noise = np.zeros((updates, 1, 1), dtype=np.float32)
        if self._twins:
            drawn = rng.standard_normal((updates, rules.batch, d), dtype=np.float32) * rules.smoothing
            noise = np.clip(drawn, -rules.smoothing_limit, rules.smoothing_limit)
        together = np.concatenate([replay.states, replay.actions], axis=1)
        delay = rules.delay if self._twins else 1
        for k in range(updates):
            chosen = rows[k]
            self._learn_values(together[chosen], replay.rewards[chosen], replay.following[chosen], noise[k])
            self._updates += 1
            if self._updates % delay == 0:
                self._learn_actions(replay.states[chosen])
                self._follow(self._actor_target, self._actor)
                self._follow(self._critics_target, self._critics)

    def _learn_values(self, tried: Floats, rewards: Floats, following: Floats, noise: Floats) -> None:
        """Move the critics towards reward + discount x the (smaller) value of the next state."""
        wanted = rewards
        if self.rules.discount > 0.0:
            action = np.tanh(self._actor_target.forward(following)[0][0])
            if self._twins:
                action += noise
                np.clip(action, -1.0, 1.0, out=action)
            ahead = self._critics_target.forward(np.concatenate([following, action], axis=1))[0]
            wanted = rewards + np.float32(self.rules.discount) * ahead[:, :, 0].min(axis=0)
        value, kept = self._critics.forward(tried)
        value -= wanted[:, None]
        value *= 2.0 / len(wanted)
        self._critics.backward(kept, value)
        self._critics_adam.step(self._critics.gradient)

    def _learn_actions(self, states: Floats) -> None:
        """Move the actor up the first critic."""
        raw, kept = self._actor.forward(states)
        action = np.tanh(raw[0])
        _, seen = self._critics.forward(np.concatenate([states, action], axis=1))
        slope = np.full((len(states), 1), -1.0 / len(states), dtype=np.float32)
        back = self._critics.slope_of_inputs(seen, slope)[:, self._states :]
        self._actor.backward(kept, (back * (1.0 - action * action))[None])
        self._actor_adam.step(self._actor.gradient)

    def _follow(self, target: Nets, source: Nets) -> None:
        target.flat += np.float32(self.rules.rate) * (source.flat - target.flat)
