"""The commands of the command line beside `serve`: rank, doctor, demo and training."""
