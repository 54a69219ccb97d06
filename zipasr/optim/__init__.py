"""Optimizers and learning-rate schedules; see scaled_adam.py, eden.py, noam.py and groups.py."""

from zipasr.optim.eden import Eden, Eden2, eden2_factor, eden_factor
from zipasr.optim.groups import parameter_groups
from zipasr.optim.noam import Noam, noam_factor
from zipasr.optim.scaled_adam import ScaledAdam

__all__ = ["Eden", "Eden2", "Noam", "ScaledAdam", "eden2_factor", "eden_factor", "noam_factor", "parameter_groups"]
