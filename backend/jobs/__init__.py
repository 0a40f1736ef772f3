"""The use cases that take time, and the engine that runs them in processes of their own."""
