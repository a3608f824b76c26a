"""The values of the domain, one module a topic: frozen, typed, and the same in every layer."""
