"""What other code bases compute: rules that the paper's own way leaves out.

``official`` is the authors' release (princeton-vl/CornerNet), ``mmdet`` MMDetection. Importing
this registers them under the names that MODEL.CORNERNET.LOSS.CONVENTION and
MODEL.CORNERNET.TEST.CONVENTION take.
"""

from . import (  # noqa: F401
    mmdet_criterion,
    mmdet_inference,
    official_criterion,
    official_inference,
)
