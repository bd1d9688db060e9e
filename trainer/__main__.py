"""`python -m trainer`: see `trainer/cli.py` for the verbs."""

import sys

from shared.runtime import tune_process

tune_process(keep_freed_memory=True)

from trainer.cli import main

sys.exit(main())
