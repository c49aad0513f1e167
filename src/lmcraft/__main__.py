import sys

from lmcraft.cli import main

sys.exit(main())
