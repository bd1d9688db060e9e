"""`python -m trainer`: OpenMP's idle threads must sleep, not spin, and that is decided before torch loads."""

import os
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from trainer.cli import main

sys.exit(main())
