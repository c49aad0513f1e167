"""A clock stands still within a step, starts no step that no longer fits, and goes on where a killed run ended."""

from __future__ import annotations

from lmcraft.training.clock import Clock


def test_shares_begin_with_the_end_of_the_first_step_and_change_with_ticks_alone() -> None:
    clock = Clock(110.0)
    assert clock.tick(0.5) and clock.share() == 0.0
    assert clock.tick(10.0) and clock.share() == 0.0, "the first step took ten seconds, compilation with them"
    assert clock.tick(60.0) and clock.share() == clock.share() == 0.5
    assert not clock.tick(110.0) and clock.share() == 1.0


def test_a_step_begins_only_where_one_more_fits() -> None:
    """The first took 40 s, the next ones 30, 10 (the other 20 were an evaluation's), and 12."""
    clock = Clock(120.0)
    assert [clock.tick(at) for at in (0.0, 40.0, 70.0, 80.0, 92.0, 111.0)] == [True, True, True, True, True, False]


def test_parts_of_the_time_are_crossed_once_each_and_the_end_is_none() -> None:
    clock = Clock(100.0)
    found = []
    for at in (0.0, 0.0, 10.0, 30.0, 40.0, 80.0, 100.0):
        clock.tick(at)
        found.append(clock.crossed(4))
    assert found == [False, False, False, True, False, True, False]


def test_what_a_killed_run_had_spent_is_spent() -> None:
    clock, killed = Clock(100.0), Clock(100.0)
    killed._started -= 40.0
    killed.tick(0.0)
    killed.tick(10.0)
    clock.restore(killed.state())
    assert 40.0 <= clock.spent() < 41.0
    assert clock.tick(55.0) and clock.share() == 0.5
