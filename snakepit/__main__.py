"""``python -m snakepit``: the same command as ``snakepit``."""

import sys

from snakepit.cli import main

sys.exit(main())
