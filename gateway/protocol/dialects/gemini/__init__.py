"""Google's generateContent API, as Gemini and Vertex AI speak it."""
