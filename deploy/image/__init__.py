"""`make image`: assembles the container image from Debian's packages and the locked wheels.

It needs apt and a package index, but no daemon, no base image, no registry and no privileges.
"""
