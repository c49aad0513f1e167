from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcraft.posttraining.exercises import (
    FEWEST_WORDS,
    TASKS,
    Difficulty,
    Exercise,
    choose_words,
    is_heldout,
    make_exercises,
)

WORDS = choose_words({"river": 5, "banana": 3, "letter": 2, "Paris": 9, "naïve": 4, "it": 8, "encyclopaedia": 7})


def make(task: str, count: int, heldout: bool, seed: int = 0, **difficulty: int) -> list[Exercise]:
    return make_exercises(task, count, heldout, seed=seed, words=WORDS, difficulty=Difficulty(**difficulty), share=0.2)


def solve(task: str, question: str) -> str:
    """The right answer, worked out from the question alone."""
    words = question.rstrip("?.=").replace(":", " ").split()
    numbers = [int(word) for word in words if word.isdigit()]
    if task == "arithmetic":
        if question.startswith("Take"):
            return str(numbers[1] - numbers[0])
        return str(numbers[0] - numbers[1] if "-" in words else numbers[0] + numbers[1])
    if task == "spelling":
        return " ".join(words[-1])
    if task == "sorting":
        letters = [word for word in words if len(word) == 1]
        return " ".join(map(str, sorted(numbers) if numbers else sorted(letters)))
    letters = [word for word in words if len(word) == 1]
    return str(letters[1:].count(letters[0]))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("heldout", [False, True])
def test_every_answer_is_right(task: str, heldout: bool) -> None:
    made = make(task, 300, heldout)
    assert len(made) > 30
    for exercise in made:
        assert exercise.answer == solve(task, exercise.question), exercise
        assert exercise.task == task


def test_no_held_out_problem_is_trained_on_whatever_the_seed() -> None:
    train = [e for task in TASKS for seed in range(3) for e in make(task, 800, False, seed)]
    heldout = [e for task in TASKS for seed in range(3) for e in make(task, 200, True, seed)]
    assert not {e.problem for e in train} & {e.problem for e in heldout}
    # By what is asked, too: operands in any order, and a held-out word neither spelt nor counted in.
    assert not {frozenset(_numbers(e)) for e in train if e.task == "arithmetic"} & {
        frozenset(_numbers(e)) for e in heldout if e.task == "arithmetic"
    }
    assert not {e.answer for e in train if e.task == "sorting"} & {e.answer for e in heldout if e.task == "sorting"}
    spelt = {e.answer for e in heldout if e.task == "spelling"}
    counted_in = {e.question.rstrip("?.").rpartition(" in ")[2] for e in train if e.task == "counting"}
    assert spelt and counted_in and not spelt & counted_in


def _numbers(exercise: Exercise) -> list[int]:
    return [int(word) for word in exercise.question.rstrip("?.=").split() if word.isdigit()]


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_decides_and_no_question_comes_twice(task: str) -> None:
    made = make(task, 200, False, seed=1)
    assert made == make(task, 200, False, seed=1)
    assert made != make(task, 200, False, seed=2)
    assert len({e.question for e in made}) == len(made)
    heldout = make(task, 200, True)
    assert len({e.problem for e in heldout}) == len(heldout)


def test_another_process_makes_the_same_exercises() -> None:
    program = (
        "from lmcraft.posttraining.exercises import *\n"
        "words = choose_words({'river': 5, 'banana': 3, 'letter': 2, 'Paris': 9})\n"
        "print([make_exercises(t, 20, False, seed=0, words=words, difficulty=Difficulty(), share=.2) for t in TASKS])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout


def test_small_worlds_give_fewer_exercises_instead_of_running_for_ever() -> None:
    few = make("arithmetic", 10_000, True, largest_number=5)
    assert 0 < len(few) < 21
    assert make("arithmetic", 0, True) == []


def test_difficulty_bounds_numbers_and_lengths() -> None:
    for exercise in make("arithmetic", 200, False, largest_number=9):
        assert all(0 <= number <= 9 for number in _numbers(exercise)) and int(exercise.answer) >= 0
    assert {len(e.answer.split()) for e in make("sorting", 200, False, longest_list=4)} == {3, 4}
    assert max(len(e.answer.split()) for e in make("spelling", 100, False, longest_word=4)) == 4


def test_no_count_is_the_answer_to_most_questions() -> None:
    counts = Counter(e.answer for e in make("counting", 300, False))
    assert max(counts.values()) < 0.6 * counts.total()


def test_words_are_plain_and_never_too_few() -> None:
    assert {"river", "banana", "letter"} <= set(WORDS)
    assert len(WORDS) >= FEWEST_WORDS
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 <= len(word) <= 8 for word in WORDS)
    many = {f"w{chr(97 + a)}{chr(97 + b)}{chr(97 + c)}": a + 1 for a in range(26) for b in range(9) for c in range(2)}
    assert len(choose_words(many, most=250)) == 250


@given(st.text(alphabet="abc 123"), st.floats(0, 1))
def test_holding_out_more_only_adds(problem: str, share: float) -> None:
    assert not is_heldout(problem, 0.0)
    assert is_heldout(problem, 1.0)
    assert is_heldout(problem, share) <= is_heldout(problem, min(1.0, share + 0.1))
