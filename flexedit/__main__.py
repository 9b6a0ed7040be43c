import sys

from .errors import FlexEditError
from .packages import needed


def main() -> int:
    try:
        with needed("click"):
            from . import cli
    except FlexEditError as error:
        print(f"flexedit: {error}", file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
