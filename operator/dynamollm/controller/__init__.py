"""The operator's process: observe, call the core, act, report. Nothing is decided here."""
