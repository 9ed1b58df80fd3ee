"""URLs of documents: how one is read, the hosts that may be fetched from, and the addresses that may be connected to."""
