"""What other code bases compute, a folder each: rules that the paper's own way leaves out.

Importing this registers them under the names that MODEL.CORNERNET.LOSS.CONVENTION and
MODEL.CORNERNET.TEST.CONVENTION take.
"""

from . import centernet, centripetalnet, mmdet, official  # noqa: F401
