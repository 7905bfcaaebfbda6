"""One policy a file, interchangeable behind ``Policy``: an observation in, the plan that should be in force out."""
