"""Mutated documents and requests against the real raster pool and the real service. `make fuzz` runs it for minutes.

    FUZZ_SECONDS   time for each test: seconds in `make test`, 300 in `make fuzz`; 7200 for a night
    FUZZ_SEED      of the mutations; `make fuzz` takes a new one, and prints it
    FUZZ_CASES     numbers of cases, such as 812 or 800-812: those alone, from the seed, whatever the time

A failure is kept in build/fuzz under the hash of its input, with a file beside it that says how it was made and answered.
"""
