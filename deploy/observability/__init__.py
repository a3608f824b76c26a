"""The recording rules, alerts and dashboards of authsvc, and their generator.

`python -m deploy.observability` compares the committed files with what this package describes;
with `--write` it writes them.
"""
