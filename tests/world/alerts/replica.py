"""Runs `authsvc` with metrics as fresh as tests with divided times need them."""

from authsvc.__main__ import main
from authsvc.app import web

# As a second is divided as well.
web._METRICS_SECONDS = 0.3

if __name__ == "__main__":
    main()
