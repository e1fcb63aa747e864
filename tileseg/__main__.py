"""``python -m tileseg``: the same as ``tileseg``."""

from tileseg.cli.main import main

if __name__ == "__main__":
    main()
