"""`raymill demo`: a first run on text that is installed on this machine."""
