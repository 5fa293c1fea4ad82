"""`python -m tests.deploy`: every check of the manifests with the broken case it catches. `write`: writes k8s/."""

import sys

from tests.deploy.checks import CHECKS
from tests.deploy.written import write


def main() -> None:
    if sys.argv[1:] == ["write"]:
        write()
        return
    for number, check in enumerate(CHECKS, start=1):
        print(f"{number:2}. {check.what}")
        for broken in check.broken:
            print(f"      catches: {broken.what}")


if __name__ == "__main__":
    main()
