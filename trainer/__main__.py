"""`python -m trainer`: see `trainer/cli.py` for the verbs."""

import sys

from shared.runtime import tune_process

tune_process(keep_freed_memory=True)

from trainer.cli import main  # noqa: E402  after the process is tuned

sys.exit(main())
