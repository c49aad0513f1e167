"""What is done is not done again; what changed is built beside the old; what fails loses nothing."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmcraft.recipe.stage import Progress, UserError
from lmcraft.store.store import is_disk_full


def test_a_second_run_does_nothing(house: Any, recipe_text: str) -> None:
    recipe = house.recipe(recipe_text)
    first = house.run(recipe)
    assert house.calls == ["read", "read", "join", "count"]
    assert (first["words"].path / "count.txt").read_text() == "3"
    second = house.run(recipe)
    assert house.calls == []
    assert {name: a.key for name, a in first.items()} == {name: a.key for name, a in second.items()}
    assert all(planned.state == "done" for planned in house.plan(recipe).values())


def test_runtime_and_places_do_not_enter_the_key(house: Any, recipe_text: str, tmp_path: Path) -> None:
    house.run(house.recipe(recipe_text))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("one two")
    house.run(house.recipe(recipe_text, "a.path=elsewhere/a.txt", "runtime.device=cpu", "runtime.workers=7"))
    assert house.calls == []


def test_a_changed_setting_rebuilds_below_and_keeps_the_old(house: Any, recipe_text: str) -> None:
    old = house.run(house.recipe(recipe_text))
    changed = house.recipe(recipe_text, "both.separator=_")
    plan = house.plan(changed)
    assert plan["both"].state == "run"
    assert 'config.separator " " -> "_"' in plan["both"].reason
    assert plan["words"].state == "wait"
    new = house.run(changed)
    assert house.calls == ["join", "count"]
    assert old["both"].path.is_dir()
    assert new["both"].key != old["both"].key


def test_equal_output_stops_the_rebuilding(house: Any, recipe_text: str) -> None:
    house.run(house.recipe(recipe_text))
    house.run(house.recipe(recipe_text, "a.keep=50"))
    assert house.calls == ["read"], "keep=50 gives the same text, so nothing below may run"


def test_a_changed_source_is_seen(house: Any, recipe_text: str, tmp_path: Path) -> None:
    recipe = house.recipe(recipe_text)
    house.run(recipe)
    (tmp_path / "b.txt").write_text("three four")
    assert "sources.b.txt" in house.plan(recipe)["b"].reason
    assert (house.run(recipe)["words"].path / "count.txt").read_text() == "4"


def test_a_source_that_changes_while_it_is_read_is_not_published(house: Any, recipe_text: str, tmp_path: Path) -> None:
    stage = house.stages["read"]
    read = stage.run

    def reads_and_is_overtaken(config: Any, inputs: Any, out: Path, runtime: Any) -> None:
        read(config, inputs, out, runtime)
        Path(config.path).write_text("other words")

    object.__setattr__(stage, "run", reads_and_is_overtaken)
    with pytest.raises(UserError, match=r"step a: source 'a\.txt' was changed while it was read"):
        house.run(house.recipe(recipe_text))
    object.__setattr__(stage, "run", read)
    artifacts = house.run(house.recipe(recipe_text))
    assert (artifacts["a"].path / "text.txt").read_text() == "other words"


def test_sources_of_all_steps_are_looked_at_first(house: Any, recipe_text: str, tmp_path: Path) -> None:
    recipe = house.recipe(recipe_text)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(FileNotFoundError):
        house.run(recipe)
    assert house.calls == []


def test_a_damaged_manifest_is_repaired_by_name(house: Any, recipe_text: str) -> None:
    from lmcraft.recipe.verify import verify

    artifact = house.run(house.recipe(recipe_text))["a"]
    (artifact.path / "manifest.json").write_text("{")
    assert verify(house.store, house.stages, ["small/a"], repair=True, rebuild=False, recipe=None) == 1
    house.run(house.recipe(recipe_text))
    assert house.calls == ["read"]


def test_a_users_mistake_names_the_step_and_keeps_what_is_finished(house: Any, recipe_text: str) -> None:
    with pytest.raises(UserError, match="step both: the text is bad at line 3; mend it"):
        house.run(house.recipe(recipe_text, "both.fail=user"))
    house.run(house.recipe(recipe_text))
    assert house.calls == ["join", "count"]


def test_a_full_disk_is_one_sentence(house: Any, recipe_text: str) -> None:
    with pytest.raises(UserError, match=r"step both: the disk that holds .* is full; free some space"):
        house.run(house.recipe(recipe_text, "both.fail=disk"))
    from safetensors import SafetensorError

    assert is_disk_full(SafetensorError("I/O error: No space left on device (os error 28)"))


def test_a_damaged_input_is_named_and_the_way_back_works(house: Any, recipe_text: str) -> None:
    from lmcraft.recipe.verify import verify

    artifacts = house.run(house.recipe(recipe_text))
    file = artifacts["a"].path / "text.txt"
    file.write_text("ONE two")
    with pytest.raises(UserError, match=r"read-[0-9a-f]{16} is damaged: text.txt has sha256"):
        house.run(house.recipe(recipe_text, "both.separator=+"))
    assert verify(house.store, house.stages, [], repair=True, rebuild=False, recipe=None) == 1
    house.run(house.recipe(recipe_text))
    assert house.calls == ["read"], "only what was damaged is built again"
    assert verify(house.store, house.stages, [], repair=False, rebuild=False, recipe=None) == 0


def test_an_interrupted_step_is_called_again_with_its_folder(house: Any, recipe_text: str) -> None:
    recipe = house.recipe(recipe_text)
    stage = house.stages["count"]

    def killed(config: Any, inputs: Any, out: Path, runtime: Any) -> None:
        (runtime.scratch / "half").write_text("half")
        raise KeyboardInterrupt

    object.__setattr__(stage, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        house.run(recipe)
    assert "was interrupted" in house.plan(recipe)["words"].reason

    def resumed(config: Any, inputs: Any, out: Path, runtime: Any) -> None:
        assert (runtime.scratch / "half").read_text() == "half"
        (out / "count.txt").write_text("3")

    object.__setattr__(stage, "run", resumed)
    artifact = house.run(recipe)["words"]
    assert artifact.manifest["provenance"]["resumed"] == 1
    assert not house.store.work(artifact.key).exists()


def _hold(root: str, key: str, ready: Any) -> None:
    from lmcraft.store.store import Store

    with Store(Path(root)).lock(key, lambda: None):
        ready.set()
        time.sleep(1.0)


def test_two_runs_do_not_collide(house: Any) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_hold, args=(str(house.store.root), "ab" * 32, ready))
    other.start()
    assert ready.wait(30)
    waited: list[bool] = []
    with house.store.lock("ab" * 32, lambda: waited.append(True)):
        assert waited == [True]
    other.join()


def test_a_rank_whose_recipe_lacks_the_step_or_has_another_says_so(house: Any, recipe_text: str) -> None:
    from lmcraft.recipe.plan import make_runtime
    from lmcraft.recipe.runner import follow

    class OtherRank:
        rank, local_size = 1, 2

        def __init__(self, step: str) -> None:
            self.step = step

        def calls(self) -> Iterator[dict[str, Any]]:
            yield {"step": self.step, "inputs": {}, "scratch": "."}

        def agree(self, what: str, value: Any) -> None:
            raise UserError(f"rank 1 has another {what}: {value['stage']}")

    recipe = house.recipe(recipe_text)
    for step, words in (("pretrain", "another recipe, without the step pretrain: start"), ("both", "recipe: join")):
        runtime = replace(make_runtime(recipe.runtime, Progress()), ranks=OtherRank(step))
        with pytest.raises(UserError, match=words):
            follow(recipe, runtime)
    assert house.calls == []
