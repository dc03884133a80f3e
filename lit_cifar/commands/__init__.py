"""The commands of our own beside Lightning's, one a file: each has `main(argv)`."""
