"""OpenAI's Responses API: requests, items and answers of our clients, and upstreams that speak it too."""
