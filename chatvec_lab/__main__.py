"""`python -m chatvec_lab VERB`; the verbs are in `chatvec_lab.command`."""

import gc
import sys

try:
    from chatvec_lab.command.main import main

    if __name__ == "__main__":
        status = main()
        gc.freeze()  # the end of the process needs no last search for garbage
        sys.exit(status)
except KeyboardInterrupt:  # before or after there is anything to stop
    sys.exit(130)
