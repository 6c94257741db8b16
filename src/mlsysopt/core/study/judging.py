"""One verification of a study: on record before its first round, and gone on with when it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlsysopt.core.measure import is_quiet
from mlsysopt.core.processes.identity import this_process
from mlsysopt.core.seeds import seed_sequence
from mlsysopt.core.space import Space
from mlsysopt.core.study import unfinished
from mlsysopt.core.study.events import Event, Listener
from mlsysopt.core.study.measuring import Measurer
from mlsysopt.core.study.opening import Opened
from mlsysopt.core.study.rating import Rating
from mlsysopt.core.study.result import Candidate
from mlsysopt.core.study.trials import TrialView
from mlsysopt.core.study.verification import Verifier

__all__ = ["Verification"]


@dataclass(frozen=True, slots=True)
class Verification:
    """Verifies candidates of a study that is open.

    Args:
        study: Its name.
        seed: Its seed.
        space: What may be chosen.
        opened: What it holds open.
        rating: Objectives and guards.
        measurer: Measures on the file system that the user will run on.
        tell_listener: Is told of every round.
    """

    study: str
    seed: int
    space: Space
    opened: Opened
    rating: Rating
    measurer: Measurer
    tell_listener: Listener

    def run(
        self,
        candidates: Sequence[TrialView],
        top: int,
        looks: Sequence[int],
        seconds: float | None,
        budget: str | None = None,
    ) -> list[Candidate]:
        """Verify candidates, together or in order, going on with rounds that a stopped attempt has finished.

        Args:
            candidates: In the order in which they are tested.
            top: How many of them are verified together; 1 tests them one after the other.
            looks: Rounds after which it may stop.
            seconds: Time for one comparison; None means the looks alone decide.
            budget: Budget that the search before it used up.
        """
        opened = self.opened
        # The slot is held from the look at what is left open: two processes never take over the same rounds.
        with self.measurer.exclusive():
            record, again = unfinished.enter(
                opened.optuna,
                opened.worker,
                self._plan(candidates, top, looks),
                begin=lambda: (self._seed(), is_quiet()),
                budget=budget,
            )
            rows = opened.store.measurements(self.study, role="verify") if again else []
            if again:
                text = "going on with the verification that was stopped: its finished rounds are kept"
                self.tell_listener(Event("note", text))
            verifier = Verifier(
                rating=self.rating,
                measurer=self.measurer,
                seed=record.seed,
                tell_listener=self.tell_listener,
                both_clocks=record.both_clocks,
                finished=unfinished.FinishedRounds(rows),
                looks=looks,
                max_seconds=seconds,
            )
            return verifier.together(candidates[:top]) if top > 1 else verifier.in_order(candidates)

    def _plan(self, candidates: Sequence[TrialView], top: int, looks: Sequence[int]) -> unfinished.Plan:
        """Return what makes a verification the same one."""
        return unfinished.Plan(
            candidates=tuple((view.number, self.space.canonical(view.config)) for view in candidates),
            together=top,
            looks=tuple(looks),
            objectives=tuple(objective.told for objective in self.opened.objectives),
            guards=tuple(guard.text() for guard in self.rating.guards),
            machine=f"{self.opened.store.machine_key} {this_process().host}",
            place=self.measurer.place,
        )

    def _seed(self) -> int:
        """Return a seed that no trial and no earlier verification of this study has used."""
        rows = len(self.opened.store.measurements(self.study, role="verify"))
        return int(seed_sequence(self.seed, self.opened.worker, rows, "verify").generate_state(1)[0])
