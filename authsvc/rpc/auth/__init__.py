"""The handlers of AuthService, one module for each topic."""
