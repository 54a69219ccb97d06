"""The default search of a folder of graphs: `search_of_graphs`, that of the model without its attention decoder."""

import dataclasses

from zipasr.search.default_search import DefaultSearch
from zipasr.search.strategy import CTC_METHODS, TRANSDUCER_METHODS, SearchConfig


def search_of_graphs(default: DefaultSearch | None) -> DefaultSearch | None:
    """The default search of a model, or in place of one that needs the attention decoder the best that the graphs can run.

    That is the search of streams, which was compared, or else the one that finds what the attention decoder rescores.
    """
    if default is None or default.search.method != "attention_rescoring":
        return default
    unscaled = dataclasses.replace(default.search, method="ctc_beam", attention_scale=SearchConfig().attention_scale)
    return dataclasses.replace(default, search=default.streaming or unscaled, streaming=None)


def searches_of_head(default: DefaultSearch | None, head: str) -> tuple[SearchConfig | None, SearchConfig | None]:
    """The default searches of a folder, of recordings and of streams, where they use one head; None: they do not.

    Args:
        default: that of the folder of graphs.
        head: transducer or ctc.
    """
    methods = TRANSDUCER_METHODS if head == "transducer" else CTC_METHODS
    search, streaming = (None, None) if default is None else (default.search, default.streaming)
    return (
        search if search is not None and search.method in methods else None,
        streaming if streaming is not None and streaming.method in methods else None,
    )
