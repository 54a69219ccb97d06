"""The quick start's error rates: what `scripts/quickstart` trains and evaluates, for one or several seeds.

    zipasr prepare prompts --out data/prompts
    python benchmarks/quickstart.py --seeds 42 1 2 --out exp

A run of the recipe's seed lies in OUT/quickstart, as scripts/quickstart has it, those of other seeds in
OUT/quickstart-SEED. A finished one is not trained again.
"""

import argparse
from pathlib import Path

from machine import RESULTS, origin, write
from own_data import RECIPE_SEED, measure, train


def main() -> None:
    """Train what is missing, evaluate, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/prompts"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[RECIPE_SEED])
    parser.add_argument("--out", type=Path, default=Path("exp"))
    parser.add_argument("--json", type=Path, default=RESULTS / "quickstart.json")
    args = parser.parse_args()
    head, rows = origin(), []
    for seed in args.seeds:
        run = args.out / ("quickstart" if seed == RECIPE_SEED else f"quickstart-{seed}")
        command = train("prompts", args.data, run, seed, None)
        rows.append(measure("prompts", args.data, run, seed, command))
        test = rows[-1]["test"]
        print(f"seed {seed}: {rows[-1]['default']}: {test['wer']:.1f} % WER, {test['cer']:.1f} % CER")
        write(args.json, head, {"rows": rows})


if __name__ == "__main__":
    main()
