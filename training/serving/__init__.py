"""The verb `raymill answer`: serves a model with OpenAI's interface, to try it."""
