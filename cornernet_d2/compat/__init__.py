"""What other code bases compute: rules that the paper's own way leaves out.

``official`` is the authors' release (princeton-vl/CornerNet), ``mmdet`` MMDetection. Importing
this registers them under the names that MODEL.CORNERNET.TEST.CONVENTION takes.
"""

from . import mmdet_inference, official_inference  # noqa: F401
