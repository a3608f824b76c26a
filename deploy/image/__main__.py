"""`make image` builds the container image of this checkout; `make image-lock` renews its lock."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.image import debian, recipe
from deploy.image.apt import AptError
from deploy.image.build import LOCK, ROOT, Source, build, package_names
from deploy.image.errors import ImageError


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image", description=__doc__)
    parser.add_argument("action", choices=["build", "lock"], nargs="?", default="build")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="a folder (dist)")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".venv" / "image", help="a folder for downloads"
    )
    options = parser.parse_args(arguments)
    try:
        if options.action == "lock":
            options.cache.mkdir(parents=True, exist_ok=True)
            names = package_names(recipe.this_machine())
            debian.write_lock(LOCK, names, release=recipe.RELEASE, cache=options.cache)
            print(f"Locked {len(names)} packages of Debian {recipe.RELEASE}.")
            return 0
        built = build(options.output, cache=options.cache, source=Source.of_checkout())
    except (ImageError, AptError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    mega = 1_000_000
    print(f"{built.archive}\n  digest {built.digest}")
    print(f"  {built.size / mega:.0f} MB unpacked, {built.compressed / mega:.0f} MB compressed")
    print(f"  bill of materials: {built.bill}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
