"""What other code bases compute, where it differs: subclasses, registered by name.

``official`` is the authors' release (princeton-vl/CornerNet), ``mmdet`` MMDetection.
"""

from . import mmdet, official  # noqa: F401
