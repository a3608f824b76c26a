"""The database side: SQL constants beside the functions that run them."""
