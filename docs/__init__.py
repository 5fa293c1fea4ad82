"""The documentation: its pages, and the program that makes a site of them and of the guides beside the code."""
