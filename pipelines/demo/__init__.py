"""`raymill demo` and `raymill prepare-demo`: first runs on text that is installed on this machine."""
