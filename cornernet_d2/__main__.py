"""``python -m cornernet_d2``: the same as the command ``cornernet``."""

import sys

from .tools.command import main

if __name__ == "__main__":
    sys.exit(main())
