"""Owns `authsvc doctor`: checks of a deployment, from inside and with the service's own settings.

A check is a function in `table.py`, which names them all; `running.py` runs them.
"""
