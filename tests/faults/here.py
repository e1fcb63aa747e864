"""``python here.py ARGUMENTS``: the command line, whose own process notes the blocks that it computes, and falls ill.

See :mod:`faults.afflict`, which Dask loads in worker processes only.
"""

import afflict

from tileseg.cli.main import main

if __name__ == "__main__":
    afflict.dask_setup(None)
    main()
