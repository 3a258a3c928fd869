"""The screen: what a person sees of a run and steers it with."""
