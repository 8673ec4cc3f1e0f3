"""`python -m xyscan_cli` is `xyscan`."""

from __future__ import annotations

from xyscan_cli.app import main

if __name__ == "__main__":
    main()
