"""The ``dynamollm`` command. Parses, calls, prints; heavy imports happen inside the commands that need them."""
