"""From what people have (recordings with texts, manifests, published corpora, prompts) to cuts that training reads."""

from zipasr.prepare.config import PrepareConfig
from zipasr.prepare.preparation import prepare
from zipasr.prepare.references import References, open_references
from zipasr.prepare.report import PrepareReport
from zipasr.prepare.validate import Limits

__all__ = ["Limits", "PrepareConfig", "PrepareReport", "References", "open_references", "prepare"]
