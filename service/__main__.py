"""`python -m service`: serve a checkpoint over HTTP until SIGTERM or Ctrl-C; `python -m service ask`: one
question without a server."""

import logging
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp

from service import ask
from service.settings import Settings, print_problems
from shared.runtime import tune_process


def main() -> int:
    """Returns the exit code: 0 after a clean end, 1 if the service could not start, 2 for a bad setting."""
    if sys.argv[1:2] == ["ask"]:
        return ask.main(sys.argv[2:])
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:])
    except ValidationError as error:
        print_problems(error)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    tune_process(keep_freed_memory=False)
    from service.server import serve  # torch comes with it

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
