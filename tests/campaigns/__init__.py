"""Campaigns: many faults of one kind, short among the tests, long by one command (`python -m tests.campaigns --long`)."""
