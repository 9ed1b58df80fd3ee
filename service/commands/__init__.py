"""The commands of the command line beside `serve`: doctor, demo and training."""
