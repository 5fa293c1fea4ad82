"""Prompts with examples: chosen, asked, scored and compared."""
