#!/usr/bin/env python3
"""Converts trained parameters to effnet's weights file: tools/convert.py --help."""

import sys

if __name__ == "__main__":
    try:
        from effnet_convert.command_line import main
    except ModuleNotFoundError as error:
        # 69: EX_UNAVAILABLE, as in effnet_convert.errors, which cannot be imported either.
        sys.exit(
            print(
                f"convert.py: no Python package {error.name}: run it with .venv/bin/python", file=sys.stderr
            )
            or 69
        )
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(main())
