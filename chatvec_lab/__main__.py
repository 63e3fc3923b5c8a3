"""`python -m chatvec_lab VERB`; the verbs are in `chatvec_lab.command`."""

import sys

try:
    from chatvec_lab.command.main import main

    if __name__ == "__main__":
        sys.exit(main())
except KeyboardInterrupt:  # before or after there is anything to stop
    sys.exit(130)
