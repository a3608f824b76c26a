"""The handlers of AccountService, one module for each topic."""
