"""The OpenAI-compatible front of a service: request → class → pool → instance, streams passed through untouched."""
