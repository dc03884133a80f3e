"""Images from disk, network or drawn by code, and batches of them on the device."""
