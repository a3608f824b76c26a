"""Owns `authsvc top`: a live view of the replicas, from nothing but their metrics."""
