"""The contract of every trainer record: inherit `TrainerContract`, name the record, run pytest."""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import Any, ClassVar

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import pytest

from mlsysopt.core.errors import UsageError
from mlsysopt.train.estimate import Ratings, Tracker, TrainerRecord, TrainingStopped, synthetic
from mlsysopt.train.estimate.host import Host, Job, Reading
from mlsysopt.train.estimate.memory import arrays
from mlsysopt.train.estimate.sampling import levels, subset
from mlsysopt.train.estimate.terms import Terms

__all__ = ["TrainerContract"]


class TrainerContract:
    """What forecasts rely on; a subclass implements `make_record`.

    Attributes:
        params: Hyper-parameters of the trainings, small enough for a test.
        slack_bytes: What training may allocate beyond its formula: allocators round, libraries load late.
    """

    params: ClassVar[dict[str, Any]] = {}
    slack_bytes: ClassVar[int] = 3 * 2**20

    def make_record(self) -> TrainerRecord:
        """Return the record, not settled."""
        raise AssertionError("a subclass of TrainerContract defines make_record")

    @pytest.fixture
    def record(self) -> TrainerRecord:
        return self.make_record().settled(self.params, self.data(50))

    @staticmethod
    def data(users: int) -> Ratings:
        """Return ratings of so many users, the same for the same number."""
        return synthetic.ratings(
            "lognormal", "zipf0.7", n_users=users, n_items=max(40, users // 3), n_ratings=12 * users, seed=users
        )

    def fed(self, record: TrainerRecord, ratings: Ratings) -> Any:
        """Return what `fit` is given."""
        if record.data == "trainset":
            return ratings.trainset()
        return ratings.csr() if record.data == "csr" else ratings

    def test_every_symbol_is_a_characteristic_or_a_hyper_parameter(self, record: TrainerRecord) -> None:
        Terms([*record.time, record.memory, record.stays], params=list(record.params))
        assert "1" in record.time

    def test_terms_are_not_negative_and_grow_with_the_ratings(self, record: TrainerRecord) -> None:
        full = self.data(400)
        small = subset(full, record.side, 0.3, seed=1)
        terms = Terms(record.time)
        columns = [
            terms.columns(part.characteristics.with_walk(Wu=1e-8 * len(part), Wi=1e-8 * len(part)), record.params)
            for part in (small, full)
        ]
        assert np.all(columns[0] >= 0)
        assert np.all(columns[1] >= columns[0])
        assert np.any(columns[1] > columns[0])

    def test_an_unknown_hyper_parameter_is_refused_with_what_is_known(self, record: TrainerRecord) -> None:
        with pytest.raises(UsageError, match="no hyper-parameter 'n_facters'"):
            self.make_record().settled({"n_facters": 3})

    def test_settling_twice_changes_nothing(self, record: TrainerRecord) -> None:
        again = record.settled(ratings=self.data(50))
        assert (again.time, again.memory, again.side, again.params) == (
            record.time,
            record.memory,
            record.side,
            record.params,
        )

    def test_samples_vary_every_hyper_parameter_of_the_terms(self, record: TrainerRecord) -> None:
        for name, values in levels(record).items():
            assert len(values) >= 2 or record.params[name] == 1, name

    def test_can_be_sent_to_another_process(self, record: TrainerRecord) -> None:
        copy = pickle.loads(cloudpickle.dumps(record))  # pyright: ignore[reportUnknownMemberType]
        assert copy.time == record.time and copy.params == record.params

    def test_trains_in_a_sample_within_its_memory_formula(self, record: TrainerRecord) -> None:
        with Host(modules=record.modules) as host:
            few = self.ask(host, record, self.data(50))
            many = self.data(1500)
            larger = self.make_record().settled(self.params, many)
            reading = self.ask(host, larger, many)
        assert few.cpu_s > 0 and few.wall_s > 0 and few.repeats >= 1
        assert set(few.walks) == set(record.walks)
        formula = sum(arrays(larger, many.characteristics).values())
        assert reading.growth_bytes <= 1.1 * formula + self.slack_bytes

    def test_tells_its_epochs_and_stops_when_asked(self, record: TrainerRecord) -> None:
        if record.events not in ("lines", "callback") or record.epochs is None:
            pytest.skip(f"{record.name} tells no epochs")
        data, more = self.fed(record, self.data(50)), 6
        params: dict[str, Any] = {**record.params, record.epochs: more}
        with contextlib.redirect_stdout(io.StringIO()), self.tracker(record, more) as tracker:
            record.fit(data, **params, **self.listening(record, tracker))
        assert tracker.done >= more - 1
        with (
            contextlib.redirect_stdout(io.StringIO()),
            pytest.raises(TrainingStopped, match="ended after"),
            self.tracker(record, more) as stopped,
        ):
            stopped.stop("enough")
            record.fit(data, **params, **self.listening(record, stopped))
        assert stopped.done <= 1

    @staticmethod
    def tracker(record: TrainerRecord, epochs: int) -> Tracker:
        """Return a tracker that knows nothing but the number of epochs."""
        return Tracker(epochs=epochs, epoch_s=0.01, line=record.line if record.events == "lines" else "")

    @staticmethod
    def listening(record: TrainerRecord, tracker: Tracker) -> dict[str, Any]:
        """Return what makes `fit` tell its epochs."""
        return {"verbose": True} if record.events == "lines" else {"callback": tracker.callback}

    @staticmethod
    def ask(host: Host, record: TrainerRecord, ratings: Ratings) -> Reading:
        """Train once in a sample."""
        path = host.keep(ratings)
        found = host.ask(Job(path, record, dict(record.params), walks=record.walks, data=record.data))
        host.forget(path)
        assert isinstance(found, Reading), found
        return found
