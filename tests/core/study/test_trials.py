"""Trials as the study sees them."""

from __future__ import annotations

import optuna

from mlsysopt.core.study.trials import leader, views


def test_a_trial_whose_outcome_is_written_but_not_told_still_runs() -> None:
    study = optuna.create_study()
    trial = study.ask()
    trial.set_user_attr("state", "valid")
    seen = views(study.get_trials())
    assert [one.state for one in seen] == ["running"]
    assert leader(seen) is None
    study.tell(trial, 0.5)
    assert [one.state for one in views(study.get_trials())] == ["valid"]


def test_a_finished_trial_of_another_program_is_lost_and_a_waiting_one_is_left_out() -> None:
    study = optuna.create_study()
    study.tell(study.ask(), 1.0)
    study.enqueue_trial({})
    assert [one.state for one in views(study.get_trials())] == ["lost"]
