"""A model behind an endpoint with OpenAI's interface, to try it: the verb `raymill answer`."""
