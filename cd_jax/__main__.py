"""`python -m cd_jax`."""

import sys

from cd_jax.cli import main

sys.exit(main())
