"""`python -m service` with at most 256 open files, which a limit of the shell or of a container would set."""

import resource
import sys

from service.cli import main

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    sys.exit(main(["serve", *sys.argv[1:]]))
