"""OpenAI's chat completions, completions, embeddings and model list."""
