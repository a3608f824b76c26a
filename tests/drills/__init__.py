"""Drills: runs of minutes to hours that show what no short test can."""
