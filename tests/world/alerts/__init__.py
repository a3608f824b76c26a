"""Each alert by its real fault; `test_alerts.py` has all of them happen at the same time."""
