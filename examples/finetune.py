"""Finetune a model on your recordings. First `zipasr prepare recordings --out data/mine`; then

    python examples/finetune.py exp/base data/mine exp/finetuned num_epochs=4 lr=0.005

The same from the command line:

    zipasr train data/mine --from exp/base --out exp/finetuned --set num_epochs=4 --set lr=0.005
"""

import sys
from pathlib import Path

from zipasr.recipes.configure import configure_run
from zipasr.train.loop import train


def main(base: str, data: str, out: str, *settings: str) -> None:
    config, notes = configure_run(data, settings, Path(out), checkpoint=base)
    for note in notes:  # what was chosen from the data, and why
        print(note, file=sys.stderr)
    report = train(config, Path(out))  # continues a run that was stopped
    print(f"{report.folder / 'model'}: dev WER {report.wer:.2f} %")


if __name__ == "__main__":
    main(*sys.argv[1:])
