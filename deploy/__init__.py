"""How authsvc is released and deployed."""
