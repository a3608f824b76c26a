"""Owns the start of the `authsvc` command, also as `python -m authsvc`."""

import sys


def main() -> None:
    """Run the command that the arguments name; without the service's packages, say how to get them.

    They are an extra: what other services import, `authsvc.client`, doesn't need them.
    """
    try:
        from authsvc.cli.main import main as run  # noqa: PLC0415 - may be missing

        run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "authsvc":
            raise
        sys.stderr.write(
            f"error: {error.name} is missing: pip install 'authsvc[server]' installs the service\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        # While it was being imported, which takes a second; afterwards, the command's own matter.
        sys.exit(130)


if __name__ == "__main__":
    main()
