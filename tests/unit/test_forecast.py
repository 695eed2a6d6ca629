"""The end of a run is predicted within a few percent, on simulated runs whose end is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fastdeit.training.forecast import Forecast


@dataclass(frozen=True)
class Simulated:
    """A run with a known duration of everything."""

    epochs: int = 20
    steps_per_epoch: int = 100
    log_every_steps: int = 10
    compile_s: float = 10.0
    step_s: Callable[[int], float] = lambda _: 0.3
    pause_s: float = 20.0
    tells_evaluations: bool = True

    @property
    def total_steps(self) -> int:
        """Of the run."""
        return self.epochs * self.steps_per_epoch

    def end_s(self, first_step: int, first_s: float) -> float:
        """When a process that begins there ends."""
        return self.run(None, first_step, first_s)

    def run(
        self,
        forecast: Forecast | None,
        first_step: int = 0,
        first_s: float = 0.0,
        until: int | None = None,
    ) -> float:
        """Run, telling `forecast`, until a step was told; return the clock."""
        now = first_s + self.compile_s
        for step in range(first_step + 1, self.total_steps + 1):
            now += self.step_s(step)
            is_end = step % self.steps_per_epoch == 0
            if forecast is not None and (is_end or step % self.log_every_steps == 0):
                forecast.update(step, now)
            if step == until:
                return now
            if is_end:
                now += self.pause_s
                if forecast is not None and self.tells_evaluations:
                    forecast.update(step, now)
        return now

    def error(self, at: int, first_step: int = 0, first_s: float = 0.0) -> float:
        """The error of the time left told at a step, relative to the true time left."""
        forecast = Forecast(self.total_steps, self.steps_per_epoch, first_step, first_s)
        now = self.run(forecast, first_step, first_s, until=at)
        truth = self.end_s(first_step, first_s) - now
        assert forecast.left_s is not None
        assert forecast.ends_at_s == pytest.approx(now + forecast.left_s)
        return forecast.left_s / truth - 1


@pytest.mark.parametrize("at", [150, 250, 1050, 1100, 1110, 1990, 1999, 2000])
@pytest.mark.parametrize("tells_evaluations", [True, False])
def test_a_steady_run(at: int, tells_evaluations: bool) -> None:
    """In the middle and at the edges of epochs, the end is known as well as exactly."""
    run = Simulated(tells_evaluations=tells_evaluations, log_every_steps=1 if at == 1999 else 10)
    assert run.error(at) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("at", [150, 250, 1050, 1900])
def test_a_noisy_run(at: int) -> None:
    """Steps that vary by a half and stall now and then: within 5%."""

    def step_s(step: int) -> float:
        dice = random.Random(step)
        return dice.uniform(0.15, 0.45) + (5 if dice.random() < 0.005 else 0)

    assert abs(Simulated(step_s=step_s).error(at)) < 0.05


def test_in_the_first_epoch_it_says_what_it_knows() -> None:
    """Compilation does not enter, evaluation cannot: the steps left, as a lower bound."""
    run = Simulated()
    forecast = Forecast(run.total_steps, run.steps_per_epoch, budget_s=1e9)
    run.run(forecast, until=10)
    assert (forecast.left_s, forecast.ends_at_s, forecast.in_budget) == (None, None, None)
    forecast = Forecast(run.total_steps, run.steps_per_epoch, budget_s=1e9)
    run.run(forecast, until=50)
    assert forecast.left_s == pytest.approx(0.3 * (run.total_steps - 50))
    assert forecast.is_lower_bound
    assert forecast.in_budget is None
    forecast = Forecast(run.total_steps, run.steps_per_epoch, budget_s=100)
    run.run(forecast, until=50)
    assert forecast.in_budget is False  # the steps alone are too many


def test_a_run_that_goes_on() -> None:
    """The time before counts for the budget; compilation of the new process does not mislead."""
    run = Simulated()
    assert run.error(750, first_step=600, first_s=5000.0) == pytest.approx(0, abs=1e-6)
    assert run.error(750, first_step=634, first_s=5000.0) == pytest.approx(0, abs=1e-6)
    end_s = run.end_s(600, 5000.0)
    for budget_s, in_budget in ((end_s + 1, True), (end_s - 1, False)):
        forecast = Forecast(run.total_steps, run.steps_per_epoch, 600, 5000.0, budget_s)
        run.run(forecast, 600, 5000.0, until=750)
        assert forecast.in_budget is in_budget
        assert forecast.ends_at_s == pytest.approx(end_s)


def test_an_epoch_shorter_than_a_window() -> None:
    """Where an epoch is one window, its evaluation is spread over its steps."""
    run = Simulated(epochs=20, steps_per_epoch=9, log_every_steps=1000, pause_s=2.0)
    assert abs(run.error(9 * 10)) < 0.08
    assert abs(run.error(9 * 3)) < 0.08


def test_it_follows_a_run_that_becomes_slower() -> None:
    """Two epochs after steps became three times as slow, the end is known again."""
    run = Simulated(step_s=lambda step: 0.3 if step <= 500 else 0.9)
    assert abs(run.error(720)) < 0.01
    assert run.error(510) < -0.3


def test_it_comes_to_nothing() -> None:
    """While the last evaluation runs, the time left goes down to 0, and no further."""
    run = Simulated()
    forecast = Forecast(run.total_steps, run.steps_per_epoch)
    now = run.run(forecast, until=run.total_steps)
    assert forecast.left_s == pytest.approx(20)
    forecast.update(run.total_steps, now + 15)
    assert forecast.left_s == pytest.approx(5)
    forecast.update(run.total_steps, now + 25)
    assert forecast.left_s == 0


def test_an_epoch_cut_short_counts_as_one() -> None:
    """A last epoch with fewer steps has its evaluation too."""
    forecast = Forecast(total_steps=25, steps_per_epoch=10)
    now = 0.0
    for step in range(1, 16):
        now += 1
        forecast.update(step, now)
        now += 7 if step == 10 else 0
    assert forecast.left_s == pytest.approx(10 + 2 * 7)


def test_the_memory_it_needs_does_not_grow() -> None:
    """Called after each of many steps it keeps few windows."""
    run = Simulated(epochs=5, steps_per_epoch=2000, log_every_steps=1)
    forecast = Forecast(run.total_steps, run.steps_per_epoch)
    run.run(forecast)
    assert len(forecast._windows) < 200
    assert run.error(9000) == pytest.approx(0, abs=1e-6)


def test_row() -> None:
    """The row holds plain numbers."""
    run = Simulated()
    forecast = Forecast(run.total_steps, run.steps_per_epoch, budget_s=72 * 3600)
    assert forecast.to_row() == {"left_s": None, "left_is_lower_bound": True, "in_budget": None}
    run.run(forecast, until=150)
    left_s = 0.3 * 1850 + 20 * 19
    assert forecast.to_row() == {"left_s": left_s, "left_is_lower_bound": False, "in_budget": True}
