"""The embedded demonstration: its data, a simulated annotator, and a real Label Studio."""
