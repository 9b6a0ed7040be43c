import sys

from .errors import FlexEditError
from .packages import needed

try:
    with needed("click"):
        from .cli import main
except FlexEditError as error:
    print(f"flexedit: {error}", file=sys.stderr)
    sys.exit(2)

sys.exit(main())
