"""Run the `authsvc` command as `python -m authsvc`."""

from authsvc.cli.main import main

main()
