"""Weights of other systems in and out: readers (lazy), rules (tables, exact cover), families, writers."""
