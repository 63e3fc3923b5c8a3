"""`python -m chatvec_lab VERB`; the verbs are in `chatvec_lab.command`."""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # While modules are imported there is nothing to stop: Ctrl-C ends it without a traceback. See `told_of_sigterm`.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from chatvec_lab.command.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
