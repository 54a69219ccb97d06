"""The default search of a folder of graphs: `search_of_graphs`, that of the model without its attention decoder."""

import dataclasses

from zipasr.search.default_search import DefaultSearch
from zipasr.search.strategy import CTC_METHODS, TRANSDUCER_METHODS, SearchConfig


def search_of_graphs(default: DefaultSearch | None) -> DefaultSearch | None:
    """The default search of a model, or in place of one that needs the attention decoder the best that the graphs can run.

    That is the best of the others that it was compared with, or else the one that finds what the attention decoder rescores.
    """
    if default is None or default.search.method != "attention_rescoring":
        return default
    unscaled = dataclasses.replace(default.search, method="ctc_beam", attention_scale=SearchConfig().attention_scale)
    rates = {search: rate for search, rate in default.rates().items() if search.method != "attention_rescoring"}
    return dataclasses.replace(default, search=min(rates, key=lambda search: rates[search], default=unscaled))


def search_of_head(default: DefaultSearch | None, head: str) -> SearchConfig | None:
    """The default search of a folder where it uses a head; None: it does not.

    Args:
        default: that of the folder of graphs.
        head: transducer or ctc.
    """
    methods = TRANSDUCER_METHODS if head == "transducer" else CTC_METHODS
    return default.search if default is not None and default.search.method in methods else None
