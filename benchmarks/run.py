"""Run the benchmarks that ``benchmarks/RESULTS.md`` states, one after the other.

    python benchmarks/run.py               # all, about three quarters of an hour
    python benchmarks/run.py around start  # some

Each is a script of its own with its own ``--help``; machines are noisy, so run them on a calm one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SCRIPTS = {
    "start": [],
    "exactness": ["--full"],
    "polygons": [],
    "memory": ["--embedded"],
    "around": [],
    "network": [],
    "peer": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SCRIPTS], help="which; all where none is named")
    failed = []
    for name in parser.parse_args().names or SCRIPTS:
        script = Path(__file__).with_name(f"{name}.py")
        print(f"\n## {name}\n", flush=True)
        if subprocess.run([sys.executable, str(script), *SCRIPTS[name]], check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
