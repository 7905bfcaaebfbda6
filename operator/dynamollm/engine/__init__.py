"""A simulated inference engine with vLLM's API and metric names, timed and powered by the profile model."""
