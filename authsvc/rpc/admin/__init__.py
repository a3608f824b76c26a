"""The handlers of AdminService, one module for each topic."""
