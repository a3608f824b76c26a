"""Owns the randomness that spreads load: pauses and lifetimes, nothing secret."""

import random

# A generator of its own: tests may depend on the state of the one that all modules share.
JITTER = random.SystemRandom()
