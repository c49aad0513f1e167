"""Exercises made by rule, each with one right answer: arithmetic, spelling, sorting, counting letters.

A problem belongs to the training or to the held-out split by the digest of what it asks, however it is phrased, so no
held-out problem is ever seen in training, whatever the seed or the number of exercises.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

from lmcraft.recipe.stage import StageConfig

WORD_LETTERS = range(3, 9)
"""Lengths of words to spell and to count in."""
FEWEST_WORDS = 200
"""Below this many words of the documents, made-up words are added."""


class Difficulty(StageConfig):
    """How hard the exercises are."""

    largest_number: int = Field(
        default=50, ge=5, le=999_999, description="Largest operand, and largest number to sort."
    )
    longest_list: int = Field(
        default=5, ge=3, le=12, description="Most letters or numbers to sort; the fewest is three."
    )
    longest_word: int = Field(default=8, ge=3, le=8, description="Most letters of a word to spell or to count in.")


@dataclass(frozen=True)
class Exercise:
    """`problem` names what is asked, the same for every phrasing of it."""

    task: str
    question: str
    answer: str
    problem: str


def make_exercises(
    task: str, count: int, heldout: bool, *, seed: int, words: Sequence[str], difficulty: Difficulty, share: float
) -> list[Exercise]:
    """Up to `count` exercises of one split, fewer when there are no more; no question twice.

    Held-out exercises are of different problems, training exercises may ask one problem in several phrasings.
    `words` are lower-case ASCII; `share` of all problems is held out.
    """
    generator = random.Random(f"{seed} {task} {'heldout' if heldout else 'train'}")
    pool = [word for word in words if len(word) in WORD_LETTERS and len(word) <= difficulty.longest_word]
    made: list[Exercise] = []
    seen: set[str] = set()
    in_vain = 0
    while len(made) < count and in_vain < 2000:
        exercise = TASKS[task](generator, pool, difficulty)
        key = exercise.problem if heldout else exercise.question
        if key in seen or is_heldout(exercise.problem, share) != heldout:
            in_vain += 1
            continue
        in_vain = 0
        seen.add(key)
        made.append(exercise)
    return made


def is_heldout(problem: str, share: float) -> bool:
    """Whether a problem is held out: by its digest alone, so that every run agrees."""
    digest = hashlib.sha256(problem.encode("utf-8")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def choose_words(counts: dict[str, int], most: int = 4000) -> list[str]:
    """The most frequent words, made-up ones added when there are fewer than `FEWEST_WORDS`; sorted."""
    fit = [w for w in counts if w.isascii() and w.isalpha() and w.islower() and len(w) in WORD_LETTERS]
    words = set(sorted(fit, key=lambda word: (-counts[word], word))[:most])
    generator = random.Random("words")
    while len(words) < FEWEST_WORDS:
        syllables = generator.choices(_SYLLABLES, k=generator.randint(2, 3))
        words.add("".join(syllables)[: WORD_LETTERS[-1]])
    return sorted(words)


_SYLLABLES = (
    "ba",
    "den",
    "fi",
    "gol",
    "hu",
    "jam",
    "ke",
    "lo",
    "mi",
    "nor",
    "pa",
    "rus",
    "sel",
    "ta",
    "vin",
    "wo",
    "zu",
)


def _arithmetic(generator: random.Random, words: Sequence[str], difficulty: Difficulty) -> Exercise:
    a, b = (generator.randint(0, difficulty.largest_number) for _ in range(2))
    # The operands name the problem, not their order nor the operation: who has seen 7 + 5 has not been told 12 - 5,
    # but who has seen 5 + 7 knows 7 + 5.
    problem = f"arithmetic {min(a, b)} {max(a, b)}"
    if generator.random() < 0.5:
        question = generator.choice(("{} + {} =", "What is {} + {}?", "Add {} and {}.")).format(a, b)
        return Exercise("arithmetic", question, str(a + b), problem)
    a, b = max(a, b), min(a, b)
    question = generator.choice(("{} - {} =", "What is {} - {}?", "Take {1} from {0}.")).format(a, b)
    return Exercise("arithmetic", question, str(a - b), problem)


def _spelling(generator: random.Random, words: Sequence[str], difficulty: Difficulty) -> Exercise:
    word = generator.choice(words)
    # A space before the word: it then is the same tokens as inside the documents.
    question = generator.choice(("Spell {}.", "Spell the word {}.", "How do you spell {}?")).format(word)
    return Exercise("spelling", question, " ".join(word), f"word {word}")


def _sorting(generator: random.Random, words: Sequence[str], difficulty: Difficulty) -> Exercise:
    count = generator.randint(3, difficulty.longest_list)
    if generator.random() < 0.5:
        letters = generator.sample("abcdefghijklmnopqrstuvwxyz", count)
        given, right, what = " ".join(letters), " ".join(sorted(letters)), "letters"
    else:
        count = min(count, difficulty.largest_number)
        numbers = generator.sample(range(difficulty.largest_number + 1), count)
        given, right, what = " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers))), "numbers"
    question = generator.choice(("Sort {}.", "Sort the {what} {}.", "Put these {what} in order: {}.")).format(
        given, what=what
    )
    return Exercise("sorting", question, right, f"sort {right}")


def _counting(generator: random.Random, words: Sequence[str], difficulty: Difficulty) -> Exercise:
    # A letter is drawn for how often it occurs, else nearly every answer would be 1.
    times = generator.choice((0, 1, 2, 3))
    word = letter = ""
    for _ in range(50):
        word = generator.choice(words)
        fitting = [c for c in "abcdefghijklmnopqrstuvwxyz" if word.count(c) == times]
        if fitting:
            letter = generator.choice(fitting)
            break
    else:
        letter = word[0]
    spelt = " ".join(word)
    question = generator.choice(
        ("How many {} in {}?", "Count the letter {} in {}.", "How many times does the letter {} occur in {}?")
    ).format(letter, spelt)
    # Named by the word alone, as in spelling: the question spells it out.
    return Exercise("counting", question, str(word.count(letter)), f"word {word}")


TASKS: dict[str, Callable[[random.Random, Sequence[str], Difficulty], Exercise]] = {
    "arithmetic": _arithmetic,
    "spelling": _spelling,
    "sorting": _sorting,
    "counting": _counting,
}
"""Name of a task -> the function that draws one exercise."""
