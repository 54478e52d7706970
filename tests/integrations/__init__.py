"""Tests of what other people's trainers do with supervised nets: against the libraries themselves."""
