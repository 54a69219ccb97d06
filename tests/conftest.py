"""What all tests share: the English telephone prompts, fetched once and kept between runs."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

from zipasr.errors import DataError

REPOSITORY = Path(__file__).parents[1]

# Tensors are small here and threads would mostly wait for each other: on a busy machine, eight times as long as one alone.
torch.set_num_threads(1)

# A busy machine is no failure: no example fails for being slow.
hypothesis.settings.register_profile("zipasr", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("zipasr")


@pytest.fixture(scope="session")
def prompts_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `zipasr prepare prompts` writes, made anew from recordings that are downloaded only once.

    They are kept in `$ZIPASR_CACHE`, or in `.cache` of the repository. Skips where they cannot be fetched.
    """
    from zipasr.data.prepare import prepare

    out = tmp_path_factory.mktemp("prompts_en")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZIPASR_CACHE", os.environ.get("ZIPASR_CACHE") or str(REPOSITORY / ".cache"))
        try:
            prepare("prompts", out)
        except DataError as error:
            pytest.skip(f"no prompts: {error}")
    return out
