"""The contract of every sampler: inherit `SamplerContract`, say how to make one, run pytest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mlsysopt.core.seeds import seed_sequence
from mlsysopt.core.space import Bool, Choice, Float, Int, Permutation, Space

__all__ = ["SamplerContract", "suggest"]

Config = Mapping[str, Any]


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Ask a trial for one parameter through Optuna's public methods."""
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution():
            return trial.suggest_int(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case FloatDistribution():
            return trial.suggest_float(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case _:
            raise AssertionError(f"{name}: unknown distribution {distribution}")


class SamplerContract:
    """What a study relies on.

    A subclass implements `make_sampler`. A slow sampler lowers `trials`; one that cannot learn, such
    as random search, sets `learns` to False.
    """

    trials: int = 24
    learns: bool = True
    learning_trials: int = 30
    learning_seeds: tuple[int, ...] = (1, 2)

    def make_sampler(self, space: Space, seed: int) -> optuna.samplers.BaseSampler:
        """Return a new sampler that proposes valid configurations of a space."""
        raise AssertionError("a subclass of SamplerContract defines make_sampler")

    def test_respects_constraints_and_conditions(self) -> None:
        space = _knotted()
        study = self._study(space, seed=1)
        for _ in range(self.trials):
            trial, config = _ask(study, space)
            assert space.violations(config) == []
            assert set(config) == set(space.active(config))
            _tell(study, space, trial, config, _value(config))
        assert len(study.trials) == self.trials

    def test_values_are_plain_python(self) -> None:
        space = _knotted()
        study = self._study(space, seed=2)
        for _ in range(min(12, self.trials)):
            trial, config = _ask(study, space)
            for value in (*config.values(), *trial.params.values()):
                assert type(value) in (bool, int, float, str, tuple), f"{value!r} is a {type(value)}"
            assert json.loads(json.dumps(trial.params)) == trial.params
            assert space.from_params(trial.params) == config
            _tell(study, space, trial, config, _value(config))

    def test_learns_from_failures(self) -> None:
        """Half the space fails; later proposals must fall there less often than chance would."""
        if not self.learns:
            pytest.skip("this sampler does not claim to learn")
        space = Space([Float("x", 0.0, 1.0, default=0.25), Float("y", 0.0, 1.0), Int("z", 1, 64, log=True)])
        late, failed = 0, 0
        for seed in self.learning_seeds:
            study = self._study(space, seed=seed)
            worst = 0.0
            for number in range(self.learning_trials):
                trial, config = _ask(study, space)
                fails = config["x"] > 0.5
                value = worst if fails else -((config["y"] - 0.6) ** 2)
                worst = min(worst, value)
                _tell(study, space, trial, config, value, fails=fails)
                if number >= self.learning_trials * 3 // 5:
                    late += 1
                    failed += fails
        assert failed <= late / 3, f"{failed} of the {late} late proposals fell into the half that fails"

    def test_survives_resume(self) -> None:
        """A sampler rebuilt on a stored study goes on: valid, and without a point that is there."""
        space = _knotted()
        # A real database, so that attributes come back as JSON has them, without the price of a disk.
        storage = optuna.storages.RDBStorage("sqlite:///:memory:")
        count = min(10, self.trials)
        study = self._study(space, seed=1, storage=storage, name="resumed")
        for _ in range(count):
            trial, config = _ask(study, space)
            _tell(study, space, trial, config, _value(config))
        again = optuna.load_study(study_name="resumed", storage=storage, sampler=self.make_sampler(space, 1))
        for _ in range(count // 2):
            trial, config = _ask(again, space)
            assert space.violations(config) == []
            _tell(again, space, trial, config, _value(config))
        keys = [space.canonical(space.from_params(trial.params)) for trial in again.trials]
        storage.remove_session()
        storage.engine.dispose()
        assert len(keys) == count + count // 2
        assert len(set(keys)) == len(keys), "a resumed sampler proposed a point again"

    def test_two_workers_never_propose_the_same_point(self) -> None:
        space = Space([Int("a", 1, 6), Int("b", 1, 6), Choice("c", ("u", "v"))], constraints=["a * b <= 30"])
        storage = optuna.storages.InMemoryStorage()
        workers = [
            self._study(space, seed=int(seed_sequence(7, worker).generate_state(1)[0]), storage=storage, name="shared")
            for worker in range(2)
        ]
        seen: list[str] = []
        for _ in range(min(10, self.trials)):
            # Both trials run at the same time, so neither has a value when the other is chosen.
            asked = [(study, *_ask(study, space)) for study in workers]
            for study, trial, config in asked:
                seen.append(space.canonical(config))
                _tell(study, space, trial, config, float(config["a"] - config["b"]))
        assert len(set(seen)) == len(seen)

    def test_same_seed_same_sequence(self) -> None:
        def sequence(seed: int) -> list[str]:
            space = _knotted()
            study = self._study(space, seed=seed)
            found: list[str] = []
            for _ in range(min(12, self.trials)):
                trial, config = _ask(study, space)
                found.append(space.canonical(config))
                _tell(study, space, trial, config, _value(config))
            return found

        first = sequence(5)
        assert sequence(5) == first

    def test_works_in_plain_optuna(self) -> None:
        """An objective that knows nothing of us, and one parameter that the space does not know."""
        space = Space(
            [Float("x", -1.0, 1.0), Int("n", 1, 8), Choice("kind", ("u", "v"))], constraints=["n <= 4 or x < 0"]
        )
        asked: list[dict[str, Any]] = []

        def objective(trial: optuna.Trial) -> float:
            x = trial.suggest_float("x", -1.0, 1.0)
            n = trial.suggest_int("n", 1, 8)
            kind = trial.suggest_categorical("kind", ("u", "v"))
            stranger = trial.suggest_float("stranger", 0.0, 1.0)
            asked.append({"x": x, "n": n, "kind": kind})
            value = -(x**2) - n / 10 - stranger
            trial.set_user_attr("metrics", {"value": value})
            return value

        study = self._study(space, seed=3)
        study.optimize(objective, n_trials=min(10, self.trials))
        assert len(asked) == min(10, self.trials)
        assert all(space.violations(config) == [] for config in asked)

    def _study(
        self, space: Space, *, seed: int, storage: optuna.storages.BaseStorage | None = None, name: str | None = None
    ) -> optuna.Study:
        return optuna.create_study(
            direction="maximize",
            sampler=self.make_sampler(space, seed),
            storage=storage,
            study_name=name,
            load_if_exists=name is not None,
        )


def _knotted() -> Space:
    """Return a small space with one of everything; about one point in twelve of the cube is valid."""
    return Space(
        [
            Int("low", 1, 64, log=True, default=2),
            Int("middle", 1, 64, log=True, default=8),
            Int("high", 1, 64, log=True, default=32),
            Int("buffer", 2**20, 2**28, log=True, default=2**24, unit="B"),
            Int("ahead", 2**16, 2**24, log=True, special=(0,), default=0, unit="B"),
            Float("share", 0.0, 1.0, step=0.1),
            Bool("bloom", default=True),
            Int("bits", 1, 20, default=10),
            Choice("codec", ("none", "fast", 3)),
            Permutation("order", 3),
        ],
        constraints=["low <= middle <= high", "ahead + buffer * max(2, low) <= 256MiB"],
        conditions={"bits": "bloom"},
    )


def _value(config: Config) -> float:
    return -abs(config["share"] - 0.3) - abs(config["low"] - 4) / 10 - (0.0 if config["codec"] == "fast" else 0.5)


def _ask(study: optuna.Study, space: Space) -> tuple[optuna.Trial, dict[str, Any]]:
    trial = study.ask()
    chosen = trial.relative_params
    params = {name: suggest(trial, name, one) for name, one in space.distributions().items() if name in chosen}
    return trial, space.from_params(params)


def _tell(
    study: optuna.Study, space: Space, trial: optuna.Trial, config: Config, value: float, *, fails: bool = False
) -> None:
    """Finish a trial as a study does: a failure has a value and a violated constraint."""
    trial.set_user_attr("config", space.canonical(config))
    trial.set_user_attr("effective", dict(config))
    trial.set_user_attr("state", "crashed" if fails else "valid")
    if not fails:
        trial.set_user_attr("metrics", {"value": value})
        trial.set_user_attr("noise", {"value": 1e-6})
    trial.set_constraint("valid", 1.0 if fails else -1.0)
    study.tell(trial, value)
