"""Which image next: acquisition, diversity, and the order that Label Studio serves."""
