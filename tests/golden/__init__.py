"""Inputs and results that a person can read, see cases.py."""
