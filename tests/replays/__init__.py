"""Requests of platforms and stores, replayed against the service; their answers are read as those programs read them.

A module of a program has its requests as its source builds them (method, path, headers, body) and a function that reads an
answer with the checks of that source, written anew in Python. The docstring names the file that it follows. Nothing of these
programs is installed. Clients that can be installed are run unmodified in tests/clients.
"""
