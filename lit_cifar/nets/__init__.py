"""Networks, one a file. A net keeps its constructor's arguments as attributes of the same names."""
