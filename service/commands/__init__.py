"""The commands of the command line beside `serve`: rank, doctor, keys, demo and training."""
