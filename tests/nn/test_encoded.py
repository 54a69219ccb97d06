"""`Encoded`. Law: joined batches have the utterances of each, in order."""

import torch

from zipasr.nn.encoded import Encoded, join_batches


def test_joined_batches_have_all_utterances() -> None:
    lens = [[3, 1], [5], [2, 2, 1]]
    batches = [Encoded(torch.randn(len(own), max(own), 4), torch.tensor(own)) for own in lens]
    joined = join_batches(batches)
    assert joined.frames.shape == (6, 5, 4)
    assert joined.lens.tolist() == [3, 1, 5, 2, 2, 1]
    rows = [batch.frames[n, :length] for batch in batches for n, length in enumerate(batch.lens.tolist())]
    for n, row in enumerate(rows):
        assert torch.equal(joined.frames[n, : len(row)], row)
    assert join_batches(batches[:1]) is batches[0]
