"""`zipasr push DIR OWNER/NAME`: a model on the Hugging Face Hub, with a card that says what is known about it."""

import argparse
import json
from collections.abc import Mapping

from zipasr.errors import ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "push",
        takes="DIR OWNER/NAME",
        example="zipasr push exp/mine me/mine --language en --license apache-2.0",
        help="publish a model on the Hugging Face Hub",
        description="Upload the files of a model or of an exported folder, and a model card. Nothing else is uploaded: no "
        "state of the training, no data. Look first with --dry-run. The token is that of HF_TOKEN or of hf auth login.",
    )
    parser.add_argument("model", metavar="DIR", help="the folder of a training run, of a model, or of an export")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the repository, which is created where it is missing")
    parser.add_argument("--private", action="store_true", help="only you and your organization may see it")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the card and the list of files; send nothing, and need no network"
    )
    card = parser.add_argument_group("what the card says; what is left out is said to be not stated")
    card.add_argument("--language", nargs="+", metavar="CODE", help="languages that the model writes, such as en zh")
    card.add_argument("--license", metavar="ID", help="license of the model, such as apache-2.0; it is never guessed")
    card.add_argument("--dataset", nargs="+", metavar="NAME", help="data sets that it was trained on")
    card.add_argument("--training-data", metavar="TEXT", help="the training data in a sentence or more")
    card.add_argument("--recipe", metavar="TEXT", help="how it was trained, in a sentence or more")
    card.add_argument("--limits", metavar="TEXT", help="what it does badly, in a sentence or more")
    card.add_argument(
        "--results", nargs="+", metavar="FILE", help="what evaluate --json printed, or NAME=FILE with the name of the set"
    )
    parser.add_argument("--message", metavar="TEXT", help="message of the commit (default: Upload a model with zipasr)")
    parser.add_argument(
        "--replace-card", action="store_true", help="replace a card in the repository that zipasr did not write"
    )
    parser.add_argument("--json", action="store_true", help="print the commit and the files as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the card and upload; return the exit code."""
    from zipasr.hub.card import CardFacts, model_card, read_results
    from zipasr.hub.publication import collect, publish
    from zipasr.hub.reference import PREFIX, parse_reference
    from zipasr.progress import write_line

    if parse_reference(f"{PREFIX}{args.repository}") != (args.repository, "main", ""):
        raise ConfigError(f"the repository must be OWNER/NAME, but is {args.repository!r}; revisions are not pushed to")
    publication = collect(args.model)
    facts = CardFacts(
        repository=args.repository,
        languages=tuple(args.language or ()),
        license=args.license or "",
        datasets=tuple(args.dataset or ()),
        training_data=args.training_data or "",
        recipe=args.recipe or "",
        limits=args.limits or "",
        base_model=publication.base_model,
        settings=publication.settings,
        results=read_results(args.results or ()),
        other_programs=publication.readme,
    )
    card = model_card(facts, publication.description)
    for name, flag in facts.missing().items():
        write_line(f"zipasr: the card does not state the {name}; state it with {flag}")
    sizes = {"README.md": len(card.encode()), **publication.sizes()}
    plan = {"files": sizes, "card": card}
    if args.dry_run:
        print(json.dumps(plan) if args.json else f"{_listing(sizes)}\n\n{card}")
        return 0
    done = publish(
        publication,
        card,
        args.repository,
        is_private=args.private,
        replaces_card=args.replace_card,
        message=args.message or "Upload a model with zipasr",
    )
    if args.json:
        print(json.dumps({"repository": args.repository, "commit": done.commit, "url": done.url, **plan}))
    else:
        print(f"{_listing(sizes)}\n\n{done.url}\nload it: zipasr.load({f'{PREFIX}{args.repository}'!r})")
    return 0


def _listing(sizes: Mapping[str, int]) -> str:
    lines = [f"{_size(size):>10}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{_size(sum(sizes.values())):>10}  in all"])


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"
