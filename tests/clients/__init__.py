"""Contract tests with the clients that people use, unmodified, against a running service. `make test-clients` runs them.

`families/` names what is installed, `install.py` installs it under build/clients, `scripts/` uses it, and the tests say what
must come of it. Clients whose dependencies contradict each other are of different families, each with its own environment.
"""
