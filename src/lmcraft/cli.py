"""The command line: one thin subcommand a verb. User mistakes end in one sentence and exit code 2."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmcraft.recipe.stage import ConsoleProgress, Terminated, UserError, count, duration

EXAMPLES = """examples:
  lmcraft run recipes/quickstart.yaml            build everything that is not up to date
  lmcraft plan recipes/quickstart.yaml           what would run, why, and about how long
  lmcraft run recipes/quickstart.yaml --set pretrain.depth=6 --until pretrain
  lmcraft chat quickstart/export                 talk with the model
  lmcraft lineage quickstart/export              where it came from, down to the sources
"""


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(arguments[0] if arguments else None)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.verb(parsed)
    except UserError as error:
        print(f"lmcraft: {error}", file=sys.stderr)
        return 2
    except Terminated:
        print("\nlmcraft: terminated; the same command goes on where this one stopped", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("\nlmcraft: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(called: str | None) -> argparse.ArgumentParser:
    """The parser; the options of the verbs that load torch (seconds) are added only when they are called."""
    parser = argparse.ArgumentParser(
        prog="lmcraft",
        description="Make, judge and run a language model from raw text, with evidence for every number.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="verb", required=True)

    def add(name: str, verb: Any, help: str, examples: str = "") -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(verb=verb)
        return sub

    def recipe_arguments(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("recipe", type=Path, help="a recipe file (YAML)")
        sub.add_argument(
            "--set", action="append", default=[], metavar="step.key=value", help="change one setting; YAML"
        )
        sub.add_argument("--until", metavar="STEP", help="only this step and what it stands on")

    def store_argument(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--store", type=Path, default=Path(os.environ.get("LMCRAFT_STORE", "store")), help="store folder"
        )

    run = add(
        "run",
        _run,
        "build what a recipe asks for and is not up to date",
        "  lmcraft run recipes/quickstart.yaml\n"
        "  lmcraft run recipes/quickstart.yaml --dry-run\n"
        "  lmcraft run recipes/own-text.yaml --set 'collect.sources=[{kind: folder, path: my-texts}]'\n"
        "  lmcraft run recipes/quickstart.yaml --set runtime.device=cuda\n",
    )
    recipe_arguments(run)
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")

    plan = add(
        "plan", _plan, "show what would run, why, and about how long", "  lmcraft plan recipes/quickstart.yaml\n"
    )
    recipe_arguments(plan)
    plan.add_argument("--json", action="store_true", help="print JSON")

    ls = add("ls", _ls, "list the artifacts in the store", "  lmcraft ls\n  lmcraft ls --json | jq .\n")
    ls.add_argument("--json", action="store_true", help="print JSON")
    store_argument(ls)

    show = add("show", _show, "print an artifact's manifest", "  lmcraft show quickstart/pretrain\n")
    show.add_argument("artifact", help="recipe/step, step, first digits of the key, or directory")
    show.add_argument("--path", action="store_true", help="print only the directory")
    show.add_argument("--ancestors", action="store_true", help="with the records of everything upstream")
    store_argument(show)

    why = add("why", _why, "say in which fields two artifacts differ", "  lmcraft why sft-0f3a sft-77b1\n")
    why.add_argument("a")
    why.add_argument("b")
    store_argument(why)

    lineage = add(
        "lineage", _lineage, "show where an artifact came from", "  lmcraft lineage quickstart/export --json\n"
    )
    lineage.add_argument("artifact")
    lineage.add_argument("--json", action="store_true", help="print JSON")
    store_argument(lineage)

    verify = add(
        "verify",
        _verify,
        "re-hash artifacts and derive their metrics again",
        "  lmcraft verify                        everything in the store\n"
        "  lmcraft verify quickstart/evaluate\n"
        "  lmcraft verify --repair               set damaged artifacts aside; the next run builds them again\n"
        "  lmcraft verify --rebuild quickstart/sft --recipe recipes/quickstart.yaml\n",
    )
    verify.add_argument("artifact", nargs="*")
    verify.add_argument("--repair", action="store_true", help="set damaged artifacts aside")
    verify.add_argument("--rebuild", action="store_true", help="also run the step again and compare the files")
    verify.add_argument("--recipe", type=Path, help="recipe that holds the step to rebuild")
    store_argument(verify)

    gc = add("gc", _gc, "show (and with --apply delete) what no recipe's latest run needs", "  lmcraft gc --apply\n")
    gc.add_argument("--apply", action="store_true", help="delete; without it nothing is touched")
    store_argument(gc)

    overlap = add(
        "overlap",
        _overlap,
        "say whether a text was in the documents of an index, or in those that a model stands on",
        "  lmcraft overlap index 'It was the best of times, it was the worst of times, it was the age of wisdom'\n"
        "  lmcraft overlap quickstart/export --file answer.txt --json\n"
        "  lmcraft overlap index --sets evaluation-sets\n",
    )
    overlap.add_argument("artifact", help="an index, or what stands on documents that were indexed")
    overlap.add_argument("text", nargs="?", help="the text; - reads standard input")
    overlap.add_argument("--file", type=Path, help="read the text from a UTF-8 file")
    overlap.add_argument("--sets", metavar="ARTIFACT", help="ask for each document of this artifact; count by source")
    overlap.add_argument("--most", type=int, default=10, help="most documents to name")
    overlap.add_argument("--json", action="store_true", help="print JSON")
    store_argument(overlap)

    def wanted_arguments(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--source", help="name of the source")
        sub.add_argument("--path", help="place in the source: a file, or one record of it")
        sub.add_argument("--url", help="address of the page (remove: and of all that begin so)")

    trace = add(
        "trace-document",
        _trace_document,
        "show what became of a document: its source, the steps it passed, its tokens, the models they went into",
        "  lmcraft trace-document 3f6a1c09\n"
        "  lmcraft trace-document --source my-texts --path letters.jsonl:17 --json\n"
        "  lmcraft trace-document --text 'a sentence of it' --original my-texts\n",
    )
    trace.add_argument("document", nargs="?", help="its id, or the first digits")
    wanted_arguments(trace)
    trace.add_argument("--text", help="something that it says, as it stands there")
    trace.add_argument("--original", type=Path, metavar="FOLDER", help="also show its bytes in the source's folder")
    trace.add_argument("--json", action="store_true", help="print JSON")
    store_argument(trace)

    token = add(
        "trace-token",
        _trace_token,
        "show the document, source file and bytes that a training token came from",
        "  lmcraft trace-token tokens --position 12345\n"
        "  lmcraft trace-token quickstart/export --split train --position 0:678 --original my-texts\n",
    )
    token.add_argument("artifact", help="tokens, or a model that stands on them")
    token.add_argument("--split", default="train", choices=("train", "heldout"))
    token.add_argument("--position", required=True, help="place in the split, or SHARD:PLACE")
    token.add_argument("--original", type=Path, metavar="FOLDER", help="also show the bytes in the source's folder")
    token.add_argument("--json", action="store_true", help="print JSON")
    store_argument(token)

    remove = add(
        "remove",
        _remove,
        "note what must not be used any more, and show what holds it; the next run leaves it out",
        "  lmcraft remove --document 3f6a1c09 --reason 'the author asked'\n"
        "  lmcraft remove --source my-texts --path letters.jsonl\n"
        "  lmcraft remove --file opted-out.txt\n"
        "  lmcraft remove --list\n",
    )
    remove.add_argument("--document", help="id of a document, or its first digits")
    wanted_arguments(remove)
    remove.add_argument("--file", type=Path, help="an opt-out list: lines such as `domain: example.org` or `id: …`")
    remove.add_argument(
        "--duplicates", action="store_true", help="also what was dropped as a duplicate of the document"
    )
    remove.add_argument("--reason", default="not said", help="why; kept in the list")
    remove.add_argument("--list", action="store_true", help="print what is noted, and what still holds it")
    remove.add_argument("--json", action="store_true", help="print JSON")
    store_argument(remove)

    schema = add(
        "schema",
        _schema,
        "print the JSON Schema of recipes, for editors",
        "  lmcraft schema > recipe.schema.json\n  lmcraft schema --markdown > docs/recipe-reference.md\n",
    )
    schema.add_argument("--markdown", action="store_true", help="print the recipe reference instead")

    for name, verb, help in (
        ("chat", _chat, "chat with a model in the terminal"),
        ("serve", _serve, "serve a model over HTTP, with a chat page"),
    ):
        sub = add(name, verb, help, f"  lmcraft {name} quickstart/export\n")
        sub.add_argument("model", help="recipe/step, step, first digits of the key, or a model directory")
        store_argument(sub)
        if called == name:
            _room(name).add_arguments(sub)

    fill = add(
        "fill-mask",
        _fill_mask,
        "name the most probable words for the masks in a text",
        "  lmcraft fill-mask masked/export 'The capital of <|mask|> is Paris.'\n"
        "  lmcraft fill-mask masked/export --json < texts.txt | jq .masks\n",
    )
    fill.add_argument("model", help="recipe/step, step, first digits of the key, or a model directory")
    store_argument(fill)
    if called == "fill-mask":
        _room("fill-mask").add_arguments(fill)
    return parser


def _load(arguments: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    from lmcraft.recipe.plan import make_runtime, store_folder
    from lmcraft.recipe.schema import load_recipe
    from lmcraft.stages import STAGES
    from lmcraft.store.store import Store

    recipe = load_recipe(arguments.recipe, STAGES, arguments.set)
    steps = recipe.until(arguments.until) if arguments.until else list(recipe.steps.values())
    store = Store(store_folder(recipe.runtime))
    runtime = make_runtime(recipe.runtime, ConsoleProgress())
    return recipe, steps, store, runtime


def _run(arguments: argparse.Namespace) -> int:
    from lmcraft.recipe.runner import command, follow, run_steps

    if arguments.dry_run:
        return _plan(arguments)
    recipe, steps, store, runtime = _load(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun started several processes
        from lmcraft.training.ranks import Ranks

        runtime.ranks = ranks = Ranks(recipe.runtime.parallel, recipe.runtime.device)
        if not ranks.first:
            follow(recipe, runtime)
            ranks.leave()
            return 0
    artifacts = run_steps(recipe, store, runtime, steps)
    if runtime.ranks is not None:
        runtime.ranks.leave()
    print(f"\n{recipe.name}: {len(artifacts)} steps up to date in {store.root}")
    models = [name for name, artifact in artifacts.items() if artifact.manifest["kind"] == "model"]
    reports = [artifact for artifact in artifacts.values() if artifact.manifest["kind"] == "report"]
    for report in reports:
        for page in sorted(report.path.glob("*.html")):
            print(f"  page   {page}")
    if models:
        exported = [name for name in models if artifacts[name].manifest["stage"] == "export"]
        last = (exported or models)[-1]
        model = f"{recipe.name}/{last}"
        default = Path(os.environ.get("LMCRAFT_STORE", "store"))
        where = [] if store.root == default else ["--store", shlex.quote(str(store.root))]
        shape = json.loads((artifacts[last].path / "config.json").read_text(encoding="utf-8"))
        if shape["model_type"] == "eurobert":
            print(f"  fill   {command('fill-mask', model, *where)} 'A text with a <|mask|> in it.'")
        else:
            print(f"  chat   {command('chat', model, *where)}")
            print(f"  serve  {command('serve', model, *where)}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from lmcraft.recipe.plan import make_plan, print_plan

    recipe, steps, store, runtime = _load(arguments)
    for step in steps:
        if step.stage.check is not None:
            step.stage.check(step.config, runtime)
    plan = make_plan(recipe, store, runtime, steps)
    if getattr(arguments, "json", False):
        rows = [
            {
                "step": planned.step.name,
                "stage": planned.step.stage.name,
                "state": planned.state,
                "reason": planned.reason,
                "artifact": planned.artifact.name if planned.artifact else None,
                "seconds": planned.seconds,
            }
            for planned in plan
        ]
        print(json.dumps(rows, indent=2))
    else:
        print(print_plan(recipe, plan, runtime))
    return 0


def _store(arguments: argparse.Namespace) -> Any:
    from lmcraft.store.store import Store

    return Store(arguments.store)


def _ls(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    owners: dict[str, list[str]] = {}
    for name, ref in store.refs().items():
        owners.setdefault(ref["key"], []).append(name)
    artifacts = store.artifacts()
    rows = [
        {
            "artifact": artifact.name,
            "kind": artifact.manifest["kind"],
            "digest": artifact.digest,
            "bytes": artifact.bytes(),
            "seconds": artifact.manifest["provenance"]["seconds"],
            "finished": artifact.manifest["provenance"]["finished"],
            "latest_of": owners.get(artifact.key, []),
        }
        for artifact in artifacts
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print(f"the store {store.root} is empty; `lmcraft run RECIPE` fills it")
    for row in rows:
        latest = ", ".join(row["latest_of"]) or "-"
        print(
            f"{row['artifact']:34} {row['kind']:13} {row['digest'][:12]}  {count(row['bytes']) + 'B':>7}  "
            f"{duration(row['seconds']):>12}  {row['finished'][:16]}  {latest}"
        )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    artifact = _store(arguments).resolve(arguments.artifact)
    if arguments.path:
        print(artifact.path)
        return 0
    manifest = artifact.manifest
    if not arguments.ancestors:
        manifest = {name: value for name, value in manifest.items() if name != "ancestors"}
    print(json.dumps(manifest, indent=2, ensure_ascii=False))
    return 0


def _why(arguments: argparse.Namespace) -> int:
    from lmcraft.store.lineage import why

    store = _store(arguments)
    print("\n".join(why(store.resolve(arguments.a), store.resolve(arguments.b))))
    return 0


def _lineage(arguments: argparse.Namespace) -> int:
    from lmcraft.store.lineage import lineage, print_lineage

    tree = lineage(_store(arguments).resolve(arguments.artifact))
    print(json.dumps(tree, indent=2, ensure_ascii=False) if arguments.json else print_lineage(tree))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from lmcraft.recipe.verify import verify
    from lmcraft.stages import STAGES

    store = _store(arguments)
    return verify(store, STAGES, arguments.artifact, arguments.repair, arguments.rebuild, arguments.recipe)


def _gc(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    if arguments.apply:
        with store.alone():
            return _collect_garbage(store, delete=True)
    return _collect_garbage(store, delete=False)


def _collect_garbage(store: Any, delete: bool) -> int:
    garbage = store.garbage()
    total = 0
    for path in garbage:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        total += size
        print(f"{'deleted' if delete else 'would delete'}  {path.relative_to(store.root)}  {count(size)}B")
        if delete:
            store.remove(path)
    if not garbage:
        print("nothing to delete: every artifact belongs to a recipe's latest run")
    elif delete:
        print(f"freed {count(total)}B")
    else:
        print(f"{count(total)}B could be freed; `lmcraft gc --apply` deletes")
    return 0


def _overlap(arguments: argparse.Namespace) -> int:
    from lmcraft.corpus.ask import answer_json, ask_sets, index_of, print_answer, print_sets

    store = _store(arguments)
    if sum(given is not None for given in (arguments.text, arguments.file, arguments.sets)) != 1:
        raise UserError("give one of a text, --file and --sets")
    artifact, index = index_of(store, arguments.artifact)
    if arguments.sets is not None:
        counted = ask_sets(index, store.resolve(arguments.sets).path)
        print(json.dumps(counted, indent=2, ensure_ascii=False) if arguments.json else print_sets(index, counted))
        return 0
    answer = index.ask(_text_of(arguments), arguments.most)
    said = answer_json(artifact, answer)
    print(
        json.dumps(said, indent=2, ensure_ascii=False) if arguments.json else print_answer(index, artifact.name, answer)
    )
    return 0


def _text_of(arguments: argparse.Namespace) -> str:
    try:
        if arguments.file is not None:
            return str(arguments.file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{arguments.file} cannot be read ({error}); give a UTF-8 text file") from None
    return sys.stdin.read() if arguments.text == "-" else str(arguments.text)


def _wanted(arguments: argparse.Namespace) -> Any:
    from lmcraft.tokens.trace import Wanted

    names = ("document", "source", "path", "url", "text")
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    return Wanted(**given) if given else None


def _trace_document(arguments: argparse.Namespace) -> int:
    from lmcraft.tokens.trace import print_trace, resolve, trace_document

    store = _store(arguments)
    wanted = _wanted(arguments)
    if wanted is None:
        raise UserError("say which document: its id, --source with --path, --url, or --text")
    found = resolve(store, wanted)
    if len(found) > 1:
        shown = ", ".join(found[:5])
        raise UserError(f"{len(found)} documents fit ({shown}{', …' if len(found) > 5 else ''}); give the id of one")
    return _print_trace(arguments, trace_document(store, found[0]), print_trace)


def _trace_token(arguments: argparse.Namespace) -> int:
    from lmcraft.tokens.trace import print_token, trace_token

    shard, _, place = arguments.position.rpartition(":")
    if not place.isascii() or not place.isdigit() or (shard and not (shard.isascii() and shard.isdigit())):
        raise UserError(f"--position {arguments.position!r} is neither a number nor SHARD:PLACE")
    within = (int(shard), int(place)) if shard else None
    position = None if shard else int(place)
    trace = trace_token(_store(arguments), arguments.artifact, arguments.split, position, within)
    return _print_trace(arguments, trace, print_token)


def _print_trace(arguments: argparse.Namespace, trace: dict[str, Any], text: Any) -> int:
    from lmcraft.tokens.trace import original_bytes

    original = None
    if arguments.original is not None:
        original = original_bytes(trace.get("trace", trace), arguments.original)
    if arguments.json:
        print(json.dumps(trace | ({"original": original} if original else {}), indent=2, ensure_ascii=False))
        return 0
    print(text(trace))
    if original is not None:
        state = "as it was collected" if original["unchanged"] else "NOT as it was collected: the file has changed"
        print(f"\noriginal {original['file']}, byte {original['offset']} ({state})\n{original['bytes']}")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from lmcraft.recipe.runner import command
    from lmcraft.tokens.remove import listed, print_removal, read_list, remove

    store = _store(arguments)
    wanted = _wanted(arguments)
    if arguments.list == (wanted is not None or arguments.file is not None):
        raise UserError(
            "say what to remove: --document, --source, --path with --source, --url or --file; or only --list"
        )
    if arguments.path is not None and arguments.source is None:
        raise UserError("--path is a place in a source; give its name with --source")
    if arguments.list:
        result = listed(store)
    else:
        every = [*([wanted] if wanted else []), *(read_list(arguments.file) if arguments.file else [])]
        result = remove(store, every, arguments.reason, arguments.duplicates, ahead=arguments.file is not None)
    print(json.dumps(result, indent=2, ensure_ascii=False) if arguments.json else print_removal(result, command("run")))
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from lmcraft.recipe.reference import markdown, recipe_schema
    from lmcraft.stages import STAGES

    print(markdown(STAGES) if arguments.markdown else json.dumps(recipe_schema(STAGES), indent=2))
    return 0


def _model_directory(arguments: argparse.Namespace) -> Path:
    from lmcraft.recipe.plan import damaged_message

    path = Path(arguments.model)
    if (path / "config.json").is_file() and not (path / "manifest.json").is_file():
        return path
    artifact = _store(arguments).resolve(arguments.model)
    if problems := artifact.damage(rehash=True):
        raise UserError(damaged_message(artifact, problems))
    if artifact.manifest["kind"] != "model":
        raise UserError(f"{artifact.name} is not a model but {artifact.manifest['kind']}; `lmcraft ls` shows the kinds")
    return artifact.path


def _room(name: str) -> Any:
    if name == "chat":
        from lmcraft.inference import chat

        return chat
    if name == "fill-mask":
        from lmcraft.inference import fill_mask

        return fill_mask
    from lmcraft.serving import server

    return server


def _chat(arguments: argparse.Namespace) -> int:
    arguments.model = _model_directory(arguments)
    return _room("chat").main(arguments)


def _fill_mask(arguments: argparse.Namespace) -> int:
    arguments.model = _model_directory(arguments)
    return _room("fill-mask").main(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    arguments.model = _model_directory(arguments)
    return _room("serve").main(arguments)


if __name__ == "__main__":
    sys.exit(main())
