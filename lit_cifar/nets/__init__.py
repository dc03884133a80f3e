"""Networks, one a file. A network keeps its constructor's arguments as attributes of the same names."""
